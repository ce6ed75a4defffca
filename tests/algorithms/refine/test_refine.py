"""The refine phase: its density is a density, and ln Z comes out right with a small error."""

import dataclasses
import re
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

import fusions
from fusions import priors as pr
from fusions.algorithms.refine import checks, phase, rounds, training
from fusions.algorithms.refine.draws import Ensemble, together
from fusions.driver.compiled import make_functions
from fusions.driver.redraw import Source
from fusions.errors import OptionError
from fusions.evidence.importance import Importance, importance
from fusions.evidence.volumes import Points
from fusions.flows import defensive
from fusions.flows.gaussian_mixture import (
    MOST_TURN,
    Components,
    choose_components,
    draw_mixture,
    elongated,
    fit_components,
    mixture_logprob,
)
from fusions.flows.matching import Training
from fusions.flows.mixture import MixtureCNF
from fusions.types import Space

SMALL = MixtureCNF(components=6, width=32, depth=2, training=Training(steps=60, rounds=6, batch=256, jitter=0.0))

QUICK = fusions.Refine(error=0.03, flow=SMALL)
LIGHT = fusions.Refine(error=0.02, flow=MixtureCNF(components=12, width=64, ode_steps=4))


def space(periodic):
    """Make a space; its prior does not matter here."""
    return Space(len(periodic), periodic, lambda x: jnp.zeros(len(x)))


@pytest.fixture(scope="module")
def bimodal():
    """Fit a flow on a line and an angle: two modes, one across the cut of the angle."""
    flow = SMALL.build(space((False, True)))
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal([-2, 0.5], 0.3, (500, 2)), rng.normal([2, np.pi], 0.3, (500, 2))])
    x[:, 1] = (x[:, 1] + np.pi) % (2 * np.pi) - np.pi
    state, _ = jax.jit(flow.fit)(jax.random.key(0), flow.init(jax.random.key(1)), jnp.asarray(x, jnp.float32))
    return flow, state


def test_paths_end_at_the_draws(bimodal):
    """Those of the flow: kernels and base, which have none, make the first draws."""
    flow, state = bimodal
    x = jax.jit(flow.path, static_argnums=2)(jax.random.key(5), state, 200, jnp.array([0.0, 0.5, 1.0]))
    draws = jax.jit(flow.sample, static_argnums=2)(jax.random.key(5), state, 200)
    first = round(200 * float(state.shares[0] + state.shares[1]))
    assert 0 < first < 200
    np.testing.assert_allclose(x[-1, first:], draws[first:], atol=1e-4)
    assert x.shape == (3, 200, 2)
    assert np.abs(x[0] - x[-1]).max() > 1e-2


def test_paths_of_a_result_are_in_the_columns_of_its_parameters():
    prior = fusions.Prior(a=fusions.priors.uniform(-5, 5), w=fusions.priors.uniform(2, 3, periodic=True))
    problem = fusions.Problem(prior, lambda p: -0.5 * p["a"] ** 2)
    settings = fusions.Refine(flow=SMALL)
    state = SMALL.build(problem.space()).init(jax.random.key(0))
    paths = Source(problem, settings, Ensemble.of([state, state], 1)).paths(50, np.linspace(0, 1, 4), key=0)
    assert paths.shape == (4, 50, 2)
    assert np.all(np.abs(paths[..., 0]) <= 5)
    assert np.all((paths[..., 1] >= 2) & (paths[..., 1] <= 3))


def test_density_integrates_to_one(bimodal):
    flow, state = bimodal
    a, b = np.linspace(-6, 6, 241), np.linspace(-np.pi, np.pi, 180, endpoint=False)
    grid = np.stack(np.meshgrid(a, b, indexing="ij"), -1).reshape(-1, 2).astype(np.float32)
    q = np.exp(np.asarray(jax.jit(flow.logq)(state, grid), np.float64))
    assert q.sum() * (a[1] - a[0]) * (b[1] - b[0]) == pytest.approx(1, abs=2e-3)


def test_draws_know_their_density(bimodal):
    flow, state = bimodal
    x = jax.jit(flow.sample, static_argnums=2)(jax.random.key(2), state, 500)
    assert np.all(np.abs(x[:, 1]) <= np.pi)
    error = jax.jit(flow.roundtrip, static_argnums=2)(jax.random.key(3), state, 500)
    np.testing.assert_allclose(error, 0, atol=5e-3)
    assert np.mean(np.asarray(x[:, 0]) > 0) == pytest.approx(0.5, abs=0.1)


