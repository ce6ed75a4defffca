"""Contract of a flow: every constructor in the table is a normalised, invertible density, in float32 and float64.

The density suite compares log q with three things that share no code with it: the autodiff Jacobian of z -> x, the integral of q
over a grid, and a solve with eight times as many steps.
"""

import contextlib
import functools
import inspect
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from fusions.flows import transport
from fusions.flows.base import Flow
from fusions.flows.cnf import CNF
from fusions.flows.matching import whiten
from fusions.flows.network import PRECISION
from fusions.types import Space

N = 512
FITS = 12
LINE, CIRCLE = False, True

TABLE = {
    "default": (CNF(), (LINE, LINE)),
    "mixed": (CNF(), (LINE, CIRCLE)),
    "line": (CNF(width=32, depth=2), (LINE,)),
    "circle": (CNF(width=32, depth=2), (CIRCLE,)),
    "five": (CNF(width=32), (LINE,) * 5),
}
every = pytest.mark.parametrize("name", TABLE)


def make_space(periodic):
    """Make the space of a standard normal prior on lines and a uniform one on circles."""
    circle = np.array(periodic)

    def logprior(x):
        return jnp.sum(jnp.where(circle, -np.log(2 * np.pi).astype(x.dtype), -0.5 * x**2 - 0.5 * np.log(2 * np.pi).astype(x.dtype)), -1)

    return Space(len(periodic), periodic, logprior)


def target(periodic, seed=0):
    """Draw N points that are curved on lines, skewed on a line alone, two-humped and across the cut on circles."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(N, len(periodic)))
    if periodic == (LINE,):
        x = np.log1p(np.exp(2 * x)) - 1
    elif len(periodic) > 1:
        x[:, 1:] = 0.3 * x[:, 1:] + 0.5 * (x[:, :1] ** 2 - 1)
    for i in np.flatnonzero(periodic):
        x[:, i] = np.where(rng.random(N) < 0.7, 3.0, 1.0) + 0.4 * rng.normal(size=N)
    return np.asarray(make_space(periodic).wrap(x), np.float32)


class Case(NamedTuple):
    """A flow of the table with its compiled functions, untrained and trained states, and the reports of its fits."""

    space: Space
    flow: Flow
    push: Any
    pull: Any
    fit: Any
    fresh: Any
    state: Any
    infos: list
    x: Any


@functools.cache
def case(name):
    """Train the flow `name` by warm-started fits, once for all tests."""
    settings, periodic = TABLE[name]
    space = make_space(periodic)
    flow = settings.build(space)
    fit, x = jax.jit(flow.fit), jnp.asarray(target(periodic))
    fresh = flow.init(jax.random.key(1))
    state, infos = fresh, []
    for key in jax.random.split(jax.random.key(2), FITS):
        state, info = fit(key, state, x, jnp.ones(N))
        infos.append(info)
    return Case(space, flow, jax.jit(flow.push), jax.jit(flow.pull), fit, fresh, state, infos, x)


def latent(space, n=N, seed=3):
    return jax.random.normal(jax.random.key(seed), (n, space.dim))


def precision(dtype):
    """Return a context in which jax's default float is dtype."""
    if dtype == "float32":
        return contextlib.nullcontext()
    x64 = jax.enable_x64 if hasattr(jax, "enable_x64") else jax.experimental.enable_x64
    return x64(*[True])


def in_float64(tree):
    """Cast the floats of a tree to float64."""
    cast = lambda a: jnp.asarray(np.asarray(a, np.float64)) if jnp.issubdtype(a.dtype, jnp.floating) else a  # noqa: E731
    return jax.tree.map(cast, tree)


def periods(c):
    """Return the period (d,) of each latent coordinate, inf on lines."""
    return np.where(c.space.periodic, 2 * np.pi / np.diag(np.asarray(c.state.scale)), np.inf)


def turns_removed(delta, period):
    """Bring differences (n, d) to the shorter way round."""
    finite = np.isfinite(period)
    return np.where(finite, delta - np.where(finite, period, 1) * np.round(delta / np.where(finite, period, 1)), delta)


