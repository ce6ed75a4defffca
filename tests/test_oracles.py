"""The exact evidences of the oracles, computed again where that is cheap, and log L at known points."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from scipy import stats
from scipy.integrate import quad, trapezoid
from scipy.special import erf, logsumexp


def values(oracle, theta):
    """Evaluate log L at (n, d) points in chunks, as float64."""
    call = jax.jit(jax.vmap(lambda row: oracle.problem.call_one(row)[0]))
    chunks = np.array_split(np.asarray(theta), max(1, len(theta) // 200_000))
    return np.concatenate([np.asarray(call(jnp.asarray(chunk)), float) for chunk in chunks])


def square_logZ(oracle, low, high, n):
    """Integrate a two-parameter problem with a uniform prior on a square by the midpoint rule."""
    grid = low + (high - low) * (np.arange(n) + 0.5) / n
    theta = np.stack(np.meshgrid(grid, grid, indexing="ij"), -1).reshape(-1, 2)
    return logsumexp(values(oracle, theta)) - 2 * math.log(n)


@pytest.mark.parametrize("name", list(oracles.ORACLES))
def test_oracle_is_well_formed(name):
    oracle = oracles.ORACLES[name]()
    assert oracle.name == name
    assert math.isfinite(oracle.logZ)
    prior = oracle.problem.prior
    x = prior.sample(jax.random.key(0), 64)
    logL = values(oracle, jax.vmap(prior.theta)(x))
    assert not np.isnan(logL).any()
    assert np.isfinite(logL).any()
    assert not (logL == np.inf).any()


@pytest.mark.parametrize(
    ("oracle", "low", "high", "n"),
    [
        (oracles.rosenbrock(2), -5, 5, 1000),
        (oracles.shells(2), -6, 6, 1000),
        (oracles.eggbox(), 0, 10 * math.pi, 1000),
        (oracles.loggamma(2), 0, 1, 800),
        (oracles.half_zero(), -10, 10, 400),
        (oracles.gauss_corr(2), -10, 10, 500),
        (oracles.constant(), 0, 1, 10),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_evidence_by_quadrature_in_two_dimensions(oracle, low, high, n):
    assert square_logZ(oracle, low, high, n) == pytest.approx(oracle.logZ, abs=2e-4)


@pytest.mark.parametrize("dim", [2, 4, 10, 20])
def test_rosenbrock_evidence_by_transfer_matrix(dim):
    x = np.linspace(-5, 5, 1501)
    step = np.exp(-100 * (x[None, :] - x[:, None] ** 2) ** 2 - (1 - x[:, None]) ** 2) * (x[1] - x[0]) / 10
    message, scale = np.ones_like(x), 0.0
    for _ in range(dim - 1):
        message = step @ message
        scale += math.log(message.max())
        message /= message.max()
    logZ = scale + math.log(trapezoid(message, x) / 10)
    assert logZ == pytest.approx(oracles.ROSENBROCK[dim], abs=1e-3)


@pytest.mark.parametrize("dim", [2, 5, 10])
def test_shells_evidence_by_quadrature_along_and_across_the_axis(dim):
    n = 600
    along, across = (np.arange(n) + 0.5) * 12 / n - 6, (np.arange(n) + 0.5) * 3 / n
    theta = np.zeros((n * n, dim))
    theta[:, :2] = np.stack(np.meshgrid(along, across, indexing="ij"), -1).reshape(-1, 2)
    log_surface = math.log(2) + 0.5 * (dim - 1) * math.log(math.pi) - math.lgamma(0.5 * (dim - 1))
    logL = values(oracles.shells(dim), theta) + (dim - 2) * np.log(theta[:, 1]) + log_surface
    logZ = logsumexp(logL) + math.log(12 / n * 3 / n) - dim * math.log(12)
    assert logZ == pytest.approx(oracles.SHELLS[dim], abs=1e-3)


@pytest.mark.parametrize("dim", [2, 5, 10, 20])
def test_box_funnel_evidence_by_quadrature_over_theta(dim):
    def integrand(theta):
        return stats.norm.pdf(theta, 0, 3) * (erf(10 * math.exp(-theta / 2) / math.sqrt(2)) / 20) ** (dim - 1)

    Z = quad(integrand, -40, 40, points=[0, 3, 6], limit=500, epsabs=0)[0]
    assert math.log(Z) == pytest.approx(oracles.BOX_FUNNEL[dim], abs=2e-6)


def test_box_funnel_likelihood_is_a_normal_density():
    theta = np.array([[-1.2, 0.3, -0.2, 0.7, 0.1]])
    expected = stats.norm.logpdf(theta[0, 1:], 0, math.exp(-0.6)).sum()
    assert values(oracles.box_funnel(5), theta)[0] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("dim", [2, 10])
def test_loggamma_likelihood(dim):
    x = np.random.default_rng(0).uniform(0.2, 0.8, dim)
    gamma = [stats.loggamma(1, centre, 1 / 30).logpdf(x) for centre in (1 / 3, 2 / 3)]
    normal = [stats.norm(centre, 1 / 30).logpdf(x) for centre in (1 / 3, 2 / 3)]
    half = (dim + 2) // 2
    expected = logsumexp([g[0] for g in gamma]) + logsumexp([g[1] for g in normal]) - 2 * math.log(2)
    expected += gamma[1][2:half].sum() + normal[1][half:].sum()
    assert values(oracles.loggamma(dim), x[None])[0] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("dim", "rho"), [(2, 0.9), (10, 0.9), (3, -0.3)])
def test_gauss_corr_likelihood_is_a_normal_density(dim, rho):
    x = np.random.default_rng(1).uniform(-3, 3, (20, dim))
    cov = rho + (1 - rho) * np.eye(dim)
    expected = stats.multivariate_normal(np.zeros(dim), cov).logpdf(x)
    np.testing.assert_allclose(values(oracles.gauss_corr(dim, rho), x), expected, rtol=1e-5)


def test_mixture_likelihood_is_a_normalised_mixture_of_separated_modes():
    weights, widths, centres = oracles.mixture_modes(5)
    assert weights.sum() == pytest.approx(1)
    assert len(np.unique(weights)) == 4
    separations = np.linalg.norm(centres[:, None] - centres[None], axis=-1)[np.triu_indices(4, 1)]
    assert separations.min() > 10
    x = centres[np.arange(20) % 4] + np.random.default_rng(2).standard_normal((20, 5))
    parts = [stats.multivariate_normal(c, w**2).logpdf(x) for c, w in zip(centres, widths, strict=True)]
    expected = logsumexp(np.array(parts), axis=0, b=weights[:, None])
    np.testing.assert_allclose(values(oracles.mixture(5), x), expected, rtol=1e-5)


@pytest.mark.parametrize(("dim", "seed"), [(1, 0), (5, 0), (5, 7), (20, 1)])
def test_linear_gaussian_evidence_in_latent_coordinates(dim, seed):
    """With x ~ N(0, I), log L = a + g x + x H x / 2 has ln Z = a + g (I - H)^-1 g / 2 - ln det(I - H) / 2."""
    oracle = oracles.linear_gaussian(dim, seed)

    def logL(x):
        return oracle.problem.call_one(oracle.problem.prior.theta(x))[0]

    zero = jnp.zeros(dim)
    a, g, H = (np.asarray(f(zero), float) for f in (logL, jax.grad(logL), jax.hessian(logL)))
    logZ = a + 0.5 * g @ np.linalg.solve(np.eye(dim) - H, g) - 0.5 * np.linalg.slogdet(np.eye(dim) - H)[1]
    assert logZ == pytest.approx(oracle.logZ, rel=1e-4)


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_wedding_cake_evidence_by_quadrature_in_prior_mass(dim):
    mass = (np.arange(2**19) + 0.5) / 2**19  # tiers end at cell borders
    theta = np.zeros((len(mass), dim))
    theta[:, -1] = mass ** (1 / dim)
    oracle = oracles.wedding_cake(dim)
    assert logsumexp(values(oracle, theta)) - math.log(len(mass)) == pytest.approx(oracle.logZ, abs=2e-5)


def test_wedding_cake_has_exactly_its_tiers():
    oracle = oracles.wedding_cake(dim=3, n_tiers=5, sigma=0.5)
    x = np.random.default_rng(4).uniform(-1, 1, (4000, 3))
    logL = values(oracle, np.vstack([np.zeros((1, 3)), x]))
    assert len(np.unique(logL)) == 5
    assert logL[0] == logL.max() == pytest.approx(-2 * 0.5 ** (8 / 3))
    assert np.mean(logL == logL.min()) == pytest.approx(0.5, abs=0.04)


def test_half_zero_has_half_its_prior_mass_at_zero_likelihood():
    prior = oracles.half_zero().problem.prior
    theta = jax.vmap(prior.theta)(prior.sample(jax.random.key(5), 4000))
    assert np.mean(np.isneginf(values(oracles.half_zero(), theta))) == pytest.approx(0.5, abs=0.04)


def test_constant_likelihood_is_one_everywhere():
    assert (values(oracles.constant(), np.random.default_rng(6).random((10, 2))) == 0).all()


def test_rv_a6_evidence_by_quadrature_over_period_and_phase():
    t = np.array([0, 7.3, 11.9, 23.4, 31.8, 46.2])
    v = np.array([1.8608, 0.0209, 2.4935, 3.7197, -0.5793, 2.5183])
    log_period = math.log(3) + math.log(50 / 3) * (np.arange(3000) + 0.5) / 3000
    phase = 2 * math.pi * np.arange(64) / 64
    c = np.cos(2 * math.pi * t / np.exp(log_period)[:, None, None] + phase[:, None])
    basis = np.stack([np.ones_like(c), c], -1) * [1, 1.5]
    residual = v - 3 * c
    inner = np.eye(2) + np.swapaxes(basis, -1, -2) @ basis / 0.25
    projected = np.einsum("...ik,...i->...k", basis, residual) / 0.25
    solved = np.linalg.solve(inner, projected[..., None])[..., 0]
    chi2 = np.sum(residual**2, -1) / 0.25 - np.sum(projected * solved, -1)
    logL = -0.5 * (chi2 + np.linalg.slogdet(inner)[1] + 6 * math.log(2 * math.pi * 0.25))
    assert logsumexp(logL) - math.log(logL.size) == pytest.approx(oracles.RV_A6, abs=1e-4)


def test_rv_a6_likelihood():
    theta = {"P": 12.4, "phi": 1.0, "K": 2.5, "v0": 0.4}
    oracle = oracles.rv_a6()
    row = np.array([[theta[name] for name in oracle.problem.prior.names]])
    t = np.array([0, 7.3, 11.9, 23.4, 31.8, 46.2])
    v = np.array([1.8608, 0.0209, 2.4935, 3.7197, -0.5793, 2.5183])
    expected = stats.norm.logpdf(v, 0.4 + 2.5 * np.cos(2 * np.pi * t / 12.4 + 1.0), 0.5).sum()
    assert values(oracle, row)[0] == pytest.approx(expected, rel=1e-5)
