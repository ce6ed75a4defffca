"""Replays: nested samples that agree with draws of known density, whatever the volumes of the nested run say."""

import time
from dataclasses import replace

import numpy as np
import pytest
from ledgers import gaussian_ball, half_zero, make_refinement, make_result, wedding_cake

from fusions.errors import OptionError
from fusions.evidence.importance import importance, information
from fusions.evidence.replay import FEWEST, PriorPoints, live_points, prior_points, replay
from fusions.evidence.volumes import death_order
from fusions.numerics import effective_sample_size, logsumexp
from fusions.results.result import Result

N = 20_000


def draws_of(problem, rng, n=N, power=0.7):
    """Draw volumes X from the density ~ mix of posterior-like power laws; returns X, log L, ln(prior L / q)."""
    X = rng.random(n) ** (1 / power)  # q(X) = power X^(power - 1)
    logL = problem.logL(X)
    return X, logL, logL - np.log(power) - (power - 1) * np.log(X)


def with_draws(problem, seed=0, n_live=100):
    """Make a result whose headline is that of draws."""
    result, rng = make_result(problem, seed=seed, n_live=n_live, n_kill=10), np.random.default_rng(seed)
    _, logL, logw = draws_of(problem, rng)
    found = importance(logw)
    refined = make_refinement(
        importance=(found.logZ, found.logZ_err), bridge=(found.logZ, 0.02), coverage=(0.0, 0.02), ess=found.ess, khat=found.khat, n_draws=N,
        rounds=((found.logZ, found.logZ_err, 0.9),),
    )  # fmt: skip
    theta = np.full((N, result.theta.shape[1]), 7.0)
    return replace(result, refined=refined, draws=theta, draws_logL=logL, draws_logw=logw)


PROBLEMS = {"ball": gaussian_ball(), "half zero": half_zero(gaussian_ball()), "cake": wedding_cake()}


@pytest.mark.parametrize("name", PROBLEMS)
def test_anesthetic_reads_the_headline(name):
    result = with_draws(PROBLEMS[name])
    assert result.headline.name == "importance"
    samples = result.samples()
    assert abs(samples.logZ() - result.logZ) < 3 / result.replay.n_live + 0.2 * result.logZ_err
    assert abs(samples.logZ() - PROBLEMS[name].logZ) < 4 * result.logZ_err
    assert samples.logZ(200).std() > result.logZ_err
    assert samples.D_KL() == pytest.approx(result.D_KL, abs=3 / np.sqrt(result.replay.n_live))


@pytest.mark.parametrize("name", PROBLEMS)
def test_a_replay_is_a_ledger(name):
    points = with_draws(PROBLEMS[name]).replay
    births = np.where(np.isnan(points.logL_birth), -np.inf, points.logL_birth)
    assert np.all((points.logL > births) | np.isnan(points.logL_birth))
    assert np.all(points.logL[1:] >= points.logL[:-1])
    _, n_alive = death_order(points.logL, points.logL_birth)
    firsts = np.unique(points.logL[: -points.n_live], return_index=True)[1]
    np.testing.assert_array_equal(n_alive[firsts], points.n_live)
    np.testing.assert_array_equal(n_alive[-points.n_live :], np.arange(points.n_live, 0, -1))


def test_share_of_zero_likelihood_is_kept():
    points = with_draws(PROBLEMS["half zero"], n_live=400).replay
    n_zero = np.count_nonzero(np.isneginf(points.logL))
    assert n_zero / points.n_live == pytest.approx(0.5, abs=0.1)
    assert np.count_nonzero(np.isneginf(points.logL_birth)) == n_zero