def kernels_across_the_cut():
    """Make kernels in two clumps, one across the cut of an angle; one is so wide that its width along the angle is held."""
    rng = np.random.default_rng(0)
    centres = jnp.asarray(np.concatenate([rng.normal([-1, 0.5], 0.3, (20, 2)), rng.normal([1, 3.1], 0.3, (20, 2))]), jnp.float32)
    factors = jnp.tile(jnp.array([[0.5, 0.0], [0.3, 0.4]]), (40, 1, 1)).at[-1].mul(20.0)
    period = jnp.array([jnp.inf, 2 * jnp.pi])
    return defensive.kernels_at(centres, factors, period), period


def test_density_of_kernels_integrates_to_one():
    kernels, period = kernels_across_the_cut()
    a, b = np.linspace(-70, 70, 1401), np.linspace(-np.pi, np.pi, 240, endpoint=False)
    grid = np.stack(np.meshgrid(a, b, indexing="ij"), -1).reshape(-1, 2).astype(np.float32)
    q = np.exp(np.asarray(jax.jit(defensive.logprob)(kernels, grid, period), np.float64))
    assert q.sum() * (a[1] - a[0]) * (b[1] - b[0]) == pytest.approx(1, abs=1e-4)


def test_kernels_draw_what_their_density_says():
    kernels, period = kernels_across_the_cut()
    n = 20_000
    x = np.array(defensive.draw(jax.random.key(1), kernels, n))
    x[:, 1] = (x[:, 1] + np.pi) % (2 * np.pi) - np.pi
    a, b = np.linspace(-70, 70, 1401), np.linspace(-np.pi, np.pi, 240, endpoint=False)
    grid = np.stack(np.meshgrid(a, b, indexing="ij"), -1).reshape(-1, 2).astype(np.float32)
    q = np.exp(np.asarray(jax.jit(defensive.logprob)(kernels, grid, period), np.float64))
    q /= q.sum()
    edges = 1.05, np.pi * (1 - 5.5 / 120)  # between points of the grid
    for inside in (lambda y: y[:, 0] > edges[0], lambda y: np.abs(y[:, 1]) > edges[1], lambda y: np.all(np.abs(y) > edges, axis=1)):
        p = q[inside(grid)].sum()
        assert inside(x).mean() == pytest.approx(p, abs=4 * np.sqrt(p / n))


def draw_ring(rng, n):
    """Draw from a ring, whose ln density is the second function."""
    angle = rng.uniform(-np.pi, np.pi, n)
    return (1 + 0.1 * rng.normal(size=(n, 1))) * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def log_ring(x):
    radius = np.hypot(*x.T)
    return -0.5 * (radius - 1) ** 2 / 0.01 - np.log(radius) - 1.5 * np.log(2 * np.pi) - np.log(0.1)


def draw_ball(rng, n):
    """Draw from a normal distribution."""
    return rng.normal(size=(n, 2))


def log_ball(x):
    return -0.5 * np.sum(x**2, axis=1) - np.log(2 * np.pi)


@pytest.mark.slow
@pytest.mark.parametrize(("draw", "logp", "shares"), [(draw_ring, log_ring, (0.7, 0.91)), (draw_ball, log_ball, (0.09, 0.5))])
def test_kernels_get_the_share_that_the_flow_leaves_them(draw, logp, shares):
    """The flow is one normal component, which a ring needs kernels for and a ball does not."""
    flow = MixtureCNF(components=1, width=8, depth=1, ode_steps=1, training=Training(rounds=0)).build(space((False, False)))
    x = jnp.asarray(draw(np.random.default_rng(0), 4000), jnp.float32)
    state, _ = jax.jit(flow.fit)(jax.random.key(0), flow.init(jax.random.key(1)), x)
    assert shares[0] < float(state.shares[0]) < shares[1]
    x = np.asarray(jax.jit(flow.sample, static_argnums=2)(jax.random.key(2), state, 4000), float)
    found = importance(logp(x) - np.asarray(jax.jit(flow.logq)(state, jnp.asarray(x, jnp.float32)), float))
    assert abs(found.logZ) < 4 * found.logZ_err
    assert found.ess > 0.4 * len(x)