@every
def test_signatures(name):
    """Signatures are law: key first, state second."""
    expected = {"init": ["key"], "fit": ["key", "state", "x", "weights"], "push": ["state", "z"], "pull": ["key", "state", "x"]}
    expected |= {"move": ["key", "state", "points", "backward"]}
    settings, periodic = TABLE[name]
    flow = settings.build(make_space(periodic))
    assert isinstance(flow, Flow)
    assert {f: list(inspect.signature(getattr(flow, f)).parameters) for f in Flow._fields} == expected


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@every
def test_dtype_and_shapes(name, dtype):
    """All outputs have the precision in force, also under strict promotion of types; the network alone is in single precision."""
    settings, periodic = TABLE[name]
    d = len(periodic)
    with precision(dtype):
        flow = settings.build(make_space(periodic))
        key = jax.random.key(0)
        state = jax.eval_shape(flow.init, key)
        x, w = jax.ShapeDtypeStruct((8, d), dtype), jax.ShapeDtypeStruct((8,), dtype)
        fitted, info = jax.eval_shape(flow.fit, key, state, x, w)
        with jax.numpy_dtype_promotion("strict"):  # optax mixes types inside of a fit
            out = jax.eval_shape(flow.push, state, x), jax.eval_shape(flow.pull, key, state, x)
    signature = lambda tree: jax.tree.map(lambda a: (a.shape, a.dtype), tree)  # noqa: E731
    assert signature(fitted) == signature(state)
    assert signature(out) == (((((8, d), np.dtype(dtype)), ((8,), np.dtype(dtype))),) * 2)
    assert signature(tuple(info)) == (((), np.dtype(dtype)),) * 3
    learned = jax.tree.leaves((state.params, state.ema_params, state.opt_state))
    assert {a.dtype for a in learned if jnp.issubdtype(a.dtype, jnp.floating)} == {np.dtype(PRECISION)}
    assert state.shift.dtype == state.scale.dtype == dtype


@every
def test_untrained_flow_is_the_whitened_normal(name):
    """Before any fit x = shift + A z with A the whitening, and log q is the (wrapped) normal density."""
    c = case(name)
    shift, scale = whiten(c.x, jnp.ones(N), c.space.periodic)
    z = latent(c.space)
    for state in (c.fresh, c.fresh._replace(shift=shift, scale=scale)):
        x, logq = c.push(state, z)
        raw, centre, factor = (np.asarray(a, np.float64) for a in (x, state.shift, state.scale))
        ideal = centre + np.asarray(z, np.float64) @ factor.T
        circle = np.array(c.space.periodic)
        turn = np.where(circle, 2 * np.pi, np.inf)
        np.testing.assert_allclose(turns_removed(raw - ideal, turn), 0, atol=2e-5)
        expected = np.zeros(N)
        for i in np.flatnonzero(circle):
            k = 2 * np.pi * np.arange(-40, 41)
            expected += np.log(stats.norm.pdf(raw[:, i, None] + k, centre[i], factor[i, i]).sum(1))
        if not circle.all():
            rows = factor[~circle][:, ~circle]
            expected += stats.multivariate_normal(centre[~circle], rows @ rows.T).logpdf(raw[:, ~circle])
        np.testing.assert_allclose(logq, expected, rtol=1e-4, atol=1e-4)


@every
def test_logq_is_base_minus_jacobian(name):
    """log q(x) = log base(z) - ln|dx/dz| with the Jacobian of the map as it is coded, by autodiff."""
    c = case(name)
    z = latent(c.space, 128)
    basis = jnp.broadcast_to(jnp.eye(c.space.dim)[:, None], (c.space.dim, *z.shape))
    columns = jax.jit(jax.vmap(lambda v: jax.jvp(lambda u: c.flow.push(c.state, u)[0], (z,), (v,))[1]))(basis)
    sign, logdet = np.linalg.slogdet(np.moveaxis(np.asarray(columns, np.float64), 0, -1))
    k = np.arange(-20, 21)
    turned = np.where(np.isfinite(periods(c)), periods(c), 0) * k[:, None, None] + np.asarray(z, np.float64)
    terms = np.where(np.isfinite(periods(c)) | (k == 0)[:, None, None], stats.norm.pdf(turned), 0)
    base = np.log(terms.sum(0)).sum(1)
    assert np.all(sign > 0)
    np.testing.assert_allclose(c.push(c.state, z)[1], base - logdet, atol=4e-3)