def test_draws_correct_volumes_that_drifted():
    """A run that kept every second of the points that died believes in half of the compression."""
    problem = gaussian_ball()
    result = with_draws(problem, n_live=200)
    keep = np.arange(len(result.logL)) % 2 == 0
    keep[-result.n_live :] = True
    order = np.argsort(result.logL, kind="stable")
    logL, births = result.logL[order][keep], np.full(keep.sum(), np.nan)
    births[result.n_live :] = logL[: -result.n_live]
    points = prior_points(logL, births, result.draws_logL, result.draws_logw)
    assert abs(logsumexp(points.logmass + points.logL) - result.logZ) < result.logZ_err
    assert abs(logsumexp(points.logmass)) < 1e-9
    below = points.row < len(logL)
    assert 0 < below.sum() < len(below)
    X = np.exp(np.logaddexp.accumulate(points.logmass[::-1])[::-1])
    exact = np.array([problem.above(level) for level in points.logL])
    near = below & (X > 0.02)
    assert np.max(np.abs(np.log(X[near] / exact[near]))) < 0.5


def test_live_points_follow_the_information_and_the_error():
    result = with_draws(gaussian_ball())
    points = prior_points(result.logL, result.logL_birth, result.draws_logL, result.draws_logw)
    n_live = live_points(points, result.D_KL, result.logZ_err)
    samples = result.samples()
    assert effective_sample_size(np.log(samples.get_weights())) == pytest.approx(effective_sample_size(points.logw()), rel=0.1)
    assert live_points(points, 9.0, 0.3) == 100 < n_live
    assert live_points(points, 9.0, 100.0) == FEWEST


def test_information_needs_no_volumes():
    problem = gaussian_ball()
    pulls = []
    for seed in range(40):
        X, logL, logw = draws_of(problem, np.random.default_rng(seed))
        found = importance(logw)
        pulls.append(information(logL, logw, found.logZ, found.logZ_err))
    grid = (np.arange(400_000) + 0.5) / 400_000
    logL = problem.logL(grid)
    w = np.exp(logL - logsumexp(logL))
    D_KL, d_G = np.sum(w * logL) - problem.logZ, 2 * (np.sum(w * logL**2) - np.sum(w * logL) ** 2)
    for exact, value, err in ((D_KL, "D_KL", "D_KL_err"), (d_G, "d_G", "d_G_err")):
        z = np.array([(getattr(p, value) - exact) / getattr(p, err) for p in pulls])
        assert abs(z.mean()) < 3 / np.sqrt(40)
        assert 0.7 < z.std(ddof=1) < 1.4


def test_replays_are_the_same_each_time_and_after_loading(tmp_path):
    result = with_draws(gaussian_ball())
    result.save(tmp_path)
    again = Result.load(tmp_path)
    for name in ("theta", "logL", "logL_birth"):
        np.testing.assert_array_equal(getattr(again.replay, name), getattr(result.replay, name))
    assert len(result.samples(n_live=50)) < len(result.samples())
    with pytest.raises(OptionError, match="Expected n_live to be a positive integer, got 0.5"):
        result.samples(n_live=0.5)


def test_the_run_itself_where_volumes_are_the_headline_or_log_L_of_draws_is_unknown():
    result = with_draws(gaussian_ball())
    assert len(result.ledger()) == len(result.logL) != len(result.samples())
    for other in (replace(result, refined=None), replace(result, draws_logL=np.empty(0))):
        assert other.replay.logL is other.logL


def test_a_million_points_take_two_seconds():
    n = 1_000_000
    rng = np.random.default_rng(0)
    logL = np.sort(rng.normal(size=n))
    points = PriorPoints(np.arange(n), logL, np.full(n, -np.log(n)))
    start = time.process_time()
    played = replay(points, 20_000, rng)
    assert time.process_time() - start < 2
    assert len(played.logL) > 50_000


def test_volumes_below_the_smallest_float():
    """A climb of 2000 e-folds: volumes are kept as logarithms."""
    n, steps = 20, 40_000
    logL, births = np.arange(steps, dtype=float), np.r_[np.full(n, np.nan), np.arange(steps - n, dtype=float)]
    logX = -2000 + 30.0
    level = np.full(3000, steps - 600.0) + np.linspace(0, 1, 3000)
    points = prior_points(logL, births, level, level + logX)
    assert np.all(np.isfinite(points.logmass[:-1]))
    assert logsumexp(points.logmass[points.row >= steps]) == pytest.approx(logX, abs=0.1)