@pytest.mark.slow
def test_the_base_as_it_is_gets_what_the_flow_spoils():
    """In 16 dimensions from 300 points: the velocity field learns their noise."""
    dim, rng = 16, np.random.default_rng(0)
    settings = dataclasses.replace(
        SMALL, components=24, kernels=256, ode_steps=2, training=Training(steps=60, rounds=6, patience=6, batch=256, jitter=0.0)
    )
    flow = settings.build(space((False,) * dim))
    assert len(flow.init(jax.random.key(1)).flow.base.logweights) == 17  # 7168 rows, three for each of 136 numbers in a covariance
    x = jnp.asarray(np.tile(rng.normal(size=(300, dim)), (2, 1)), jnp.float32)
    state, _ = jax.jit(flow.fit)(jax.random.key(0), flow.init(jax.random.key(1)), x)
    kernels, base, velocity = state.shares
    assert kernels + base + velocity == pytest.approx(1, abs=1e-5)
    assert base > 2 * velocity > 0.18
    x = np.asarray(jax.jit(flow.sample, static_argnums=2)(jax.random.key(2), state, 2000), float)
    logq = np.asarray(jax.jit(flow.logq)(state, jnp.asarray(x, jnp.float32)), float)
    found = importance(-0.5 * np.sum(x**2 + np.log(2 * np.pi), axis=1) - logq)
    assert abs(found.logZ) < 4 * found.logZ_err


def test_best_shares():
    """Of two densities that made draws, and of one that is nowhere near and may get nothing."""
    rng = np.random.default_rng(0)
    theirs = rng.random(20_000) < 0.3
    x = np.where(theirs, rng.normal(3, 1, theirs.size), rng.normal(0, 1, theirs.size))
    logq, least = jnp.asarray([-0.5 * x**2, -0.5 * (x - 3) ** 2, -0.5 * (x - 40) ** 2]), jnp.array([0.1, 0.1, 0.0])
    np.testing.assert_allclose(defensive.best_shares(logq, least), [0.7, 0.3, 0], atol=0.02)
    np.testing.assert_allclose(defensive.best_shares(logq.at[0].add(50), least), [0.9, 0.1, 0], atol=1e-6)
    np.testing.assert_allclose(defensive.best_shares(logq.at[0].add(50), jnp.full(3, 0.1)), [0.8, 0.1, 0.1], atol=1e-6)


def test_density_follows_the_modes(bimodal):
    flow, state = bimodal
    at = jnp.array([[-2.0, 0.5], [2.0, 3.1], [2.0, -3.1], [0.0, 2.0]])
    inside, across, other_side, between = np.asarray(flow.logq(state, at))
    assert abs(across - other_side) < 0.7
    assert inside > between + 3
    assert across > between + 3


@pytest.mark.parametrize("every", [3, 4, 8, 16])
def test_rows_held_out_have_no_copies_among_those_trained_on(every):
    """Whatever `hold_every` says; copies would make the loss on the rows held out that of training."""
    flow, rng = MixtureCNF(training=Training(hold_every=every)), np.random.default_rng(0)
    functions, _ = make_functions(fusions.Problem(BOX, lambda p: -(p["x"] ** 2)), fusions.Refine(flow=flow))
    rows = training.training_rows(jax.random.key(0), np.arange(5000.0)[:, None], rng.normal(size=5000), functions.held_out)
    held = flow.training.held_out(len(rows))
    assert held.mean() == pytest.approx(1 / every, rel=1e-3)
    assert not set(rows[held, 0]) & set(rows[~held, 0])


def test_expectation_maximisation_finds_separate_modes():
    rng = np.random.default_rng(1)
    centres = np.array([[-3.0, 0], [3, 0], [0, 4]])
    y = (centres[rng.integers(0, 3, 900)] + 0.1 * rng.normal(size=(900, 2))).astype(np.float32)
    period = jnp.full(2, jnp.inf)
    known = Components(jnp.full(4, -jnp.log(4)), jnp.zeros((4, 2)), jnp.tile(jnp.eye(2), (4, 1, 1)))
    base = fit_components(jax.random.key(0), jnp.asarray(y), jnp.ones(len(y)), known, period, 20)
    logq = mixture_logprob(base, jnp.asarray(y), period, (False, False))
    ideal = -np.log(3) - np.log(2 * np.pi * 0.01) - 1
    assert float(logq.mean()) == pytest.approx(ideal, abs=0.1)


