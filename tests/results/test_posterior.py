"""Monte Carlo errors of posterior means, standard deviations, quantiles and masses, by their own pulls."""

from dataclasses import replace

import numpy as np
import pytest
from ledgers import gaussian_ball, make_refinement, make_result
from scipy.stats import norm

from fusions.errors import OptionError
from fusions.evidence.importance import importance

SEEDS = 60


def drawn(seed, n=2000, width=1.3):
    """Make a result whose draws are those of a wider normal than the posterior, N(0, 1) in four coordinates and their squares' sum."""
    rng = np.random.default_rng(seed)
    x = rng.normal(scale=width, size=(n, 4))
    logw = norm.logpdf(x).sum(1) - norm.logpdf(x, scale=width).sum(1)
    found = importance(logw)
    refined = make_refinement(
        importance=(found.logZ, found.logZ_err), bridge=(0.0, 0.03), coverage=(0.0, 0.03), ess=found.ess, khat=found.khat, n_draws=n,
        rounds=((found.logZ, found.logZ_err, 0.9),),
    )  # fmt: skip
    logL = -0.5 * (x**2).sum(1)
    columns = {"draws": np.column_stack([x, (x**2).sum(1)]), "draws_logL": logL, "draws_logw": logw}
    return replace(make_result(gaussian_ball(), seed=0, n_live=50, n_kill=5), refined=refined, **columns)


def check(pulls):
    pulls = np.asarray(pulls)
    assert np.all(np.abs(pulls.mean(0)) < 4 / np.sqrt(SEEDS))
    assert np.all(np.abs(pulls.std(0, ddof=1) - 1) < 4 / np.sqrt(2 * SEEDS))


@pytest.fixture(scope="module")
def results():
    return [drawn(seed) for seed in range(SEEDS)]


def test_errors_of_moments(results):
    assert results[0].headline.name == "importance"
    moments = [r.moments() for r in results]
    check([(m.mean[:2] - 0) / m.mean_err[:2] for m in moments])
    check([(m.sd[:2] - 1) / m.sd_err[:2] for m in moments])


def test_errors_of_quantiles_and_masses(results):
    q = [0.16, 0.5, 0.9]
    pairs = [r.quantiles(q) for r in results]
    check([(value[:, 0] - norm.ppf(q)) / err[:, 0] for value, err in pairs])
    first = results[0].names[0]
    masses = [r.expectation(lambda p: p[first] > 1) for r in results]
    check([[(value - norm.sf(1)) / err] for value, err in masses])


def test_errors_of_a_nested_run_alone_hold_those_of_its_volumes():
    runs = [make_result(gaussian_ball(), seed=seed, n_live=100, n_kill=5) for seed in range(SEEDS)]
    moments = [run.moments() for run in runs]
    exact = 4.0  # mean of r^2 under N(0, 1) in four dimensions, the ball's edge being far out
    check([[(m.mean[4] - exact) / m.mean_err[4]] for m in moments])
    check([(m.mean[:1] - 0) / m.mean_err[:1] for m in moments])


def test_wrong_arguments(results):
    with pytest.raises(OptionError, match=r"Type result.quantiles\(\[0.16, 0.5, 0.84\]\)"):
        results[0].quantiles([16, 50])
    with pytest.raises(OptionError, match=r"Expected the function to return \(2000,\) finite values, got shape \(\)"):
        results[0].expectation(lambda p: 1.0)
