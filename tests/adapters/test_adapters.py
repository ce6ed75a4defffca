"""The contract of all adapters: right evidence, equal seeds give equal numbers, a stopped run goes on to those of an undisturbed one."""

import itertools
import math

import adapter_problems as ap
import numpy as np
import pytest

ADAPTERS = sorted(ap.SOLVE)
PROBLEMS = sorted(ap.EXACT)
N_LIVE = 60
PULL = 3.0  # claimed errors
FAST = {(adapter, "phase", 0) for adapter in ADAPTERS} | {("bilby", "modes", 0)}
CASES = list(itertools.product(ADAPTERS, PROBLEMS, range(5)))


@pytest.mark.parametrize(
    ("adapter", "name", "seed"), [case if case in FAST else pytest.param(*case, marks=pytest.mark.slow) for case in CASES]
)
def test_evidence(adapter, name, seed):
    found = ap.solved(adapter, name, seed, N_LIVE if (adapter, name, seed) in FAST else 100)
    assert found.logZ_err < 0.3
    assert found.logZ == pytest.approx(ap.EXACT[name], abs=PULL * found.logZ_err)


@pytest.mark.parametrize(("one", "other"), itertools.combinations(ADAPTERS, 2))
def test_the_same_problem_has_the_same_evidence_everywhere(one, other):
    a, b = (ap.solved(adapter, "phase", 0, N_LIVE) for adapter in (one, other))
    assert a.logZ == pytest.approx(b.logZ, abs=PULL * math.hypot(a.logZ_err, b.logZ_err))


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_posterior_and_circle(adapter):
    """The mode of the phase lies across the edge of its prior: points are on both sides, all in range."""
    x, y, phi = ap.solved(adapter, "phase", 0, N_LIVE).points.T
    assert len(x) > 100
    assert np.all((phi >= 0) & (phi <= ap.TURN))
    assert 0.25 < np.mean(phi < math.pi) < 0.75
    for points, mean, sd in ((x, 1.0, 0.5), (y, 0.4, math.sqrt(0.2))):
        assert points.mean() == pytest.approx(mean, abs=5 * sd / math.sqrt(len(points)))
        assert points.std() == pytest.approx(sd, rel=5 / math.sqrt(2 * len(points)))


@pytest.mark.parametrize(
    "adapter", ["cobaya", pytest.param("numpyro", marks=pytest.mark.slow)]
)  # bilby is interrupted by a signal in test_bilby.py
def test_stopped_run_resumes_to_the_numbers_of_an_undisturbed_one(adapter, tmp_path):
    folder = str(tmp_path / adapter)
    stopped = ap.SOLVE[adapter]("phase", 0, N_LIVE, folder, max_calls=2000)
    whole = ap.solved(adapter, "phase", 0, N_LIVE)
    assert stopped.n_calls < whole.n_calls
    resumed = ap.SOLVE[adapter]("phase", 0, N_LIVE, folder)
    assert (resumed.logZ, resumed.logZ_err, resumed.n_calls) == (whole.logZ, whole.logZ_err, whole.n_calls)
    assert np.array_equal(resumed.points, whole.points)


def test_numpyro_and_native_are_the_same_run():
    """Internal coordinates are the same, and so is every number."""
    a, b = (ap.solved(adapter, "phase", 0, N_LIVE) for adapter in ("native", "numpyro"))
    assert (a.logZ, a.n_calls) == (b.logZ, b.n_calls)