def weighted_components(rows, seed):
    """Fit 24, 12 or 6 components to three quarters of the rows; returns those that have weight, and all."""
    rng, n = np.random.default_rng(seed), 3 * len(rows) // 4
    y = jnp.asarray(rng.permutation(rows), jnp.float32)
    period = jnp.full(y.shape[1], jnp.inf)
    base = choose_components(jax.random.key(seed), y[:n], y[n:], (24, 12, 6), period, 20)
    return int(jnp.isfinite(base.logweights).sum()), base


@pytest.mark.slow
def test_rows_held_out_choose_few_components_where_rows_are_few():
    rng = np.random.default_rng(2)
    used, base = weighted_components(rng.normal(size=(1200, 8)), 0)
    assert used == 6
    draws = draw_mixture(jax.random.key(1), base, 4000)
    np.testing.assert_allclose(draws.std(axis=0), 1.0, atol=0.15)


def test_rows_held_out_choose_a_component_for_each_mode():
    rng = np.random.default_rng(3)
    modes = rng.uniform(-10, 10, (18, 2))
    used, base = weighted_components(modes[rng.integers(0, 18, 2400)] + 0.02 * rng.normal(size=(2400, 2)), 1)
    assert used == 24
    at_modes = mixture_logprob(base, jnp.asarray(modes, jnp.float32), jnp.full(2, jnp.inf), (False, False))
    assert np.all(at_modes > np.log(0.5 / 18 / (2 * np.pi * 0.02**2)))


def test_components_of_a_failed_fit_are_not_chosen():
    y = jnp.asarray(np.random.default_rng(4).normal(size=(200, 2)), jnp.float32)
    failed = Components(jnp.full(3, jnp.nan), jnp.full((3, 2), jnp.nan), jnp.full((3, 2, 2), jnp.nan))
    base = fit_components(jax.random.key(0), y, jnp.ones(200), failed, jnp.full(2, jnp.inf), 5)
    assert all(np.isfinite(part).all() for part in base)


def test_longer_components_are_longer_along_one_axis_and_do_not_go_round_a_circle():
    factors = jnp.linalg.cholesky(jnp.array([[[4.0, 1.9], [1.9, 1.0]], [[0.01, 0.0], [0.0, 0.64]]]))
    base = Components(jnp.log(jnp.array([0.5, 0.5])), jnp.zeros((2, 2)), factors)

    def variances(period):
        longer = elongated(base, 3.0, jnp.array(period)).factors
        return longer @ jnp.swapaxes(longer, 1, 2)

    before, line, circle = base.factors @ jnp.swapaxes(base.factors, 1, 2), variances([jnp.inf, jnp.inf]), variances([jnp.inf, 2 * jnp.pi])
    lengths = jnp.linalg.eigvalsh(line) / jnp.linalg.eigvalsh(before)
    np.testing.assert_allclose(lengths, [[1, 9], [1, 9]], rtol=1e-3)
    np.testing.assert_allclose(circle[0, 1, 1], (MOST_TURN * 2 * np.pi) ** 2, rtol=1e-4)
    np.testing.assert_allclose(circle[1], np.diag([0.01, 1.0]), rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_a_good_last_round_is_among_the_final_draws(ball, monkeypatch):
    problem, result = ball
    made = []

    def noted(*args, draw=phase.draw):
        made.append(draw(*args))
        return made[-1]

    monkeypatch.setattr(phase, "draw", noted)
    monkeypatch.setattr(rounds, "draw", noted)
    again = fusions.run(problem, fusions.nested(n_live=100, cost="expensive"), key=3, refine=QUICK, progress=False)
    assert len(made) > 2
    assert made[-2].logw.size == again.refined.n_draws - made[-1].logw.size
    np.testing.assert_array_equal(again.draws_logw, np.concatenate([made[-2].logw, made[-1].logw]))
    assert len(again.refined.rounds) == len(made) - 2
    assert again.logZ == result.logZ


def rounds_of(*summaries, min_efficiency=0.5, khat=0.3):
    """Make rounds of 100 draws with given ln Z, error, effective fraction."""
    made = rounds.Rounds(100, min_efficiency, None)
    for logZ, err, share in summaries:
        estimate = Importance(logZ, err, 100 * share, khat)
        made.made.append(rounds.Round(SimpleNamespace(u=np.zeros(100)), estimate))
    return made


@pytest.mark.parametrize(
    ("shares", "kept"),
    [((0.1, 0.4), []), ((0.6,), []), ((0.1, 0.6, 0.7), [2]), ((0.6, 0.4, 0.1, 0.5), [1, 3]), ((0.3, 0.3, 0.6, 0.3), [3])],
)
def test_rounds_after_the_first_good_one_are_kept_unless_they_failed(shares, kept):
    assert rounds_of(*((0.0, 0.1, share) for share in shares)).to_pool() == kept


@pytest.mark.parametrize(
    ("shares", "stalled"),
    [
        ((0.01,), False),
        ((0.01, 0.03, 0.09, 0.1), False),
        ((0.1, 0.1, 0.1), False),
        ((0.1, 0.1, 0.1, 0.1), True),
        ((0.2, 0.01, 0.1, 0.15), True),
        ((0.4, 0.1, 0.1, 0.1), False),
    ],
)
def test_a_velocity_is_learned_where_rounds_make_no_progress(shares, stalled):
    assert rounds_of(*((0.0, 0.1, share) for share in shares), min_efficiency=0.3).stalled(3) == stalled


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cost", "stalled", "with_velocity"), [("cheap", True, False), ("expensive", False, False), ("expensive", True, True)]
)
def test_kernels_and_gaussians_save_the_training_of_a_velocity(monkeypatch, cost, stalled, with_velocity):
    """The same problem where they do, where they are said not to, and where calls are cheap."""
    train, trained = rounds.train, []

    def watched(*args, with_velocity):
        trained.extend(states := train(*args, with_velocity=with_velocity))
        assert all(defensive.has_velocity(state) == with_velocity for state in states)
        return states

    monkeypatch.setattr(rounds, "train", watched)
    monkeypatch.setattr(rounds.Rounds, "stalled", lambda made, after: stalled and after < np.inf)
    result = fusions.run(QUADRATIC, fusions.nested(n_live=60, cost=cost), refine=QUICK, progress=False)
    assert abs(result.logZ - EXACT) < 4 * result.logZ_err
    assert any(defensive.has_velocity(state) for state in trained) == with_velocity
    assert (result.refined.ode_error > 0) == result.source.has_velocity


