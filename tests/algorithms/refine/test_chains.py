"""Chains at the posterior: they keep it, refill what live points lost, and say so while they drift."""

import jax
import numpy as np
import oracles
import pytest
from scipy.special import ndtri

from fusions.algorithms.refine import chains as chains_module
from fusions.algorithms.refine.chains import (
    FALSE_ALARM,
    FEWEST,
    KEPT,
    PILOTS,
    SWEEP,
    WARM_UP,
    Chains,
    Start,
    _between,
    _come_in,
    _drift,
    chains_for,
    run_chains,
)  # fmt: skip
from fusions.algorithms.refine.settings import Refine
from fusions.driver.compiled import charging, make_functions
from fusions.evidence.volumes import Points
from fusions.types import Budget

WEIGHTS = np.array([0.4, 0.3, 0.2, 0.1])  # of the modes of the oracle `mixture`


def nested_points(problem, theta, width=20.0):
    """Make points of equal weight at theta (n, d), as a nested run would leave them; both folds have each mode."""
    x = ndtri(theta / width + 0.5).astype(np.float32)
    logL = np.asarray(jax.vmap(lambda row: problem.call_one(problem.prior.theta(row))[0])(x), float)
    return Points(x, logL, np.arange(len(x)) // 4 % 2, np.full(len(x), -np.log(len(x))), 0.0)


def entered(functions, points):
    """Bring points into the coordinates of the chains."""
    return points._replace(x=functions.space.enter(points.x))


def chains_from(functions, points, seed, calls, modes=0.0, gaussian=0.0):
    """Run chains from points until they have settled or the calls are spent."""
    budget = Budget()
    start = Start(points, points.logw, modes, gaussian)
    return run_chains(jax.random.key(seed), charging(functions, budget), start, calls, calls, budget)


@pytest.fixture(scope="module")
def plane():
    """Make a problem in 2-D and its compiled functions."""
    problem = oracles.mixture(2).problem
    return problem, make_functions(problem, Refine())[0]


@pytest.fixture(scope="module")
def mixture():
    """Run chains on four modes of unequal mass in 3-D from points that have equal masses."""
    problem = oracles.mixture(3).problem
    _, _, centres = oracles.mixture_modes(3)
    rng = np.random.default_rng(0)
    theta = centres[np.arange(800) % 4] + 0.5 * rng.standard_normal((800, 3))
    functions, traces = make_functions(problem, Refine())
    start = entered(functions, nested_points(problem, theta))
    chains = chains_from(functions, start, 1, 400_000)
    return problem, centres, chains._replace(u=functions.space.leave(chains.u)), traces


def test_masses_of_modes_are_set_right(mixture):
    problem, centres, chains, _ = mixture
    theta = problem.prior.theta_rows(chains.u.reshape(-1, 3))
    closest = np.argmin(np.sum((theta[:, None] - centres) ** 2, axis=2), axis=1)
    found = np.bincount(closest, minlength=4) / len(theta)
    # means over places of one chain are correlated: count the chains alone
    np.testing.assert_allclose(found, WEIGHTS, atol=4 * np.sqrt(0.25 / len(chains.fold)))


def test_chains_count_their_calls_and_compile_once(mixture):
    _, _, chains, traces = mixture
    assert 0 < chains.n_calls <= chains.n_moves * len(chains.fold)
    assert chains.u.shape == (KEPT, chains_for(3, 400_000), 3)
    assert traces()["propose"] == traces()["tune"] == 1
    assert chains.settled


def test_there_are_as_many_chains_as_the_budget_lets_make_their_moves():
    assert chains_for(2, 20_000) == 128
    assert chains_for(10, 20_000) == FEWEST
    assert chains_for(10, 100_000) == 164
    assert chains_for(10, 1_000_000) == 256


def test_kernels_are_tuned_on_the_other_fold_after_a_while(plane):
    problem, functions = plane
    rng, tuned = np.random.default_rng(7), []
    start = entered(functions, nested_points(problem, 5 + 0.5 * rng.standard_normal((400, 2))))

    def tune(key, population, params, info):
        tuned.append({tuple(row) for row in population.x.tolist()})
        return functions.kernel.tune(key, population, params, info)

    chains = chains_from(functions._replace(kernel=functions.kernel._replace(tune=tune)), start, 8, 50_000)
    assert chains.settled
    of = [{tuple(row) for row in start.x[start.fold == f].tolist()} for f in (0, 1)]
    own = 2 * WARM_UP // SWEEP
    assert all(rows & of[0] and rows & of[1] for rows in tuned[:own])
    assert len(tuned) > own
    for i, rows in enumerate(tuned[own:]):
        assert rows & of[1 - i % 2]
        assert not rows & of[i % 2]
        assert not rows & {tuple(row) for row in chains.u[:, i % 2 :: 2].reshape(-1, 2).tolist()}


@pytest.mark.slow
def test_chains_keep_the_posterior_that_they_start_from():
    """Chains whose kernels are always tuned on their own places lose its tails: mean log L -0.80."""
    problem, rng, means = oracles.rosenbrock(2).problem, np.random.default_rng(13), []
    functions, _ = make_functions(problem, Refine())
    for seed in range(12):
        first = 1 + np.sqrt(0.5) * rng.standard_normal(4000)
        theta = np.column_stack([first, first**2 + np.sqrt(0.005) * rng.standard_normal(4000)])
        start = entered(functions, nested_points(problem, theta[np.all(np.abs(theta) < 5, axis=1)], width=10.0))
        means.append(chains_from(functions, start, seed, 20_000).logL.mean())
    exact = -0.9211  # quadrature over the first parameter
    assert abs(np.mean(means) - exact) < 3 * np.std(means, ddof=1) / np.sqrt(len(means))


def ends(problem, functions, theta, modes=0.0, gaussian=0.0):
    """Run chains from theta (n, d), far less than the posterior of a mode is wide, with enough calls to go anywhere."""
    start = entered(functions, nested_points(problem, theta))
    return chains_from(functions, start, 11, 20_000, modes, gaussian)


def test_half_the_chains_go_on_where_modes_have_been_found(plane):
    problem, functions = plane
    theta = 5 + 0.5 * np.random.default_rng(9).standard_normal((400, 2))
    few, many = ends(problem, functions, theta, modes=1.0), ends(problem, functions, theta, modes=0.5)
    assert len(few.fold) == len(many.fold) // 2 == 64


def standing_still(functions, n_calls):
    """Make functions whose kernel moves nothing, at a cost in calls per move."""

    def stay(key, state):
        state, proposed, wanted = functions.kernel.propose(key, state)
        return state, proposed, np.zeros_like(wanted)

    return functions._replace(kernel=functions.kernel._replace(propose=stay), target=lambda u: (np.zeros(len(u)), None, None, n_calls))


def test_chains_make_more_moves_where_masses_of_modes_are_not_known(plane, monkeypatch):
    """All at one likelihood and calm from the first look on, so that the least number of moves decides."""
    problem, functions = plane
    monkeypatch.setattr(chains_module, "LEAST_MOVES", (50, 30))
    points = nested_points(problem, 5 + 0.5 * np.random.default_rng(9).standard_normal((400, 2)))
    start = entered(functions, points._replace(logL=np.zeros(400)))
    ended = [chains_from(standing_still(functions, 0), start, 2, 20_000, gaussian=sure) for sure in (0.5, 1.0)]
    assert all(chains.settled for chains in ended)
    assert ended[0].n_moves >= 200 > ended[1].n_moves >= 120


@pytest.mark.parametrize("sure", [0.5, 1.0])
def test_chains_that_stand_still_have_not_settled(plane, sure):
    """Each at a likelihood of its own, along a ridge that they cannot follow: no drift is seen, and yet they go on."""
    problem, functions = plane
    theta = 5 + 0.5 * np.random.default_rng(9).standard_normal((400, 2))
    assert not ends(problem, standing_still(functions, 2000), theta, gaussian=sure).settled


def test_chains_need_not_mix_as_well_where_modes_are_known(plane, monkeypatch):
    problem, functions = plane
    theta = 5 + 0.5 * np.random.default_rng(9).standard_normal((400, 2))
    monkeypatch.setattr(chains_module, "_between", lambda logL: 0.5)
    assert not ends(problem, standing_still(functions, 2000), theta, gaussian=0.5).settled
    assert ends(problem, standing_still(functions, 2000), theta, gaussian=1.0).settled


def test_a_few_chains_far_below_the_posterior_do_not_hide_that_the_others_mix():
    rng = np.random.default_rng(13)
    mixed, stuck = rng.standard_normal((90, 200)), 0.1 * rng.standard_normal((90, 200)) + rng.standard_normal(200)
    lost = mixed.copy()
    lost[:, :2] -= 60
    assert _between(mixed) < 0.05
    assert _between(lost) < 0.1
    assert _between(stuck) > 0.9


def test_folds_keep_apart(mixture):
    chains = mixture[2]
    x, logL, chain = chains.of_fold(1)
    assert x.shape == (KEPT * len(chains.fold) // 2, 3)
    np.testing.assert_array_equal(x[chain == 0], chains.u[:, 1])
    np.testing.assert_array_equal(logL[chain == 0], chains.logL[:, 1])


@pytest.mark.slow
def test_a_lost_tail_fills_and_the_chains_know_that_it_is_not_full():
    oracle = oracles.rosenbrock(4)
    functions, _ = make_functions(oracle.problem, Refine())
    means = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        start = entered(functions, nested_points(oracle.problem, 0.05 * rng.standard_normal((400, 4)), width=10.0))
        chains = chains_from(functions, start, seed, 30_000)
        means.append(oracle.problem.prior.theta_rows(functions.space.leave(chains.u.reshape(-1, 4)))[:, 3].mean())
        assert not chains.settled
    assert np.mean(means) > 3 * np.std(means, ddof=1) / np.sqrt(len(means))  # 0.218 +- 0.024 over 16 seeds; exact 0.818, at the start 0


@pytest.mark.parametrize("smooth", [True, False])
def test_chains_that_do_not_mix_get_trajectories_if_there_is_a_gradient(monkeypatch, smooth):
    """From the middle of a ridge, with far fewer calls than moves alone take to its ends."""
    monkeypatch.setattr(chains_module, "MIXED", (0.0, 0.0))
    monkeypatch.setattr(chains_module, "STUCK", 0.0)
    oracle, calls = oracles.rosenbrock(4), 90_000
    functions, traces = make_functions(oracle.problem, Refine())
    start = entered(functions, nested_points(oracle.problem, 0.05 * np.random.default_rng(14).standard_normal((400, 4)), width=10.0))
    functions = functions if smooth else functions._replace(trajectory=None)
    chains = chains_from(functions, start, 16, calls, modes=1.0)
    last = oracle.problem.prior.theta_rows(functions.space.leave(chains.u[-1]))[:, 3]
    assert 0 < chains.n_calls <= calls
    assert (chains.n_trajectories > PILOTS) == smooth
    assert abs(last.mean() - 0.818) < 3 * 1.2 / np.sqrt(len(last)) or not smooth  # its exact mean and standard deviation
    assert traces()["trajectory"] == 1 or not smooth


def test_budget_is_kept(plane):
    problem, functions = plane
    rng = np.random.default_rng(4)
    start = entered(functions, nested_points(problem, 5 + 0.5 * rng.standard_normal((400, 2))))
    chains = chains_from(functions, start, 5, 3000)
    assert chains.n_calls <= 3000
    assert chains.n_moves >= 8


@pytest.mark.parametrize(("slope", "settled"), [(0.0, True), (0.02, False)])
def test_drift_is_seen(slope, settled):
    rng, n = np.random.default_rng(6), 40
    calm = 0
    for _ in range(n):
        x = rng.standard_normal((60, FEWEST, 3)) + slope * np.arange(60)[:, None, None]
        calm += _drift(x, rng.standard_normal((60, FEWEST)), (False, True, False))[1]
    expected = (1 - FALSE_ALARM) * settled * n
    assert abs(calm - expected) <= 3 * np.sqrt(n * FALSE_ALARM * (1 - FALSE_ALARM)) * settled


def test_thinned_places_are_far_apart():
    x = np.arange(KEPT, dtype=float)[:, None, None] * np.ones((1, 2, 3))
    few, many = (Chains(x, x[..., 0], np.arange(2), n, 0, 0, 0.0, settled=True).thinned() for n in (20, 10_000))
    assert few.u[:, 0, 0].tolist() == [KEPT - 1]
    assert len(many.u) == KEPT


def test_chains_that_never_came_in_start_again():
    """Those where the posterior has no mass are put on points of it, in their own fold; a high one that no point has seen stays."""
    rng = np.random.default_rng(0)
    logL = np.concatenate([np.full(500, -1e8), -rng.exponential(size=500)])
    logw = np.where(logL > -1e7, logL, -np.inf) - 10.0
    points = Points(rng.normal(size=(1000, 2)), logL, np.arange(1000) % 2, logw, 0.0)
    x, now = rng.normal(size=(64, 2)), -rng.exponential(size=64)
    now[5], now[6], now[7] = -1e8, -1e5, 40.0
    moved, logL_moved = _come_in(jax.random.key(0), points, x, now)
    assert np.flatnonzero((moved != x).any(axis=1)).tolist() == np.flatnonzero(logL_moved != now).tolist() == [5, 6]
    for chain in (5, 6):
        source = int(np.flatnonzero((points.x == moved[chain]).all(axis=1))[0])
        assert (source % 2, logL[source]) == (chain % 2, logL_moved[chain])
        assert np.isfinite(logw[source])
    assert _come_in(jax.random.key(1), points, moved, logL_moved)[0] is moved
