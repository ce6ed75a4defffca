"""Contract of a kernel: every constructor in the table, on every space, leaves the prior above a contour as it is.

Chains start from exact draws of the prior above the contour and must still be such draws when the walk ends. The same walk around a
likelihood on the host must make the same numbers, bit for bit.
"""

import contextlib
import functools
import inspect
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusions import kernels
from fusions.flows.cnf import CNF
from fusions.flows.matching import Training
from fusions.kernels import Cycle, FlowKernel, HitAndRun, Jump, RandomWalk
from fusions.kernels import walk as walks
from fusions.kernels.base import Kernel, KernelInfo
from fusions.types import Population, Space, Walkers

CHAINS = 4000
POPULATION = 400
TUNES = 4
SIGMAS = 4.0
SMALL = CNF(width=16, depth=2, training=Training(steps=32))
FLOW, SLICE, STEPS = FlowKernel(n_moves=4, flow=SMALL), HitAndRun(n_slices=2), RandomWalk(n_moves=8)

TABLE = {
    "flow": FLOW,
    "slice": SLICE,
    "walk": STEPS,
    "jump": Jump(n_moves=4, components=6),
    "slide": Jump(n_moves=6, components=6, slides=0.7),
    "cycle": Cycle((FLOW, SLICE)),
}
PARTS = {"cycle": ("flow", "slice"), "mixture": ("walk", "slice")}
SPACES = {"line": (False, False), "mixed": (False, True)}
every = pytest.mark.parametrize(("name", "where"), [(name, where) for where in SPACES for name in TABLE])
THRESHOLD = {"line": np.float32(-1.0), "mixed": np.float32(0.25)}


def make_space(where):
    """Make the space of a normal prior on the line and a uniform one on the circle, with one derived parameter."""
    circle = np.array(SPACES[where])

    def logprior(x):
        normal = -0.5 * x**2 - jnp.asarray(0.5 * np.log(2 * np.pi), x.dtype)
        return jnp.sum(jnp.where(circle, -jnp.asarray(np.log(2 * np.pi), x.dtype), normal), axis=-1)

    return Space(2, SPACES[where], logprior, 1)


def loglikelihood(where, x):
    """Compute a polynomial in x (n, 2): off centre in the prior; on the circle it peaks at the cut."""
    if where == "line":
        return -((x[:, 0] - 1.0) ** 2) - (x[:, 1] + 0.5) ** 2
    return -((x[:, 0] - 1.0) ** 2) + 0.125 * x[:, 1] ** 2