def test_density_without_a_velocity_is_that_of_its_draws():
    """Of a flow at rest: what `with_velocity` leaves out has no share."""
    x = jnp.asarray(draw_ring(np.random.default_rng(0), 4000), jnp.float32)
    flow = SMALL.build(space((False, False)))
    state, _ = jax.jit(lambda *args: flow.fit(*args, with_velocity=False))(jax.random.key(0), flow.init(jax.random.key(1)), x)
    assert not defensive.has_velocity(state)
    assert float(state.shares.sum()) == pytest.approx(1, abs=1e-5)
    draws = jax.jit(lambda key, state: flow.sample(key, state, 4000, with_velocity=False))(jax.random.key(2), state)
    without, whole = (
        jax.jit(lambda *args, with_velocity=with_velocity: flow.logq(*args, with_velocity=with_velocity))(state, draws)
        for with_velocity in (False, True)
    )
    np.testing.assert_allclose(without, whole, atol=1e-5)
    found = importance(log_ring(np.asarray(draws, float)) - np.asarray(without, float))
    assert abs(found.logZ) < 4 * found.logZ_err
    assert found.ess > 0.4 * len(draws)


def test_mass_that_chains_see_and_draws_do_not():
    """A tenth of the posterior where chains stand and draws do not come; then a draw that holds half of it, and one that holds more."""
    chains, none = np.repeat([0.0, 8.0], [180, 20]), np.zeros(1000)
    assert checks.missed_mass([(chains, none)] * 2, 0.0) == pytest.approx(0.1)
    assert checks.missed_mass([(chains, none), (np.zeros(200), none)], 0.0) == pytest.approx(0.05)
    assert checks.missed_mass([(chains - 700, none - 700)], -700.0) == pytest.approx(0.1)
    half, more = (np.append(none[1:], np.log(weight)) for weight in (50.0, 500.0))
    assert checks.missed_mass([(chains, half)] * 2, 0.0) == pytest.approx(0.05)
    assert checks.missed_mass([(chains, more)] * 2, 0.0) == 0