def grid(c, n):
    """Lay a grid over the flow: circles whole, lines to far beyond the points; returns points (n**d, d) and the cell's volume."""
    axes, cell = [], 1.0
    for i, circle in enumerate(c.space.periodic):
        centre, width = float(c.state.shift[i]), 16.0 * float(jnp.linalg.norm(c.state.scale[i]))
        low, high = (-np.pi, np.pi) if circle else (centre - width, centre + width)
        axes.append(low + (high - low) * (np.arange(n) + 0.5) / n)
        cell *= (high - low) / n
    mesh = np.stack([a.ravel() for a in np.meshgrid(*axes, indexing="ij")], axis=-1)
    return jnp.asarray(mesh, jnp.float32), cell


@pytest.mark.parametrize("name", ["line", "circle", "default", "mixed"])
def test_density_integrates_to_one(name):
    """The trained density, summed over a grid, is 1 within 1e-3."""
    c = case(name)
    x, cell = grid(c, 3000 if c.space.dim == 1 else 320)
    _, logq = c.pull(jax.random.key(0), c.state, x)
    q = np.exp(np.asarray(logq, np.float64))
    assert abs(q.sum() * cell - 1) < 1e-3
    whitened_normal = np.exp(np.asarray(c.pull(jax.random.key(0), c.fresh._replace(shift=c.state.shift, scale=c.state.scale), x)[1]))
    assert 0.5 * np.abs(q - whitened_normal).sum() * cell > 0.03, "the flow has learned nothing, so the test says nothing"


@every
def test_pull_undoes_push(name):
    """pull(push(z)) = z up to whole turns, push(pull(x)) = x, and both give the same log q."""
    c = case(name)
    z = latent(c.space)
    x, logq = c.push(c.state, z)
    back, logq_back = c.pull(jax.random.key(5), c.state, x)
    np.testing.assert_allclose(turns_removed(np.asarray(back - z), periods(c)), 0, atol=3e-3)
    np.testing.assert_allclose(logq_back, logq, atol=6e-3)
    z, logq = c.pull(jax.random.key(6), c.state, c.x)
    x, logq_forth = c.push(c.state, z)
    turn = np.where(c.space.periodic, 2 * np.pi, np.inf)
    np.testing.assert_allclose(turns_removed(np.asarray(x - c.x), turn) / np.diag(np.asarray(c.state.scale)), 0, atol=3e-3)
    np.testing.assert_allclose(logq_forth, logq, atol=6e-3)


@pytest.mark.parametrize("name", ["circle", "mixed"])
def test_pull_draws_winding_numbers(name):
    """Latents pulled from the flow's own draws are normal again, winding numbers included."""
    c = case(name)
    fresh = c.fresh
    x, _ = c.push(fresh, jax.random.normal(jax.random.key(7), (4000, c.space.dim)))
    z, _ = c.pull(jax.random.key(8), fresh, x)
    assert np.abs(np.asarray(z)).max() > 2.5, "a latent angle is not confined to one turn"
    for column in np.asarray(z, np.float64).T:
        assert stats.kstest(column, "norm").pvalue > 1e-4


@pytest.mark.parametrize("name", ["circle", "mixed"])
def test_angles_are_in_range(name):
    """Angles come out in [-pi, pi), also for latents many turns away and on the cut."""
    c = case(name)
    half_turn = np.float32(np.pi)
    x = np.asarray(c.push(c.state, 10 * latent(c.space, 2048))[0])[:, np.array(c.space.periodic)]
    assert np.all((x >= -half_turn) & (x < half_turn))


def test_steps_of_the_solver_converge():
    """Errors against 32 steps fall with the number of steps, down to the digits of the network; the default's stays below a bound."""
    c, (settings, _) = case("mixed"), TABLE["mixed"]
    z = np.asarray(latent(c.space, 256), np.float64)
    with precision("float64"):
        state, z = in_float64(c.state), jnp.asarray(z)

        def solve(steps):
            flow = CNF(settings.width, settings.depth, ode_steps=steps).build(c.space)
            x, logq = jax.jit(flow.push)(state, z)
            return np.asarray(x), np.asarray(logq)

        x_best, logq_best = solve(32)
        errors = {}
        for steps in (2, 4, 8, 16):
            x, logq = solve(steps)
            delta = turns_removed(x - x_best, np.where(c.space.periodic, 2 * np.pi, np.inf)) / np.diag(np.asarray(state.scale))
            errors[steps] = float(np.abs(delta).max()), float(np.abs(logq - logq_best).max())
    default = CNF().ode_steps
    assert errors[default][0] < 3e-3, errors
    assert errors[default][1] < 6e-3, errors
    for few, many in ((2, 4), (4, 8), (8, 16)):
        assert errors[many][0] < max(errors[few][0] / 4, 1e-6), errors
        assert errors[many][1] < max(errors[few][1] / 4, 1e-5), errors