def exact_draws(where, seed, n):
    """Draw n points from the prior above the contour, by rejection."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(20 * n + 200, 2))
    if SPACES[where][1]:
        x[:, 1] = rng.uniform(-np.pi, np.pi, len(x))
    x = x.astype(np.float32)
    above = x[np.asarray(loglikelihood(where, x)) > THRESHOLD[where]]
    assert len(above) >= n
    return above[:n]


def batch(where, *, walk_scale=1.0, active=None, n=CHAINS):
    """Make walkers at exact draws."""
    x = jnp.asarray(exact_draws(where, 1, n))
    logL = loglikelihood(where, x)
    active = jnp.ones(n, bool) if active is None else jnp.asarray(active)
    return Walkers(x, logL, 2 * logL[:, None], active, jnp.float32(walk_scale))


def on_the_host(where):
    """Make the likelihood as a black box that counts its rows; it is the compiled function at one padded size."""
    compiled = jax.jit(functools.partial(loglikelihood, where))
    seen = []

    def rows(x):
        seen.append(len(x))
        padded = np.concatenate([x, np.repeat(x[:1], CHAINS - len(x), axis=0)])
        logL = np.asarray(compiled(padded), np.float64)[: len(x)]
        return logL, 2 * logL[:, None]

    return rows, seen


class Case(NamedTuple):
    """A kernel of the table with its compiled walk and tuned params."""

    kernel: Kernel
    params: Any
    fused: Any


def blank(kernel, params, walkers):
    """Make the report before any walk, all nan."""
    shapes = jax.eval_shape(lambda key: kernel.finish(kernel.init(key, params, walkers))[1], jax.random.key(0))
    return jax.tree.map(lambda a: jnp.full(a.shape, jnp.nan, a.dtype), shapes)


def tuned(kernel, where, x):
    """Tune params on a population (m, 2), as often as a few levels would."""
    population = Population(jnp.asarray(x), jnp.ones(len(x)))
    params = kernel.init_params(jax.random.key(10), population)
    info, tune = blank(kernel, params, batch(where, n=8)), jax.jit(kernel.tune)
    for key in jax.random.split(jax.random.key(11), TUNES):
        params = tune(key, population, params, info)
    return params


@functools.cache
def case(name, where):
    """Build, tune on exact draws that no chain starts from, and compile one kernel, once for all tests."""
    kernel = TABLE[name].build(make_space(where))

    def inside(x, arrays):
        logL = loglikelihood(where, x)
        return logL, 2 * logL[:, None]

    fused = walks.fused(kernel, inside, lambda _, function: jax.jit(function))
    if name in PARTS:
        params = tuple(case(part, where).params for part in PARTS[name])
    else:
        params = tuned(kernel, where, exact_draws(where, 2, POPULATION))
    return Case(kernel, params, fused)


def scores(where, x):
    """Compute z-scores of moments of x (n, 2) against a large exact sample: the log L rank and its square, and coordinates."""
    exact = exact_draws(where, 3, 100_000)
    ranked = np.sort(np.asarray(loglikelihood(where, exact)))

    def columns(y):
        u = np.searchsorted(ranked, np.asarray(loglikelihood(where, y))) / len(ranked)
        y = np.asarray(y, np.float64)
        return np.stack([u, (u - 0.5) ** 2, y[:, 0], y[:, 0] ** 2, np.sin(y[:, 1]), np.cos(y[:, 1])], axis=1)

    a, b = columns(x), columns(exact)
    return (a.mean(0) - b.mean(0)) / np.sqrt(a.var(0) / len(a) + b.var(0) / len(b))


def test_every_kernel_is_in_the_table():
    """Joining the table is the admission test."""
    assert {type(settings).__name__ for settings in TABLE.values()} == set(kernels.__all__)


@every
def test_signatures(name, where):
    """Signatures are law: key first, the state second, no options."""
    expected = {
        "init_params": ["key", "population"],
        "tune": ["key", "population", "params"],
        "init": ["key", "params", "walkers"],
        "propose": ["key", "s"],
        "accept": ["s", "above"],
        "done": ["s"],
        "finish": ["s"],
    }
    kernel = TABLE[name].build(make_space(where))
    assert isinstance(kernel, Kernel)
    for function, names in expected.items():
        found = list(inspect.signature(getattr(kernel, function)).parameters)
        assert found[: len(names)] == names
        assert len(found) == len(names) + (function == "tune")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@every
def test_dtype_and_shapes(name, where, dtype):
    """States keep their structure and precision through propose and accept, under strict promotion of types."""
    n, x64 = 6, jax.enable_x64 if hasattr(jax, "enable_x64") else jax.experimental.enable_x64
    with x64(*[True]) if dtype == "float64" else contextlib.nullcontext():
        kernel, key = TABLE[name].build(make_space(where)), jax.random.key(0)
        row = jax.ShapeDtypeStruct((n,), dtype)
        x = jax.ShapeDtypeStruct((n, 2), dtype)
        flags, factor = jax.ShapeDtypeStruct((n,), bool), jax.ShapeDtypeStruct((), dtype)
        walkers = Walkers(x, row, jax.ShapeDtypeStruct((n, 1), dtype), flags, factor)
        params = jax.eval_shape(kernel.init_params, key, Population(x, row))
        state = jax.eval_shape(kernel.init, key, params, walkers)
        _, info = jax.eval_shape(kernel.finish, state)
        later = jax.eval_shape(kernel.tune, key, Population(x, row), params, info)
        with jax.numpy_dtype_promotion("strict"):
            proposed, x_new, wanted = jax.eval_shape(kernel.propose, key, state)
        accepted_state, accepted = jax.eval_shape(kernel.accept, proposed, flags)
        done = jax.eval_shape(kernel.done, state)
    signature = lambda tree: jax.tree.map(lambda a: (a.shape, a.dtype), tree)  # noqa: E731
    assert signature(later) == signature(params)
    assert signature(proposed) == signature(accepted_state) == signature(state)
    assert signature(x_new) == ((n, 2), np.dtype(dtype))
    assert signature((wanted, accepted, done)) == (((n,), np.dtype(bool)),) * 3
    infos = info.reports()
    assert all(isinstance(i, KernelInfo) for i in infos)
    assert all(a.shape == () and jnp.issubdtype(a.dtype, jnp.floating) for a in jax.tree.leaves(infos))


@every
def test_constrained_prior_is_invariant(name, where):
    """Walks that start from exact draws end in exact draws, and they do move."""
    c, walkers = case(name, where), batch(where, walk_scale=2.0)
    assert np.all(np.abs(scores(where, walkers.x)) < SIGMAS)
    out = c.fused(jax.random.key(20), c.params, walkers, THRESHOLD[where])
    assert out.moved.mean() > 0.8
    assert np.all(out.logL > THRESHOLD[where])
    np.testing.assert_allclose(out.logL, loglikelihood(where, out.x), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(out.x[~out.moved], walkers.x[~out.moved])
    np.testing.assert_array_equal(out.blobs[:, 0], 2 * out.logL)
    assert np.all(np.abs(scores(where, out.x)) < SIGMAS), scores(where, out.x)
    angles = out.x[:, np.array(SPACES[where])]
    assert np.all((angles >= -np.float32(np.pi)) & (angles < np.float32(np.pi)))


@pytest.mark.parametrize("where", SPACES)
@pytest.mark.parametrize("name", ["flow", "cycle"])
def test_bad_flow_is_only_slower(name, where):
    """A flow that learned the wrong points leaves the constrained prior as it is too."""
    c, alone, rng = case(name, where), case("flow", where), np.random.default_rng(5)
    wrong = (np.array([-0.5, 1.0]) + rng.normal(size=(POPULATION, 2)) * [0.8, 1.2]).astype(np.float32)
    params = tuned(alone.kernel, where, make_space(where).wrap(wrong))
    if name == "cycle":
        params = (params, *c.params[1:])
    walkers = batch(where, walk_scale=3.0)
    good = c.fused(jax.random.key(21), c.params, walkers, THRESHOLD[where])
    bad = c.fused(jax.random.key(21), params, walkers, THRESHOLD[where])
    first = lambda info: info.reports()[0]  # noqa: E731
    assert float(first(bad.info).accepted) < 0.75 * float(first(good.info).accepted)
    assert bad.moved.mean() > 0.1
    assert np.all(np.abs(scores(where, bad.x)) < SIGMAS), scores(where, bad.x)


@pytest.mark.parametrize(("name", "where"), [*((name, "mixed") for name in TABLE), ("slice", "line"), ("walk", "line")])
def test_hosted_equals_fused_and_padding_is_free(name, where):
    """Ask and tell makes the numbers of the compiled loop; padding rows stay; only wanted rows are asked for."""
    c = case(name, where)
    active = np.arange(CHAINS) % 5 != 0
    walkers, key = batch(where, active=active), jax.random.key(22)
    rows, seen = on_the_host(where)
    masks = []

    def compiled(label, function):
        run = jax.jit(function)

        def recorded(*args):
            out = run(*args)
            masks.append(np.asarray(out[2]))
            return out

        return recorded if label == "walk" else run

    fused = c.fused(key, c.params, walkers, THRESHOLD[where])
    hosted = walks.hosted(walks.steps_of(c.kernel, compiled), rows)(key, c.params, walkers, THRESHOLD[where])
    for field in ("x", "logL", "blobs", "moved", "trail_x", "trail_logL"):
        np.testing.assert_array_equal(getattr(fused, field), getattr(hosted, field), err_msg=field)
    assert fused.n_calls == hosted.n_calls == sum(seen) == np.sum(masks)
    assert fused.n_rows == CHAINS * len(masks)
    assert hosted.n_rows == sum(seen)
    assert fused.invalid is None
    assert hosted.invalid is None
    assert not np.any(np.array(masks)[:, ~active])
    np.testing.assert_array_equal(fused.x[~active], walkers.x[~active])
    np.testing.assert_array_equal(fused.logL[~active], walkers.logL[~active])
    assert not np.any(fused.moved[~active])
    assert np.mean(fused.moved[active]) > 0.5


@every
def test_effort_scales_the_walk(name, where):
    """Four times the walk_scale costs about four times the calls; the least walk_scale is one move."""
    c = case(name, where)
    key = jax.random.key(23)
    short, long, least = (c.fused(key, c.params, batch(where, walk_scale=e), THRESHOLD[where]) for e in (1.0, 4.0, 1e-3))
    assert 3 < long.n_calls / short.n_calls < 5
    assert 0 < least.n_calls < short.n_calls
    if name == "walk":
        assert [w.n_rows // CHAINS for w in (short, long, least)] == [STEPS.n_moves, 4 * STEPS.n_moves, 1]


@pytest.mark.parametrize("kind", ["hosted", "fused"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_invalid_likelihood_is_reported_and_never_accepted(value, kind):
    """NaN and +inf are told with the point; no chain moves there."""
    where, n = "line", 64
    c = case("walk", where)
    walkers = batch(where, n=n)

    def inside(x, arrays):
        logL = jnp.where(x[:, 1] > -0.5, value, loglikelihood(where, x))
        return logL, 2 * logL[:, None]

    def rows(x):
        return tuple(np.asarray(a, np.float64) for a in inside(x, ()))

    def compiled(_, function):
        return jax.jit(function)

    walk = walks.fused(c.kernel, inside, compiled) if kind == "fused" else walks.hosted(walks.steps_of(c.kernel, compiled), rows)
    out = walk(jax.random.key(24), c.params, walkers, THRESHOLD[where])
    x, logL = out.invalid
    assert x.shape == (1, 2)
    assert logL.shape == (1,)
    assert x[0, 1] > -0.5
    np.testing.assert_array_equal(logL, [value])
    assert np.all(np.isfinite(out.logL))
    assert np.any(out.moved)
    assert np.all(out.x[out.moved][:, 1] <= -0.5)


@every
def test_walks_repeat(name, where):
    """The same key makes the same walk; another key another one."""
    c, walkers = case(name, where), batch(where)
    one, two, other = (c.fused(jax.random.key(k), c.params, walkers, THRESHOLD[where]) for k in (25, 25, 26))
    np.testing.assert_array_equal(one.x, two.x)
    assert np.any(one.x != other.x)