def test_good_rounds_end_adaptation_only_where_chains_were_quick_to_settle():
    good = (0.0, 0.01, 0.6), (0.01, 0.01, 0.6)
    assert rounds_of(*good).settled(early=True)
    assert not rounds_of(*good).settled(early=False)
    assert not rounds_of(*good, khat=0.8).settled(early=True)
    assert not rounds_of(*good, min_efficiency=0.7).settled(early=True)
    assert not rounds_of((0.2, 0.01, 0.6), good[1]).settled(early=True)
    assert rounds_of(*((0.0, 0.01, 0.3),) * 6).settled(early=False)  # no progress


def posterior_points(logL, d):
    """Make posterior points of equal weights with given log L, and one of no weight and likelihood zero."""
    logL, n = np.append(logL, -np.inf), len(logL)
    return Points(np.zeros((n + 1, d)), logL, np.arange(n + 1) % 2, np.append(np.full(n, -np.log(n)), -np.inf), 0.0)


@pytest.mark.parametrize("d", [2, 10])
def test_narrow_parts_are_trained_on_where_they_hold_much(d):
    """A Gaussian posterior has log L = -chi2 / 2; in a funnel of normal depth theta ~ N(0, 3^2) it is that minus (d - 1) theta / 2."""
    rng = np.random.default_rng(0)
    gaussian = -0.5 * rng.chisquare(d, 4000)
    assert training.targets_of(posterior_points(gaussian, d)) == training.TARGETS
    funnel = gaussian - 0.5 * (d - 1) * rng.normal(0, 3, 4000)
    *others, (share, beta) = training.targets_of(posterior_points(3 * funnel if d == 2 else funnel, d))
    assert share + sum(s for s, _ in others) == pytest.approx(1)
    assert [b for _, b in others] == [b for _, b in training.TARGETS]
    assert share > 0.1
    assert 1 < beta < 1.5


def test_the_bridge_uses_draws_of_the_present_flows_alone(ball, monkeypatch):
    """Draws of flows given up since stay in the importance estimate."""
    problem, _ = ball
    seen = []

    def noted(key, functions, flows, chains, final, bridged=phase.bridged):
        draws = final.draws
        old = draws._replace(fold=np.full(len(draws.u), -1), logw=draws.logw + 50, logw_own=draws.logw_own + 50)
        for more in ([], [old]):
            seen.append(bridged(key, functions, flows, chains, final._replace(draws=together([*more, draws]))).bridge)
        return bridged(key, functions, flows, chains, final)

    monkeypatch.setattr(phase, "bridged", noted)
    fusions.run(problem, fusions.nested(n_live=100, cost="expensive"), key=3, refine=QUICK, progress=False)
    (alone, _), (beside, _) = seen
    np.testing.assert_allclose(beside, alone)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["shells2", "linear_gaussian5"])
def test_refined_evidence(name):
    oracle = oracles.ORACLES[name]()
    result = fusions.run(oracle.problem, fusions.nested(n_live=200, cost="expensive"), key=1, refine=LIGHT, progress=False)
    (logZ, err), (bridge, bridge_err) = result.refined.importance, result.refined.bridge
    assert err < 0.03
    assert abs(logZ - oracle.logZ) < 4 * err
    assert abs(bridge - oracle.logZ) < 5 * bridge_err
    assert result.headline.name == "importance"
    assert f"live points held {100 * result.live_fraction:.0f} % of the evidence" in str(result)
    assert (result.logZ, result.logZ_err) == (logZ, err)
    assert abs(result.evidence.logZ - oracle.logZ) < 5 * result.evidence.logZ_err
    assert len(result.draws) == len(result.draws_logw) == result.refined.n_draws


def gaussian_on_host(p):
    """A black box with a derived parameter."""
    return -0.5 * float(p["x"] ** 2 + p["y"] ** 2) / 0.01, {"r": float(np.hypot(p["x"], p["y"]))}


BOX = pr.Prior(x=pr.uniform(-1, 1), y=pr.uniform(-1, 1))
EXACT = np.log(2 * np.pi * 0.01 / 4)
FEW = fusions.nested(n_live=60)


