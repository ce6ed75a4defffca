"""Modes among nested points: told apart, and followed to the posterior when their last points lie far below it."""

import jax
import numpy as np
import oracles
import pytest
from scipy.special import ndtri
from scipy.stats import multivariate_normal as normal

from fusions.algorithms.nested.schedule import EXPENSIVE
from fusions.algorithms.refine import mode_draws, modes
from fusions.algorithms.refine.draws import RefineSpace
from fusions.algorithms.refine.phase import refine
from fusions.algorithms.refine.settings import Refine
from fusions.driver.compiled import charging, make_functions
from fusions.evidence.importance import importance
from fusions.evidence.volumes import Points
from fusions.flows.matching import Training
from fusions.flows.mixture import MixtureCNF
from fusions.types import Budget

CENTRES = np.array([[1.5, 1.5], [-1.5, 1.5], [1.5, -1.5], [-1.5, -1.5]])
WEIGHTS = np.array([0.4, 0.3, 0.2, 0.1])
WIDTH = 0.05
CUBE = 3.0  # half the side of the prior
SEED = jax.random.key(3)
EDGES = np.array([[-CUBE, -CUBE], [CUBE, CUBE]])


class Counted:
    """Log likelihood and flat log prior of points, which counts its calls."""

    def __init__(self, logL):
        self.logL, self.n_calls = logL, 0

    def __call__(self, x):
        """Return logL (n,), logprior (n,)."""
        self.n_calls += len(x)
        inside = np.all(np.abs(x) < CUBE, axis=1)
        return np.where(inside, self.logL(x), -np.inf), np.where(inside, -x.shape[1] * np.log(2 * CUBE), -np.inf)


def never():
    """Say that time is not up."""
    return False


def search(evaluate, dim=2, limit=np.inf, expired=never):
    """Say what a search for modes in the cube may use."""
    space = RefineSpace((False,) * dim, EDGES[:, :1].repeat(dim, axis=1), None, None)
    return mode_draws.Search(evaluate, space, limit, expired)


def islands(x):
    """Compute the log likelihood of four narrow Gaussians whose evidences are `WEIGHTS` times the prior density."""
    return np.logaddexp.reduce([np.log(w) + normal(c, WIDTH**2).logpdf(x) for w, c in zip(WEIGHTS, CENTRES, strict=True)])


def points_of(x, logL, logw=None, logZ=0.0):
    """Make `Points` of both folds, of equal weight unless told."""
    return Points(x, logL, np.arange(len(x)) % 2, np.full(len(x), -np.log(len(x))) if logw is None else logw, logZ)


def around(rng, centres, width, n):
    """Draw n points around each centre."""
    return np.concatenate([c + width * rng.standard_normal((n, len(c))) for c in centres])


def test_the_highest_point_of_each_mode_is_found():
    x = around(np.random.default_rng(0), CENTRES, 3 * WIDTH, 100)
    peaks, scales = modes.find_modes(x, islands(x), Counted(islands), (False, False))
    assert np.all(np.diff(islands(x[peaks])) <= 0)
    np.testing.assert_array_equal(np.sort(peaks), [100 * i + np.argmax(islands(x[100 * i : 100 * (i + 1)])) for i in range(4)])
    assert np.all((scales > 0.1 * WIDTH) & (scales < 10 * WIDTH))