def test_a_network_in_single_precision_does():
    """ln of the density by the network as it is, and by the same one in float64, differ by less than 1e-4."""
    c = case("five")
    with precision("float64"):
        double = in_float64(c.state)
        z = jnp.asarray(np.random.default_rng(0).normal(size=(256, 5)))
        states = double._replace(params=c.state.params, ema_params=c.state.ema_params), double
        (x, logq), (x_exact, exact) = (jax.jit(c.flow.push)(state, z) for state in states)
    assert x.dtype == logq.dtype == np.float64
    np.testing.assert_allclose(x, x_exact, atol=1e-5)
    assert 0 < np.abs(logq - exact).max() < 1e-4


def test_divergence_is_the_trace_of_the_jacobian():
    matrix = jax.random.normal(jax.random.key(0), (5, 5))
    field = lambda w: jnp.sin(w @ matrix.T) + 0.1 * w**3  # noqa: E731
    w = jax.random.normal(jax.random.key(1), (6, 5))
    v, exact = transport.with_divergence(field, w)
    jacobian = jax.vmap(jax.jacfwd(lambda row: field(row[None])[0]))(w)
    np.testing.assert_allclose(exact, np.trace(jacobian, axis1=1, axis2=2), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(v, field(w), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["default", "mixed", "five"])
@pytest.mark.parametrize("degenerate", ["constant", "line", "few"])
def test_degenerate_points_give_finite_densities(name, degenerate):
    """The whitening has a floor: constant, collinear and too few points leave an invertible flow."""
    c = case(name)
    x, weights = c.x, jnp.ones(N)
    if degenerate == "constant":
        x = jnp.broadcast_to(x[:1], x.shape)
    elif degenerate == "line":
        x = c.space.wrap(jnp.linspace(-1, 1, N)[:, None] * jnp.arange(1.0, c.space.dim + 1))
    else:
        weights = jnp.zeros(N).at[1:3].set(1.0)
    state, info = c.fit(jax.random.key(0), c.fresh, x, weights)
    assert np.all(np.diag(np.asarray(state.scale)) > 0)
    rows, logq = c.push(state, latent(c.space))
    _, logq_back = c.pull(jax.random.key(1), state, rows)
    for a in (rows, logq, logq_back, *jax.tree.leaves(state.ema_params), info.loss, info.held_out):
        assert np.all(np.isfinite(a))
    assert np.all(np.isfinite(c.pull(jax.random.key(1), state, x)[1]))


@every
def test_warm_starts_improve_the_fit(name):
    """Fits that go on from the last state lower the held-out loss, and raise log q on points never seen."""
    c = case(name)
    held = [float(info.held_out) for info in c.infos]
    assert np.mean(held[-3:]) < held[0], held
    unseen = jnp.asarray(target(c.space.periodic, seed=99))
    normal = c.fresh._replace(shift=c.state.shift, scale=c.state.scale)
    gain = np.asarray(c.pull(jax.random.key(0), c.state, unseen)[1] - c.pull(jax.random.key(0), normal, unseen)[1])
    assert gain.mean() > 0.02, gain.mean()


@pytest.mark.parametrize("name", ["default", "mixed"])
def test_rows_of_weight_zero_are_ignored(name):
    """A fit does not see rows of weight 0, and repeats itself bit for bit."""
    c = case(name)
    weights = jnp.ones(N).at[100:200].set(0.0)
    first, _ = c.fit(jax.random.key(0), c.state, c.x, weights)
    second, _ = c.fit(jax.random.key(0), c.state, c.x.at[100:200].set(1.5), weights)
    jax.tree.map(np.testing.assert_array_equal, first, second)