@pytest.mark.slow
def test_black_box_with_blobs_and_storage_under_a_constraint(tmp_path):
    """Half of the box is allowed, and half of the likelihood: renormalising the prior leaves ln Z as it is, in each estimate."""
    half = pr.Prior(x=pr.uniform(-1, 1), y=pr.uniform(-1, 1), constraint=lambda p: p["x"] < p["y"])
    result = fusions.run(fusions.Problem(half, gaussian_on_host, blobs=("r",)), FEW, refine=QUICK, progress=False)
    for logZ, err in ((result.evidence.logZ, result.evidence.logZ_err), result.refined.importance, result.refined.bridge):
        assert abs(logZ - EXACT) < 4 * err
    assert result.headline.name == "importance"
    assert 0.05 > result.logZ_err > result.constraint_logmass[1] > 0
    assert "prior fraction 0.003" in " ".join(str(result).split())
    allowed = result.draws[np.isfinite(result.draws_logw)]
    assert 0 < len(allowed) < len(result.draws)
    np.testing.assert_allclose(np.hypot(*allowed[:, :2].T), allowed[:, 2], rtol=1e-5)
    result.save(tmp_path)
    loaded = fusions.Result.load(tmp_path)
    assert loaded.headline == result.headline
    assert str(loaded) == str(result)
    np.testing.assert_array_equal(loaded.draws, result.draws)
    assert "importance" in str(result)
    assert "covered mass" in str(result)


def needle(p):
    """A flat valley with a needle that holds 300 times as much: a few draws in a thousand touch it."""
    return -0.5 * (p["y"] / 0.1) ** 2 + float(np.log1p(np.exp(14 - 0.5 * ((p["x"] - 0.37) / 1e-4) ** 2)))


@pytest.mark.slow
@pytest.mark.parametrize("key", [0, 1])
def test_what_draws_have_found_is_not_forgotten(key):
    exact = np.log(np.sqrt(2 * np.pi) * 0.1 / 2 * (1 + np.exp(14) * np.sqrt(2 * np.pi) * 1e-4))
    prior = pr.Prior(x=pr.uniform(0, 1), y=pr.uniform(-1, 1))
    result = fusions.run(fusions.Problem(prior, needle, traceable=False), FEW, refine=QUICK, key=key, progress=False)
    warned = " ".join(result.headline.warnings)
    assert abs(result.logZ - exact) < (2 if warned else 4) * result.logZ_err
    assert warned or result.logZ_err < 0.1
    highest = max(result.refined.finds, key=lambda find: find.logL)
    assert highest.logL > 12
    assert highest.at["x"] == pytest.approx(0.37, abs=5e-4)
    if result.headline.excess:
        assert float(re.search(r" at x=([\d.]+)", warned)[1]) == pytest.approx(0.37, abs=5e-4)
    assert (f"found above {result.headline.excess:.2g}" in " ".join(str(result).split())) == (result.headline.excess > 0)


def quadratic(p):
    """A traced likelihood."""
    return -0.5 * (p["x"] ** 2 + p["y"] ** 2) / 0.01


QUADRATIC = fusions.Problem(BOX, quadratic)


def test_no_refinement_where_no_calls_are_left():
    plain = fusions.run(QUADRATIC, FEW, progress=False, refine=False)
    assert plain.refined is None
    capped = fusions.run(QUADRATIC, FEW, refine=LIGHT, progress=False, max_calls=plain.n_calls + 1000)
    assert capped.refined is None
    assert capped.status.complete
    assert capped.headline.name == "volumes"


@pytest.mark.slow
def test_call_limit_holds_and_a_second_run_is_the_same_without_compilation():
    limit = 30_000
    result, again = (fusions.run(QUADRATIC, FEW, refine=QUICK, progress=False, max_calls=limit) for _ in range(2))
    assert result.refined is not None
    assert result.n_calls <= limit
    assert again.logZ == result.logZ
    assert again.refined == result.refined
    assert again.n_compilations == 0


