"""Evidence of ledgers from perfect nested sampling, against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ledgers import gaussian_ball, half_zero, make_result, nested_run, wedding_cake
from scipy.special import logsumexp as reference_logsumexp
from scipy.stats import kstest, norm, uniform

from fusions.evidence.volumes import Running, _moments, death_order, evaluate_ledger, insertion_uniforms, shell_weights
from fusions.numerics import (
    drawn,
    effective_sample_size,
    logsumexp,
    normal_from,
    pick_columns,
    scattered,
    systematic_resample,
    uniforms,
)

SEEDS = range(40)


def pulls(problem, **run):
    """Return (ln Z - exact)/error of perfect runs, one for each seed."""
    out = []
    for seed in SEEDS:
        ledger = nested_run(problem, seed=seed, **run)
        evidence = evaluate_ledger(ledger.logL, ledger.logL_birth)
        out.append((evidence.logZ - problem.logZ) / evidence.logZ_err)
    return np.array(out)


@pytest.mark.parametrize(
    ("problem", "run"),
    [
        (gaussian_ball(), {"n_live": 50, "n_kill": 1}),
        (gaussian_ball(), {"n_live": 200, "n_kill": 40}),
        (gaussian_ball(), {"n_live": 100, "n_kill": 50}),
        (wedding_cake(), {"n_live": 100, "n_kill": 1}),
        (wedding_cake(), {"n_live": 100, "n_kill": 30}),
        (half_zero(gaussian_ball()), {"n_live": 100, "n_kill": 10}),
        (half_zero(wedding_cake(), 0.9), {"n_live": 200, "n_kill": 10}),
    ],
    ids=["one", "batch", "half", "cake", "cake-batch", "zero-half", "zero-most-cake"],
)
def test_perfect_runs_have_calibrated_pulls(problem, run):
    values = pulls(problem, **run)
    assert abs(values.mean()) <= 3 / np.sqrt(len(values))
    # 99.9 % interval of the standard deviation of 40 standard normals, a little wider
    assert 0.62 <= values.std(ddof=1) <= 1.4


def test_error_scales_with_live_points():
    few, many = (
        evaluate_ledger(ledger.logL, ledger.logL_birth).logZ_err
        for ledger in (nested_run(gaussian_ball(), seed=1, n_live=n, n_kill=n // 10) for n in (50, 800))
    )
    assert few / many == pytest.approx(4, rel=0.3)


@pytest.mark.parametrize("n", [1, 20, 500])
def test_constant_likelihood_gives_exactly_one(n):
    evidence = evaluate_ledger(np.zeros(n), np.full(n, np.nan))
    assert abs(evidence.logZ) <= 1e-12
    assert abs(evidence.logZ_err) <= 1e-12
    assert abs(evidence.D_KL) <= 1e-12


def test_constant_likelihood_with_zero_mass_is_binomial():
    logL = np.where(np.arange(400) < 100, -np.inf, 0.0)
    evidence = evaluate_ledger(logL, np.full(400, np.nan))
    assert evidence.logZ == pytest.approx(np.log(0.75), abs=3 * evidence.logZ_err)
    assert np.all(np.isneginf(evidence.logw[:100]))


def test_information_and_dimensionality_of_the_ball():
    ledger = nested_run(gaussian_ball(), seed=3, n_live=1000, n_kill=100)
    evidence = evaluate_ledger(ledger.logL, ledger.logL_birth)
    # the edge of the ball cuts 1e-7 of the mass: <log L> = -2, Var = 2
    assert evidence.D_KL == pytest.approx(-2 - gaussian_ball().logZ, abs=4 * evidence.D_KL_err)
    assert evidence.d_G == pytest.approx(4, abs=4 * evidence.d_G_err)


@pytest.mark.parametrize("constant", [0.0, 1e6, 5e7, 1e9, 1e12])
def test_constant_added_to_the_likelihood_cancels(constant):
    """Values on a grid that all of these constants leave exact: only ln Z itself is rounded."""
    ledger = nested_run(gaussian_ball(), seed=3, n_kill=20)
    logL, birth = (np.round(values * 1024) / 1024 for values in (ledger.logL, ledger.logL_birth))
    plain, shifted = evaluate_ledger(logL, birth), evaluate_ledger(logL + constant, birth + constant)
    assert shifted.logZ - constant == pytest.approx(plain.logZ, abs=np.spacing(constant))
    for name in ("D_KL", "d_G", "D_KL_err", "d_G_err"):
        assert getattr(shifted, name) == pytest.approx(getattr(plain, name), rel=1e-12), name
    np.testing.assert_allclose(shifted.logw, plain.logw, atol=1e-12)
    assert shifted.logZ_err == pytest.approx(plain.logZ_err, abs=np.spacing(constant) + 1e-12)
    assert np.exp(shifted.logw).sum() == pytest.approx(1, abs=1e-12)


def test_both_branches_of_the_moments_agree():
    """A ledger whose volumes are known: the same d_G and D_KL as by hand, from one column of masses and from several."""
    logL, mass = 5e7 + np.array([-1e3, 0.0, 1.0, 3.0]), np.array([0.1, 0.2, 0.3, 0.4])
    weight = mass * np.exp([-1e3, 0.0, 1.0, 3.0])
    p = weight / weight.sum()
    mean = p @ [-1e3, 0, 1, 3]
    expected = mean - np.log(weight.sum()), 2 * p @ (np.array([-1e3, 0, 1, 3]) - mean) ** 2
    one, many = _moments(logL, np.log(mass)), _moments(logL, np.log(mass)[:, None] + np.zeros(3))
    np.testing.assert_allclose(one[1:3], expected, rtol=1e-12)
    np.testing.assert_allclose(many[1:3], np.repeat(np.array(expected)[:, None], 3, axis=1), rtol=1e-12)


@pytest.mark.filterwarnings("error")
def test_values_that_stand_in_for_zero_make_no_warnings():
    """A square of -1e250 overflows; such points weigh nothing."""
    ledger = nested_run(gaussian_ball(), seed=3, n_kill=20)
    first = np.arange(len(ledger.logL)) < 10
    plain, floor = (evaluate_ledger(np.where(first, value, ledger.logL), ledger.logL_birth) for value in (-1e4, -1e250))
    for name in ("logZ", "D_KL", "d_G", "d_G_err"):
        assert getattr(floor, name) == pytest.approx(getattr(plain, name), rel=1e-12)


@pytest.mark.parametrize("fixed", [gaussian_ball(), half_zero(wedding_cake())], ids=["ball", "zero-cake"])
def test_merged_ledgers_equal_one_run_of_more_points(fixed):
    values, ratio = [], []
    for seed in range(20):
        parts = [nested_run(fixed, seed=[seed, i], n_live=n, n_kill=n // 10) for i, n in enumerate((50, 150))]
        merged = [np.concatenate([getattr(p, k) for p in parts]) for k in ("logL", "logL_birth")]
        evidence = evaluate_ledger(*merged)
        values.append((evidence.logZ - fixed.logZ) / evidence.logZ_err)
        whole = nested_run(fixed, seed=seed, n_live=200, n_kill=20)
        ratio.append(evidence.logZ_err / evaluate_ledger(whole.logL, whole.logL_birth).logZ_err)
    assert abs(np.mean(values)) <= 3 / np.sqrt(20)
    assert 0.5 <= np.std(values, ddof=1) <= 1.56
    assert np.mean(ratio) == pytest.approx(1, abs=0.1)


def test_order_of_the_ledger_does_not_matter():
    ledger = nested_run(gaussian_ball(), seed=5, n_kill=10)
    order = np.random.default_rng(0).permutation(len(ledger.logL))
    one = evaluate_ledger(ledger.logL, ledger.logL_birth)
    other = evaluate_ledger(ledger.logL[order], ledger.logL_birth[order])
    assert other.logZ == one.logZ
    np.testing.assert_array_equal(other.logw, one.logw[order])
    np.testing.assert_array_equal(other.logX, one.logX[order])


def test_points_alive_in_a_batch_and_on_a_plateau():
    # four prior draws; the lower two die together at contour 1; then a plateau at 2 of three points
    logL = np.array([0.0, 1.0, 2.0, 2.0, 2.0, 3.0])
    birth = np.array([np.nan, np.nan, np.nan, np.nan, 1.0, 1.0])
    order, n_alive = death_order(logL, birth)
    np.testing.assert_array_equal(order, np.arange(6))
    np.testing.assert_array_equal(n_alive, [4, 3, 4, 3, 2, 1])


def test_shell_masses_sum_to_one():
    logX = np.cumsum(-np.random.default_rng(0).exponential(size=(50, 3)), axis=0)
    np.testing.assert_allclose(np.exp(shell_weights(logX)).sum(0), 1, rtol=1e-14)
    np.testing.assert_allclose(np.exp(shell_weights(np.array([-1.0]))), 1)


@pytest.mark.parametrize(
    ("problem", "n_live", "n_kill"),
    [(gaussian_ball(), 200, 20), (half_zero(gaussian_ball()), 200, 20), (wedding_cake(), 100, 5)],
    ids=["ball", "zero-half", "cake"],
)
def test_agrees_with_anesthetic_within_the_shrinkage_convention(problem, n_live, n_kill):
    result = make_result(problem, n_live=n_live, n_kill=n_kill)
    samples = result.samples()
    assert samples.logZ() == pytest.approx(result.logZ, abs=result.D_KL / n_live)
    assert samples.D_KL() == pytest.approx(result.D_KL, abs=5 * result.evidence.D_KL_err)
    assert samples.d_G() == pytest.approx(result.d_G, abs=5 * result.evidence.d_G_err)
    assert samples.logZ(200).std() == pytest.approx(result.logZ_err, rel=0.25)


def test_running_evidence_follows_the_final_one():
    problem = gaussian_ball()
    ledger = nested_run(problem, seed=2, n_live=400, n_kill=40)
    running, logL = Running(), ledger.logL
    dead = len(logL) - 400
    for start in range(0, dead, 40):
        running = running.kill(logL[start : start + 40], 400)
    evidence = evaluate_ledger(ledger.logL, ledger.logL_birth)
    assert running.logX == pytest.approx(evidence.logX[dead - 1], abs=1e-12)
    assert running.logZ == pytest.approx(evidence.logZ, abs=0.01)
    assert running.remaining(logL[dead:]) < -7
    assert Running().remaining(np.full(5, -np.inf)) == 0


def test_insertion_uniforms_are_uniform_under_correct_sampling():
    good = [kstest(nested_run(gaussian_ball(), seed=s, n_kill=20).uniforms, "uniform").pvalue for s in SEEDS]
    assert kstest(good, "uniform").pvalue > 1e-3
    cake = [kstest(nested_run(wedding_cake(), seed=s, n_kill=20).uniforms, "uniform").pvalue for s in SEEDS]
    assert kstest(cake, "uniform").pvalue > 1e-3


def test_insertion_uniforms_are_independent_within_a_batch():
    rng = np.random.default_rng(0)
    batches = np.array([insertion_uniforms(rng, rng.random(20), rng.random(20)) for _ in range(2000)])
    correlation = np.corrcoef(batches.T) - np.eye(20)
    assert np.max(np.abs(correlation)) < 5 / np.sqrt(2000)
    # ranking all against the same survivors would make sums of a batch overdispersed
    assert batches.sum(1).var() == pytest.approx(20 / 12, rel=0.15)


def test_insertion_uniforms_see_wrong_sampling():
    wrong = [nested_run(gaussian_ball(), seed=s, n_kill=20, shrink=0.85).uniforms for s in range(5)]
    assert all(kstest(u, "uniform").pvalue < 1e-4 for u in wrong)
    assert all(u.min() >= 0 and u.max() < 1 for u in wrong)


@pytest.mark.parametrize("axis", [None, 0, 1])
def test_logsumexp_matches_scipy(axis):
    a = np.random.default_rng(0).normal(scale=500, size=(30, 4))
    a[3] = -np.inf
    np.testing.assert_allclose(logsumexp(a, axis), reference_logsumexp(a, axis), rtol=1e-14)
    assert np.all(np.isneginf(logsumexp(np.full((3, 2), -np.inf), axis)))


def test_effective_sample_size_counts_equal_weights():
    assert effective_sample_size(np.full(7, -1e5)) == pytest.approx(7)
    assert effective_sample_size(np.array([0.0, -np.inf, -np.inf])) == pytest.approx(1)


def test_systematic_resampling_is_within_one_of_expectation():
    rng = np.random.default_rng(1)
    logw = rng.normal(size=40)
    logw[:5] = -np.inf
    counts = np.bincount(systematic_resample(rng, logw - 900, 1000), minlength=40)
    expected = 1000 * np.exp(logw - logsumexp(logw))
    assert counts.sum() == 1000
    assert np.all(np.abs(counts - expected) < 1)
    assert np.all(counts[:5] == 0)


def test_columns_are_picked_with_their_probabilities():
    p = np.array([[0.5, 0.3, 0.2], [0.0, 0.9, 0.1]])
    n = 20_000
    (u,) = uniforms(jax.random.key(3), jnp.float32, (2 * n,))
    column = np.asarray(pick_columns(u, jnp.log(jnp.asarray(p)).repeat(n, axis=0))).reshape(2, n)
    shares = np.array([np.bincount(row, minlength=3) for row in column]) / n
    assert np.all(np.abs(shares - p) <= 4 * np.sqrt(p * (1 - p) / n))


def test_uniform_numbers_lie_between_their_ends():
    """Rounding never gives 0 or 1, whose logarithms or their negatives would be infinite, in any part of the row."""
    u, v, w = uniforms(jax.random.key(4), jnp.float32, (1_000_000,), (), (30, 2))
    assert [part.shape for part in (u, v, w)] == [(1_000_000,), (), (30, 2)]
    assert 0 < u.min() < 1e-5
    assert 1 - 1e-5 < u.max() < 1
    assert kstest(np.asarray(u[::20], np.float64), uniform(0, 1).cdf).pvalue > 1e-3


def test_normal_numbers_are_normal_and_independent():
    pairs = uniforms(jax.random.key(5), jnp.float32, (2, 20_000, 2))[0]
    x = np.asarray(normal_from(pairs), np.float64)
    assert kstest(x.ravel(), norm.cdf).pvalue > 1e-3
    assert abs(np.corrcoef(x.T)[0, 1]) < 4 / np.sqrt(len(x))
    assert abs(np.corrcoef(x[:-1, 0], x[1:, 0])[0, 1]) < 4 / np.sqrt(len(x))


def test_scattered_points_are_uniform_and_cover_the_interval():
    """Each point is uniform over random shifts; any run of neighbours leaves no gap wider than 2.7 / n."""
    shifts = jnp.asarray(np.random.default_rng(0).random(4000), jnp.float32)
    points = np.asarray(jax.vmap(lambda u: scattered(u, 50))(shifts), np.float64)
    assert np.all((points >= 0) & (points < 1))
    assert kstest(points[:, 7], uniform(0, 1).cdf).pvalue > 1e-3
    for part in (points[0], points[0, 20:]):
        ordered = np.sort(part)
        assert np.max(np.diff(np.append(ordered, ordered[0] + 1))) < 2.7 / len(part)


def test_numbers_drawn_as_one_row_have_the_shape_and_the_law():
    x = np.asarray(drawn(jax.random.uniform, jax.random.key(4), (500, 10), jnp.float32, minval=-1.0))
    assert x.shape == (500, 10)
    assert x.dtype == np.float32
    assert kstest(x.ravel(), uniform(-1, 2).cdf).pvalue > 1e-3
    assert abs(np.corrcoef(x[:-1].ravel(), x[1:].ravel())[0, 1]) < 4 / np.sqrt(x.size)
