"""Importance and bridge estimates, Pareto k-hat, and the choice of the headline."""

from dataclasses import replace

import numpy as np
import pytest
from ledgers import make_refinement
from scipy import stats

from fusions.evidence.headline import choose
from fusions.evidence.importance import bridge, importance, pareto_khat
from fusions.evidence.refinement import ChainsReport, FindReport, RoundReport

LOG_Z = 3.0


def log_weights(rng, n, target, proposal):
    """Draw from the proposal; return log weights against Z times the target."""
    x = proposal.rvs(n, random_state=rng)
    return LOG_Z + target.logpdf(x) - proposal.logpdf(x)


def test_importance_is_unbiased_with_a_calibrated_error():
    rng = np.random.default_rng(0)
    found = [importance(log_weights(rng, 1000, stats.norm(), stats.norm(0.2, 1.3))) for _ in range(200)]
    pull = np.array([(f.logZ - LOG_Z) / f.logZ_err for f in found])
    assert abs(pull.mean()) < 3.5 / np.sqrt(200)
    assert 0.85 < pull.std() < 1.15
    assert 0.5 < np.mean([f.ess for f in found]) / 1000 < 1


def test_equal_weights_have_no_error():
    found = importance(np.full(100, 1.5))
    assert found.logZ == pytest.approx(1.5)
    assert found.logZ_err == 0
    assert found.khat == -np.inf


def test_weights_of_zero_likelihood():
    half = np.concatenate([np.zeros(50), np.full(50, -np.inf)])
    assert importance(half).logZ == pytest.approx(-np.log(2))
    nothing = importance(np.full(50, -np.inf))
    assert nothing.logZ == -np.inf
    assert nothing.logZ_err == np.inf


@pytest.mark.parametrize("k", [0.2, 0.5, 0.9])
def test_khat_recovers_the_shape_of_a_pareto_tail(k):
    rng = np.random.default_rng(1)
    found = [pareto_khat(np.log(stats.genpareto(k).rvs(20_000, random_state=rng) + 1)) for _ in range(20)]
    assert abs(np.mean(found) - k) < 0.08


def test_bridge_is_right_where_importance_misses_a_tail():
    """A proposal without the right half of the target's mass: importance loses it, the bridge to target points finds it."""
    rng = np.random.default_rng(2)
    target, proposal = stats.norm(), stats.truncnorm(-20, 0.0)
    draws = log_weights(rng, 4000, target, proposal)
    x = target.rvs(4000, random_state=rng)
    logw = LOG_Z + target.logpdf(x) - proposal.logpdf(x)
    assert importance(draws).logZ == pytest.approx(LOG_Z - np.log(2))
    assert bridge(logw, np.ones(4000), draws) == pytest.approx(LOG_Z, abs=0.05)


def test_bridge_scatter():
    rng = np.random.default_rng(3)
    target, proposal, found = stats.norm(), stats.norm(0.3, 1.2), []
    for _ in range(100):
        x = target.rvs(500, random_state=rng)
        posterior = LOG_Z + target.logpdf(x) - proposal.logpdf(x)
        found.append(bridge(posterior, np.ones(500), log_weights(rng, 500, target, proposal)) - LOG_Z)
    assert abs(np.mean(found)) < 3.5 * np.std(found) / 10
    assert np.std(found) < 0.03


GOOD = make_refinement()


@pytest.mark.parametrize(
    ("change", "name", "words"),
    [
        ({}, "importance", None),
        ({"khat": 0.9, "ess": 300.0, "n_draws": 4096}, "importance", "few draws carry"),
        ({"importance": (-1.0, 0.2), "khat": 0.9, "ess": 30.0, "n_draws": 4096}, "volumes", "few draws carry"),
        ({"khat": 0.9, "ess": 300.0}, "importance", "only 15% of the draws are effective"),
        ({"khat": 0.9}, "importance", None),
        ({"ess": 900.0}, "importance", None),
        ({"ess": 900.0, "khat": 0.6}, "importance", "only 44% of the draws are effective"),
        ({"ess": 100.0, "n_draws": 120}, "importance", "few draws carry"),
        ({"coverage": (0.15, 0.01)}, "volumes", "importance and bridge sampling differ by +0.150"),
        ({"rounds": (RoundReport(-1.2, 0.01, 0.7),)}, "volumes", "the last two rounds differ"),
        ({"chains": ChainsReport(n_moves=999, drift=7.5, settled=False)}, "importance", "have not converged after 999 moves"),
        ({"importance": (-2.0, 0.01), "rounds": (RoundReport(-2.0, 0.01, 0.7),)}, "importance", "disagree: one of them lost"),
    ],
)
def test_headline_follows_the_checks(change, name, words):
    refined = replace(GOOD, **change)
    headline = choose((-1.05, 0.1), refined)
    assert headline.name == name
    assert (headline.logZ, headline.logZ_err) == (refined.importance if name == "importance" else (-1.05, 0.1))
    assert len(headline.warnings) == (words is not None)
    assert words is None or words in headline.warnings[0]


@pytest.mark.parametrize(
    ("change", "err"),
    [
        ({"coverage": (0.05, 0.01)}, np.hypot(0.01, 0.05)),
        ({"rounds": (RoundReport(-1.06, 0.01, 0.7),)}, np.hypot(0.01, 0.06)),
        ({"coverage": (-0.05, 0.01), "rounds": (RoundReport(-1.06, 0.01, 0.7),)}, np.sqrt(0.01**2 + 0.05**2 + 0.06**2)),
    ],
)
def test_what_estimates_disagree_by_is_a_part_of_the_error(change, err):
    headline = choose((-1.05, 0.1), replace(GOOD, **change))
    assert (headline.name, headline.logZ) == ("importance", -1.0)
    assert headline.logZ_err == pytest.approx(err)
    assert len(headline.warnings) == len(change)
    assert "a check failed" in headline.reason