def test_interrupted_refinement_keeps_the_nested_run(monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("fusions.algorithms.refine.phase.refine", interrupt)
    result = fusions.run(QUADRATIC, FEW, refine=LIGHT, progress=False)
    assert result.status.complete
    assert any("interrupted" in note for note in result.info["warnings"])


def test_wrong_option():
    with pytest.raises(fusions.FusionsError, match="Type refine=True"):
        fusions.run(QUADRATIC, FEW, refine="yes")
    with pytest.raises(fusions.FusionsError, match='Type cost="cheap"'):
        fusions.nested(cost="free")


@pytest.fixture(scope="module")
def ball():
    """Refine a small problem: unit normal prior on two axes, likelihood N(theta; 1, 0.5^2), with a derived parameter."""

    def logL(theta):
        delta = (theta["x"] - 1) ** 2 + (theta["y"] - 1) ** 2
        return -2 * delta - jnp.log(jnp.pi / 2), {"r": jnp.sqrt(delta)}

    problem = fusions.Problem(fusions.Prior(x=pr.normal(0, 1), y=pr.normal(0, 1)), logL, blobs=("r",))
    return problem, fusions.run(problem, fusions.nested(n_live=100, cost="expensive"), key=3, refine=QUICK, progress=False)


def exact_ball(sigma):
    """Return ln Z for a likelihood of width sigma."""
    return -np.log(2 * np.pi * (1 + sigma**2)) - 1 / (1 + sigma**2)


def test_fresh_draws_estimate_the_evidence(ball):
    _, result = ball
    theta, logw = result.draw(3000, key=5)
    assert theta.shape == (3000, 3)
    w = np.exp(logw - logw.max())
    logZ, err = np.log(w.mean()) + logw.max(), w.std() / w.mean() / np.sqrt(3000)
    assert abs(logZ - exact_ball(0.5)) < 4 * err
    np.testing.assert_allclose(theta[:, 2], np.hypot(theta[:, 0] - 1, theta[:, 1] - 1), rtol=1e-4, atol=1e-5)
    assert not np.array_equal(result.draw(100, key=6)[0], result.draw(100, key=7)[0])


def test_extension_shrinks_the_error(ball):
    _, result = ball
    more = result.extend(n_eff=4 * result.refined.ess, key=9)
    assert more.refined.ess > 3 * result.refined.ess
    assert more.refined.importance[1] < 0.65 * result.refined.importance[1]
    assert more.n_calls - result.n_calls == more.refined.n_draws - result.refined.n_draws
    assert abs(more.logZ - exact_ball(0.5)) < 4 * more.logZ_err
    (_, before), (_, after) = result.refined.coverage, more.refined.coverage
    errors = result.refined.importance[1], more.refined.importance[1]
    assert after**2 == pytest.approx(before**2 + errors[0] ** 2 - errors[1] ** 2)  # of a bridge that shares fewer of the draws now
    assert result.extend(n_eff=1) is result


def test_reweighting_follows_a_changed_likelihood(ball):
    _, result = ball

    def log_ratio(theta):
        delta = (theta["x"] - 1) ** 2 + (theta["y"] - 1) ** 2
        return -0.5 * delta / 0.4**2 + 2 * delta + 2 * np.log(0.5 / 0.4)

    changed = result.reweight(log_ratio)
    assert abs(changed.logZ - exact_ball(0.4)) < 4 * changed.logZ_err
    assert changed.ess > 0.3 * result.ess
    with pytest.raises(OptionError, match="values that are not NaN"):
        result.reweight(lambda theta: np.full(len(theta["x"]), np.nan))


def test_loaded_result_draws_again_with_its_problem(ball, tmp_path):
    problem, result = ball
    result.save(tmp_path)
    loaded = fusions.Result.load(tmp_path)
    with pytest.raises(OptionError, match=r"fusions\.attach\(result, problem\)"):
        loaded.draw(10)
    with pytest.raises(OptionError, match=r"fusions\.Refine\(\.\.\.\)"):
        fusions.attach(loaded, problem)
    attached = fusions.attach(loaded, problem, QUICK)
    for ours, theirs in zip(attached.draw(50, key=2), result.draw(50, key=2), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    other = fusions.Problem(fusions.Prior(x=pr.normal(0, 1), z=pr.normal(0, 1)), lambda theta: -(theta["x"] ** 2))
    with pytest.raises(OptionError, match="not the one of this result"):
        fusions.attach(loaded, other, QUICK)


def test_posterior_is_that_of_the_headline(ball):
    _, result = ball
    assert result.headline.name == "importance"
    assert result.posterior[0] is result.draws
    mean, sd, *_ = result.moments()
    assert mean[0] == pytest.approx(0.8, abs=0.05)
    assert sd[0] == pytest.approx(np.sqrt(0.2), abs=0.05)


def test_expensive_run_stops_once_there_are_enough_points_to_refine(ball):
    problem, result = ball
    nested = result.evidence.logw
    assert 100 <= 1 / np.sum(np.exp(2 * nested)) < 200
    alone = fusions.run(problem, fusions.nested(n_live=100, cost="expensive"), key=3, refine=False, progress=False)
    assert len(alone.logL) > len(result.logL)
    assert result.status is alone.status is fusions.Status.CONVERGED
