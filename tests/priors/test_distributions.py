"""One-dimensional priors: every map against scipy, in both tails and both precisions."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from precision import enable_x64
from scipy import stats
from scipy.special import erfinv

from fusions import priors as pr

HALF_PI = 0.5 * math.pi


class Sine(stats.rv_continuous):
    """Density sin(theta) / 2 on [0, pi]."""

    def _cdf(self, x):
        return np.sin(0.5 * x) ** 2

    def _ppf(self, q):
        return 2 * np.arcsin(np.sqrt(q))

    def _sf(self, x):
        return np.cos(0.5 * x) ** 2

    def _isf(self, q):
        return math.pi - 2 * np.arcsin(np.sqrt(q))


class TruncatedRayleigh(stats.rv_continuous):
    """Rayleigh of scale 2 below 3."""

    def _cdf(self, x):
        return -np.expm1(-(x**2) / 8) / -math.expm1(-9 / 8)

    def _ppf(self, q):
        return np.sqrt(-8 * np.log1p(q * math.expm1(-9 / 8)))


class TailOfNormal:
    """Standard normal above 5, with exact tails (scipy's truncnorm loses the upper one)."""

    cdf = staticmethod(stats.truncnorm(5, math.inf).cdf)
    mass = stats.norm.sf(5)

    def ppf(self, q):
        """Return the quantile of q."""
        return stats.norm.isf(self.mass * (1 - q))

    def isf(self, p):
        """Return the quantile of 1 - p."""
        return stats.norm.isf(self.mass * p)


class Cauchy(type(stats.cauchy)):
    """Quantiles that stay accurate in the tails, as scipy's don't before 1.15."""

    def _ppf(self, q):
        return -1 / np.tan(np.pi * q)

    def _isf(self, q):
        return 1 / np.tan(np.pi * q)


SINE = Sine(a=0.0, b=math.pi)()
TABLE = {
    "uniform": (pr.uniform(-5, 5), stats.uniform(-5, 10)),
    "log_uniform": (pr.log_uniform(1e-3, 1e4), stats.loguniform(1e-3, 1e4)),
    "normal": (pr.normal(1, 2), stats.norm(1, 2)),
    "truncated_normal": (pr.truncated_normal(1, 2, 0, 3), stats.truncnorm(-0.5, 1, 1, 2)),
    "truncated_normal_tail": (pr.truncated_normal(0, 1, 5, math.inf), TailOfNormal()),
    "truncated_normal_upper": (pr.truncated_normal(0, 1, -math.inf, 1), stats.truncnorm(-math.inf, 1)),
    "truncated_normal_wide": (pr.truncated_normal(0, 1, -1e6, 1e6), stats.norm()),
    "half_normal": (pr.half_normal(3), stats.halfnorm(0, 3)),
    "log_normal": (pr.log_normal(1, 0.5), stats.lognorm(0.5, scale=math.e)),
    "exponential": (pr.exponential(2), stats.expon(scale=2)),
    "gamma": (pr.gamma(2.5, 3), stats.gamma(2.5, scale=3)),
    "gamma_small": (pr.gamma(0.1, 1), stats.gamma(0.1)),
    "gamma_large": (pr.gamma(5000, 1), stats.gamma(5000)),
    "beta": (pr.beta(2, 5), stats.beta(2, 5)),
    "beta_u_shape": (pr.beta(0.5, 0.3), stats.beta(0.5, 0.3)),
    "student_t": (pr.student_t(3, 1, 2), stats.t(3, 1, 2)),
    "cauchy": (pr.cauchy(1, 2), Cauchy()(1, 2)),
    "rayleigh": (pr.rayleigh(2), stats.rayleigh(scale=2)),
    "rayleigh_truncated": (pr.rayleigh(2, 3), TruncatedRayleigh(a=0.0, b=3.0)()),
    "sine": (pr.sine(), SINE),
    "cosine": (pr.cosine(), Sine(a=0.0, b=math.pi)(loc=-HALF_PI)),
    "icdf": (pr.icdf(lambda u: 3 * jnp.sqrt(u)), stats.powerlaw(2, scale=3)),
    "scipy_gamma": (pr.from_scipy(stats.gamma(2, loc=1, scale=3)), stats.gamma(2, loc=1, scale=3)),
    "scipy_gumbel": (pr.from_scipy(stats.gumbel_r(3, 2)), stats.gumbel_r(3, 2)),
    "scipy_pareto": (pr.from_scipy(stats.pareto(3)), stats.pareto(3)),
    "scipy_weibull_max": (pr.from_scipy(stats.weibull_max(2)), stats.weibull_max(2)),
    "scipy_normal": (pr.from_scipy(stats.norm(5, 0.1)), stats.norm(5, 0.1)),
}
tabulated = pytest.mark.parametrize("name", TABLE)


QUANTILES = np.array([-7, -5, -3, -1.3, -0.2, 0, 0.4, 1.1, 2.7, 4.9, 7])
FAR = np.array([-30.0, -12.5, -8.6, -1.0, 0.0, 1.0, 8.6, 12.5, 14.0])
GRID = np.linspace(-9.0, 9.0, 400)
DRAWS = np.random.default_rng(0).normal(size=5000)


@functools.cache
def evaluated(name, x64):
    """Return theta and d theta / dz at quantiles, far points, grid and draws; one compilation for all."""
    with enable_x64(x64):
        z = jnp.asarray(np.concatenate([QUANTILES, FAR, GRID, DRAWS]))
        theta, slope = jax.jit(jax.vmap(jax.value_and_grad(TABLE[name][0].from_latent)))(z)
    assert theta.dtype == (np.float64 if x64 else np.float32)
    ends = np.cumsum([len(QUANTILES), len(FAR), len(GRID)])
    return np.split(np.asarray(theta), ends), np.split(np.asarray(slope), ends)


@tabulated
def test_draws_follow_the_scipy_distribution(name):
    """A Kolmogorov-Smirnov test of the latent map, in the default precision."""
    theta = evaluated(name, jax.config.jax_enable_x64)[0][3].astype(float)
    assert stats.kstest(theta, TABLE[name][1].cdf).pvalue > 1e-4


@tabulated
@pytest.mark.parametrize("x64", [False, True])
def test_quantiles_are_accurate_in_both_tails(name, x64):
    """Theta(z) against scipy's ppf below and isf above the median, up to |z| = 7."""
    z, reference = QUANTILES, TABLE[name][1]
    expected = np.where(z < 0, reference.ppf(stats.norm.cdf(z)), reference.isf(stats.norm.sf(z)))
    theta, slope = (parts[0] for parts in evaluated(name, x64))
    z_error, relative = (1e-8, 1e-9) if x64 else (5e-6, 2e-6)
    tolerance = relative * np.abs(expected) + z_error * np.abs(slope) + (1e-14 if x64 else 1e-6)
    far = 7 if name not in ("icdf", "scipy_weibull_max") else 5  # u itself is lost in the upper tail
    assert np.all((np.abs(theta - expected) <= tolerance) | (z > far)), (theta - expected) / tolerance


@pytest.mark.parametrize("name", ["exponential", "half_normal", "rayleigh", "gamma", "log_uniform"])
def test_small_values_keep_their_relative_precision_in_float32(name):
    """The lower tail of a positive parameter is relative to zero, not to the scale."""
    distribution, reference = TABLE[name]
    z = np.linspace(-8, -2, 13)
    theta = np.asarray(distribution.from_latent(jnp.asarray(z, jnp.float32)), float)
    p = stats.norm.cdf(z)
    expected = 3 * math.sqrt(2) * erfinv(p) if name == "half_normal" else reference.ppf(p)
    np.testing.assert_allclose(theta, expected, rtol=3e-5)


@tabulated
def test_gradients_are_finite_and_maps_increase(name):
    """No NaN gradient through an untaken branch, far outside of the table as well."""
    theta, slope = evaluated(name, jax.config.jax_enable_x64)
    assert np.all(np.isfinite(slope[1][1:8]))
    assert np.all(slope[1][3:6] > 0)
    assert not np.any(np.isnan(theta[1]))
    assert np.all(np.diff(theta[2]) >= -3e-7 * np.abs(theta[2][1:]))


def test_far_draws_stay_inside_the_support():
    """Bounds hold for every latent value."""
    z = jnp.asarray([-40.0, -9.0, 9.0, 40.0])
    for name, low, high in (("uniform", -5, 5), ("beta", 0, 1), ("rayleigh_truncated", 0, 3)):
        theta = TABLE[name][0].from_latent(z)
        assert theta.min() >= low
        assert theta.max() <= high