def test_modes_of_a_lattice_are_told_apart():
    """Half-way between the outer two there is a third one, the highest."""
    centres, heights = np.array([[-1.5, 0.0], [0.0, 0.0], [1.5, 0.0]]), np.array([1.0, 3.0, 2.0])
    x = around(np.random.default_rng(8), centres, 3 * WIDTH, 100)

    def row(x):
        return np.logaddexp.reduce([h + normal(c, WIDTH**2).logpdf(x) for h, c in zip(heights, centres, strict=True)])

    peaks, _ = modes.find_modes(x, row(x), Counted(row), (False, False))
    np.testing.assert_array_equal(np.sort(peaks // 100), [0, 1, 2])


@pytest.mark.parametrize("periodic", [False, True])
def test_a_mode_across_the_seam_of_an_angle_is_one_mode(periodic):
    rng = np.random.default_rng(1)
    x = rng.uniform(-np.pi, np.pi, (500, 1))
    logL = lambda x: 4 * np.cos(x[:, 0] - np.pi)  # noqa: E731
    peaks, _ = modes.find_modes(x, logL(x), lambda x: (logL(x), np.zeros(len(x))), (periodic,))
    assert len(peaks) == (1 if periodic else 2)


def ridge(x):
    """Compute the log likelihood of a curved ridge."""
    return -0.5 * ((x[:, 1] - x[:, 0] ** 2) / 0.2) ** 2 - 0.1 * x[:, 0] ** 2


def along_ridge(rng, n):
    """Draw n points of it."""
    a = rng.uniform(-1.5, 1.5, n)
    return np.stack([a, a**2 + 0.2 * rng.standard_normal(n)], axis=1)


def test_a_curved_ridge_is_one_mode():
    x = along_ridge(np.random.default_rng(2), 1000)
    peaks, _ = modes.find_modes(x, ridge(x), Counted(ridge), (False, False))
    assert len(peaks) == 1


@pytest.mark.parametrize("seed", range(4))
def test_a_mode_known_by_its_flank_alone_gets_its_mass(seed):
    """Points close together on a slope make a law that is content there, until it looks around."""
    rng = np.random.default_rng(seed)
    flank = CENTRES[1] + [3 * WIDTH, 0] + 0.03 * WIDTH * rng.standard_normal((100, 2))
    x = np.concatenate([around(rng, CENTRES[:1], WIDTH, 100), flank])
    found = modes.survey(SEED, points_of(x, islands(x)), search(Counted(islands)))
    expected = np.log(WEIGHTS[:2]) - 2 * np.log(2 * CUBE)
    np.testing.assert_allclose(np.sort(found.logZ)[::-1], expected, atol=1.0)


def test_survey_finds_the_mass_of_each_mode():
    rng = np.random.default_rng(3)
    x = around(rng, CENTRES, WIDTH, 100)  # all alike, although the masses are not
    evaluate = Counted(islands)
    found = modes.survey(SEED, points_of(x, islands(x)), search(evaluate))
    order = np.argsort(-found.logZ)
    exact = np.log(WEIGHTS) - 2 * np.log(2 * CUBE)
    np.testing.assert_allclose(found.logZ[order], exact, atol=1.2)  # six effective draws at least: three standard errors
    assert evaluate.n_calls < 500
    closest = np.argmin(np.sum((found.u[:, None] - CENTRES) ** 2, axis=2), axis=1)
    shares = np.bincount(closest, np.exp(found.logw), minlength=4)
    np.testing.assert_allclose(shares, 1, atol=1e-6)
    np.testing.assert_allclose(found.logL, islands(found.u))
    assert np.all(found.gaussian)


def test_all_draws_together_estimate_the_evidence_of_overlapping_modes():
    """Each of the modes is followed twice."""
    rng, evaluate = np.random.default_rng(9), Counted(islands)
    laws = [mode_draws.Proposal.of(c, WIDTH**2 * np.eye(2), np.zeros(2, bool), 2.0) for c in np.repeat(CENTRES, 2, axis=0)]
    twice = [mode_draws.Mode(law, np.empty((0, 2))) for law in laws]
    mode_draws.draw_until_done(rng, twice, np.full(2, 1e-12), search(evaluate))
    parts = np.logaddexp.reduce([mode.logZ for mode in twice]) + 2 * np.log(2 * CUBE)
    assert parts == pytest.approx(np.log(2), abs=0.4)
    drawn = mode_draws.drawn_from(twice, 2)
    found = importance(drawn.logw)
    assert found.logZ_err < 0.15
    assert abs(found.logZ + 2 * np.log(2 * CUBE)) < 4 * found.logZ_err
    np.testing.assert_allclose(drawn.logL, islands(drawn.u))


@pytest.mark.parametrize("away", [4.5, 0.5])
@pytest.mark.parametrize("width", [1e-5, 1e-2])
def test_a_peak_is_followed_from_one_point_of_it(width, away):
    """In three dimensions, where it is much narrower than the points known, in one of them by much more."""
    scale = width * np.array([1.0, 10.0, 3.0])
    evaluate = Counted(lambda x: np.logaddexp(0.0, 15 + np.sum(-0.5 * ((x - 0.7) / scale) ** 2, axis=1)))
    top = 0.7 + away * scale * np.array([1, -0.3, 0.2])
    drawn = modes.follow(SEED, 256, top, np.full(3, CUBE / np.sqrt(3)), search(evaluate, 3, 2000))
    found = importance(drawn.logw)
    assert found.logZ_err < 0.1
    assert found.khat < 0.5
    assert abs(found.logZ - (15 + np.log(scale * np.sqrt(2 * np.pi)).sum() - 3 * np.log(2 * CUBE))) < 4 * found.logZ_err
    assert evaluate.n_calls < 200 * 3 + 9 + 256


def test_a_mode_that_died_long_before_the_posterior_is_found_again():
    rng = np.random.default_rng(4)
    wide = around(rng, CENTRES[:1], 8 * WIDTH, 60)
    wide = wide[np.linalg.norm(wide - CENTRES[0], axis=1) > 4 * WIDTH]  # the contour at which its last point died
    x = np.concatenate([around(rng, CENTRES[1:], WIDTH, 200), wide])
    logL = islands(x)
    early = np.arange(len(x)) >= 600
    logw = np.where(early, logL - logL.max() - 5, 0.0)
    found = modes.survey(SEED, points_of(x, logL, logw - np.logaddexp.reduce(logw)), search(Counted(islands)))
    assert len(found.logZ) == 4
    np.testing.assert_allclose(found.logZ.max(), np.log(0.4) - 2 * np.log(2 * CUBE), atol=1.2)


def test_a_single_gaussian_is_found_where_nested_points_are_far_from_it():
    """In 16 dimensions, from points that lie at five of its widths along a few of them."""
    rng, dim = np.random.default_rng(5), 16
    law = normal(np.full(dim, 0.5), WIDTH**2)
    x = 0.5 + WIDTH * (5 * rng.choice([-1, 1], (200, 1)) * (np.arange(dim) < 4) + rng.standard_normal((200, dim)))
    evaluate = Counted(law.logpdf)
    found = modes.survey(SEED, points_of(x, law.logpdf(x)), search(evaluate, dim))
    assert len(found.logZ) == 1
    w = np.exp(found.logw)
    assert 1 / np.sum(w**2) > dim**2  # a covariance can be told from them
    assert abs(found.logZ[0] + dim * np.log(2 * CUBE)) < 1
    np.testing.assert_allclose(w @ found.u, 0.5, atol=WIDTH)
    assert evaluate.n_calls < 2000


@pytest.mark.parametrize(("deficit", "n_modes"), [(0.0, 0), (3.0, 1)])
def test_a_single_mode_that_is_no_gaussian_is_kept_where_nested_points_lost_it(deficit, n_modes):
    """In 12 dimensions, Gaussians of two widths at the same place, with a key at which the draws show that it is no Gaussian."""
    rng, dim = np.random.default_rng(6), 12
    narrow, wide = (normal(np.full(dim, 0.5), width**2) for width in (WIDTH, 2.5 * WIDTH))

    def peaked(x):
        return np.logaddexp(narrow.logpdf(x), wide.logpdf(x)) - np.log(2)

    x, logZ = 0.5 + 3 * WIDTH * rng.standard_normal((300, dim)), -dim * np.log(2 * CUBE)
    points = points_of(x, peaked(x), logZ=logZ - deficit)
    found = modes.survey(jax.random.key(7), points, search(Counted(peaked), dim, 20_000))
    assert len(found.logZ) == n_modes
    if n_modes:
        assert 1 / np.sum(np.exp(2 * found.logw)) > mode_draws.PLENTY * dim**2 / 2
        assert abs(found.logZ[0] - logZ) < 0.5
        assert not found.gaussian[0]


def test_a_single_mode_far_from_gaussian_is_left_to_its_nested_points():
    rng = np.random.default_rng(5)
    x, evaluate = along_ridge(rng, 400), Counted(ridge)
    assert len(modes.survey(SEED, points_of(x, ridge(x)), search(evaluate)).logZ) == 0
    assert evaluate.n_calls < 500


def test_a_curved_mode_is_not_sure():
    """Draws near its top tell the mass of that part alone."""
    rng = np.random.default_rng(8)

    def two(x):
        arc = -0.5 * ((np.hypot(x[:, 0], x[:, 1] + 1) - 1) / 0.02) ** 2 + x[:, 1] + 4
        return np.logaddexp(arc, normal([0, 2], WIDTH**2).logpdf(x))

    angle, radius = rng.uniform(0, 2 * np.pi, 1000), 1 + 0.02 * rng.standard_normal(1000)
    x = np.stack([radius * np.sin(angle), radius * np.cos(angle) - 1], axis=1)
    x = np.concatenate([x, around(rng, np.array([[0, 2]]), WIDTH, 100)])
    points = points_of(x, two(x))
    found = modes.survey(SEED, points, search(Counted(two)))
    assert not found.gaussian[np.argmax(found.logZ)]
    points = points._replace(logZ=np.logaddexp.reduce(found.logZ))
    _, parts = modes.joined(points, found)
    np.testing.assert_allclose(parts.mode_fraction, 1)
    np.testing.assert_allclose(parts.gaussian_fraction, np.sum(np.exp(found.logZ[found.gaussian] - points.logZ)))
    assert parts.gaussian_fraction < 0.5


def test_calls_are_limited():
    rng = np.random.default_rng(6)
    x = around(rng, CENTRES, WIDTH, 100)
    evaluate = Counted(islands)
    assert len(modes.survey(SEED, points_of(x, islands(x)), search(evaluate, limit=20)).logZ) == 0
    assert evaluate.n_calls < 60  # those that told the modes apart


@pytest.mark.parametrize("n_calls", [0, 100])
def test_survey_ends_when_time_is_up(n_calls):
    """At once, or in the middle of the climbs."""
    rng = np.random.default_rng(6)
    x = around(rng, CENTRES, WIDTH, 100)
    evaluate = Counted(islands)
    found = modes.survey(SEED, points_of(x, islands(x)), search(evaluate, expired=lambda: evaluate.n_calls > n_calls))
    assert len(found.logZ) == 0
    assert evaluate.n_calls < n_calls + 150


def test_modes_without_mass_are_given_up():
    rng = np.random.default_rng(7)
    centres = np.array([[1.5, 1.5], [-1.5, 1.5], [0.0, -1.5]])
    low = lambda x: np.logaddexp.reduce([h + normal(c, WIDTH**2).logpdf(x) for h, c in zip((0, -1, -40), centres, strict=True)])  # noqa: E731
    x = around(rng, centres, WIDTH, 100)
    found = modes.survey(SEED, points_of(x, low(x)), search(Counted(low)))
    assert len(found.logZ) == 2


@pytest.mark.slow
def test_a_refine_phase_regains_a_mode_that_live_points_lost():
    """Three modes have points at the posterior, that of 0.4 only some that died six of its widths outside."""
    oracle, rng = oracles.mixture(3), np.random.default_rng(8)
    weights, widths, centres = oracles.mixture_modes(3)
    kept = np.concatenate([around(rng, centres[k : k + 1], widths[k], round(2000 * weights[k])) for k in (1, 2, 3)])
    shell = rng.standard_normal((60, 3))
    early = centres[0] + 6 * widths[0] * rng.uniform(1, 1.3, (60, 1)) * shell / np.linalg.norm(shell, axis=1, keepdims=True)
    x = ndtri(np.concatenate([kept, early]) / 20 + 0.5).astype(np.float32)
    logL = np.asarray(jax.vmap(lambda row: oracle.problem.call_one(oracle.problem.prior.theta(row))[0])(x), float)
    logw = np.concatenate([np.zeros(len(kept)), logL[len(kept) :] - logL.max()])
    flow = MixtureCNF(components=8, width=32, depth=2, ode_steps=4, training=Training(steps=50, rounds=4, batch=256, jitter=0.0))
    settings = Refine(error=0.03, flow=flow)
    budget = Budget(60_000)
    functions = charging(make_functions(oracle.problem, settings)[0], budget)
    points = points_of(x, logL, logw - np.logaddexp.reduce(logw), oracle.logZ)
    found = refine(jax.random.key(9), settings, EXPENSIVE, functions, points, budget, 20_000)
    assert len(found.modes) == 4
    assert abs(found.importance.logZ - oracle.logZ) < 3 * found.importance.logZ_err < 0.15