@pytest.mark.parametrize(("mass", "warned"), [(0.02, False), (0.04, True)])
def test_mass_that_draws_do_not_reach_is_a_part_of_the_error(mass, warned):
    headline = choose((-1.05, 0.1), replace(GOOD, missed_mass=mass))
    assert headline.logZ_err == pytest.approx(np.hypot(0.01, mass))
    assert any("chains hold 4.0% of the posterior" in text for text in headline.warnings) == warned


def find(logZ, err, khat=np.inf, name="round 1"):
    """Make what a round found, carried by one draw."""
    return FindReport(name=name, logZ=logZ, logZ_err=err, khat=khat, logL=14.28, at={"x": 0.37, "y": -0.04})


@pytest.mark.parametrize(
    ("found", "excess"),
    [
        (find(5.5, 1.0), 6.5),
        (find(4.8, 1.0), 0.0),  # a chance of e^-5.8, or less
        (find(-7.5, 1.0), 0.0),
        (find(-0.9, 0.01), 0.0),  # of weights whose variance is not finite
        (find(-0.9, 0.01, 0.3), 0.1),
        (find(-0.97, 0.01, 0.3), 0.0),
        (find(-1.1, 0.01, 0.3), 0.0),
    ],
)
def test_what_a_round_found_above_the_estimate_is_a_part_of_the_error(found, excess):
    plain, headline = (choose((-1.05, 0.2), replace(GOOD, finds=finds)) for finds in ((), (find(-1.0, 0.01, 0.3), found)))
    assert (headline.name, headline.logZ) == ("importance", -1.0)
    assert headline.excess == pytest.approx(excess)
    assert headline.logZ_err == pytest.approx(np.hypot(0.01, excess))
    if excess:
        (text,) = headline.warnings
        assert f"round 1 of the refine phase found ln Z = {found.logZ:.2f} +- {found.logZ_err:.2f}, {excess:.2f} nats more" in text
        assert "log L = 14.28 at x=0.37, y=-0.04" in text
        assert "more live points" in text
    else:
        assert headline == plain


def test_the_last_round_is_counted_once():
    last = {"rounds": (RoundReport(-0.9, 0.01, 0.7),), "finds": (find(-0.9, 0.01, 0.3),)}
    headline = choose((-1.05, 0.1), replace(GOOD, **last))
    assert (headline.logZ_err, headline.excess) == (0.1, 0.0)  # of the volumes, which it does not contradict
    wide = choose((-1.05, 0.5), replace(GOOD, **last))
    assert (wide.name, len(wide.warnings)) == ("importance", 1)
    assert wide.logZ_err == pytest.approx(np.hypot(0.01, 0.1))


def test_draws_far_above_the_volumes_are_in_the_error_of_these():
    few = {
        "importance": (5.0, 1.0),
        "coverage": (6.2, 1.0),
        "khat": 0.99,
        "ess": 1.0,
        "n_draws": 4096,
        "rounds": (RoundReport(5.0, 1.0, 0.001),),
    }
    headline = choose((-1.05, 0.1), replace(GOOD, **few, finds=(find(5.0, 1.0, 0.99, "the final draws"),)))
    assert (headline.name, headline.logZ) == ("volumes", -1.05)
    assert headline.logZ_err == pytest.approx(np.hypot(0.1, 6.05))
    assert "the final draws of the refine phase found ln Z = 5.00 +- 1.00, 6.05 nats more" in headline.warnings[0]


def test_importance_sampling_with_few_draws_is_nearer_than_volumes_far_below_it():
    few = {"importance": (-17.7, 0.5), "khat": 0.9, "ess": 4.0, "n_draws": 4096, "rounds": (RoundReport(-17.7, 0.5, 0.001),)}
    headline = choose((-1304.2, 0.1), replace(GOOD, **few, finds=(find(-17.7, 0.5, 0.9, "the final draws"),)))
    assert (headline.name, headline.logZ, headline.logZ_err) == ("importance", -17.7, 0.5)
    assert any("few draws carry" in text for text in headline.warnings)


@pytest.mark.parametrize("shape", [0.2, 0.45, 0.9])
def test_chance_seldom_makes_a_find(shape):
    """2000 rounds of 400 Pareto weights of mean one: at the level of three standard errors, as rarely as for normal estimates."""
    rng, n_flagged = np.random.default_rng(0), 0
    for _ in range(2000):
        now = importance(np.log((1 - shape) * rng.random(400) ** -shape))
        refined = replace(GOOD, importance=(0.0, 0.0), finds=(find(now.logZ, now.logZ_err, now.khat),))
        n_flagged += choose((0.0, 0.1), refined).excess > 0
    level = 2 * stats.norm.sf(3)
    assert n_flagged <= stats.binom(2000, level).ppf(1 - 1e-4)


def test_headline_without_refinement_is_the_volumes():
    assert choose((-1.05, 0.1), None)[:3] == ("volumes", -1.05, 0.1)


@pytest.mark.parametrize("refined", [None, replace(GOOD, coverage=(0.15, 0.01)), GOOD])
def test_volumes_from_short_walks_carry_a_warning(refined):
    """Importance sampling does not care how long the walks were."""
    count = [len(choose((-1.05, 0.1), refined, memory).warnings) for memory in (0.3, 0.45)]
    headline = choose((-1.05, 0.1), refined, 0.45)
    assert count[1] - count[0] == (headline.name == "volumes")
    assert headline.name == "importance" or "1.6 times larger" in headline.warnings[-1]
