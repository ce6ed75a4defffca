"""Problems with exactly known evidence: every estimator is tested against these.

`ORACLES` maps a name to a constructor without arguments. No value comes from a sampler;
`test_oracles.py` computes again what is cheap to compute.
"""

import math
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fusions import priors as pr
from fusions.model.problem import Problem
from fusions.priors import Prior

sys.path.append(str(Path(__file__).parents[1] / "examples"))

LOG_2PI = math.log(2 * math.pi)
EXACT_MATMUL = jax.lax.Precision.HIGHEST


class Oracle(NamedTuple):
    """A problem and its exact evidence.

    Attributes
    ----------
    name : key of the `ORACLES` table.
    problem : the `Problem`.
    logZ : exact natural logarithm of the evidence [nats].
    source : how the exact value was found.
    """

    name: str
    problem: Problem
    logZ: float
    source: str


def box(loglikelihood, dim, low, high) -> Problem:
    """Build a problem with the prior U(low, high)^dim and the parameters x1, ..., x_dim as one array."""
    prior = Prior(**{f"x{i + 1}": pr.uniform(low, high) for i in range(dim)})
    return Problem(prior, loglikelihood, array=True)


# ---- Reference values ----

ROSENBROCK = {
    2: -5.804132364,
    4: -15.101690728,
    6: -24.379682943,
    8: -33.721616458,
    10: -43.108355215,
    16: -71.383687804,
    20: -90.265467596,
    32: -146.932512253,
    64: -298.054189675,
}
SHELLS = {2: -1.745642, 5: -5.673601, 10: -14.590491, 20: -36.086548, 30: -60.127767}
EGGBOX = 235.855940332
LOGGAMMA = -2.27e-5
BOX_FUNNEL = {2: -3.045403, 5: -12.087244, 10: -27.098384, 20: -57.082942}
RV_A6 = -11.883271403


def rosenbrock(dim: int) -> Oracle:
    """Build the Rosenbrock valley, -sum 100 (x_{i+1} - x_i^2)^2 + (1 - x_i)^2, prior U(-5, 5)^dim."""

    def logL(x):
        return -jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)

    return Oracle(f"rosenbrock{dim}", box(logL, dim, -5.0, 5.0), ROSENBROCK[dim], "transfer matrix")


def shells(dim: int) -> Oracle:
    """Build two Gaussian shells of radius 2 and width 0.1 around (+-3.5, 0, ...), prior U(-6, 6)^dim."""
    centre, radius, width = 3.5, 2.0, 0.1

    def shell(x, sign):
        distance = jnp.sqrt((x[0] - sign * centre) ** 2 + jnp.sum(x[1:] ** 2))
        return -0.5 * ((distance - radius) / width) ** 2

    def logL(x):
        return jnp.logaddexp(shell(x, 1), shell(x, -1)) - 0.5 * LOG_2PI - math.log(width)

    return Oracle(f"shells{dim}", box(logL, dim, -6.0, 6.0), SHELLS[dim], "radial quadrature")


def eggbox() -> Oracle:
    """Build the egg box, (2 + cos(x/2) cos(y/2))^5, prior U(0, 10 pi)^2."""

    def logL(x):
        return (2 + jnp.prod(jnp.cos(0.5 * x))) ** 5

    return Oracle("eggbox", box(logL, 2, 0.0, 10 * math.pi), EGGBOX, "quadrature")


def loggamma(dim: int) -> Oracle:
    """Build the LogGamma problem (Beaujean & Caldwell, arXiv:1304.7808): four modes, prior U(0, 1)^dim."""
    scale = 1 / 30

    def gamma(x, centre):
        z = (x - centre) / scale
        return z - jnp.exp(z) - math.log(scale)

    def normal(x, centre):
        return -0.5 * ((x - centre) / scale) ** 2 - math.log(scale) - 0.5 * LOG_2PI

    def pair(density, x):
        return jnp.logaddexp(density(x, 1 / 3), density(x, 2 / 3)) - math.log(2)

    n_gamma = (dim - 2) // 2

    def logL(x):
        rest = jnp.sum(gamma(x[2 : 2 + n_gamma], 2 / 3)) + jnp.sum(normal(x[2 + n_gamma :], 2 / 3))
        return pair(gamma, x[0]) + pair(normal, x[1]) + rest

    return Oracle(f"loggamma{dim}", box(logL, dim, 0.0, 1.0), LOGGAMMA, "one-dimensional quadratures")


def box_funnel(dim: int) -> Oracle:
    """Build the funnel: theta ~ N(0, 3^2), z ~ U(-10, 10)^(dim - 1), log L = log N(z; 0, exp(theta) I)."""
    prior = Prior(theta=pr.normal(0, 3), **{f"z{i}": pr.uniform(-10, 10) for i in range(1, dim)})

    def logL(x):
        theta, z = x[0], x[1:]
        return -0.5 * jnp.sum((z * jnp.exp(-0.5 * theta)) ** 2 + theta + LOG_2PI)

    problem = Problem(prior, logL, array=True)
    return Oracle(f"box_funnel{dim}", problem, BOX_FUNNEL[dim], "quadrature over theta")


def linear_gaussian(dim: int, seed: int = 0) -> Oracle:
    """Build 2 dim data that depend linearly on dim parameters with a correlated Gaussian prior.

    With prior N(mu, S), model A theta and noise covariance C: Z = N(data; A mu, C + A S A^T).
    """
    rng = np.random.default_rng(seed)
    n = 2 * dim
    factor = rng.standard_normal((dim, dim)) / math.sqrt(dim) + 0.5 * np.eye(dim)
    mean, cov = rng.standard_normal(dim), factor @ factor.T
    noise_factor = 0.2 * rng.standard_normal((n, n)) / math.sqrt(n) + 0.5 * np.eye(n)
    noise = noise_factor @ noise_factor.T
    design = rng.standard_normal((n, dim)) / math.sqrt(dim)
    truth = mean + factor @ rng.standard_normal(dim)
    data = design @ truth + noise_factor @ rng.standard_normal(n)

    logZ = log_normal_density(data - design @ mean, noise + design @ cov @ design.T)
    whiten = np.linalg.inv(np.linalg.cholesky(noise))
    design_white, data_white = whiten @ design, whiten @ data
    norm = -0.5 * n * LOG_2PI + np.linalg.slogdet(whiten)[1]

    def logL(theta):
        model = jnp.matmul(jnp.asarray(design_white), theta, precision=EXACT_MATMUL)
        return norm - 0.5 * jnp.sum((jnp.asarray(data_white) - model) ** 2)

    prior = Prior(pr.gaussian([f"theta{i + 1}" for i in range(dim)], mean, cov))
    return Oracle(f"linear_gaussian{dim}", Problem(prior, logL, array=True), logZ, "closed form")


def log_normal_density(x, cov) -> float:
    """Evaluate log N(x; 0, cov) of (n,) and (n, n) arrays in float64."""
    quadratic = x @ np.linalg.solve(cov, x)
    return float(-0.5 * (quadratic + np.linalg.slogdet(cov)[1] + len(x) * LOG_2PI))


def gauss_corr(dim: int, rho: float = 0.9) -> Oracle:
    """Build a Gaussian of unit variances and equal correlations rho, prior U(-10, 10)^dim."""
    along, across = 1 + (dim - 1) * rho, 1 - rho  # eigenvalues: of (1, ..., 1) once, of everything else
    norm = -0.5 * (dim * LOG_2PI + math.log(along) + (dim - 1) * math.log(across))

    def logL(x):
        mean = jnp.mean(x)
        return norm - 0.5 * (dim * mean**2 / along + jnp.sum((x - mean) ** 2) / across)

    return Oracle(f"gauss_corr{dim}", box(logL, dim, -10.0, 10.0), -dim * math.log(20), "closed form")


def mixture_modes(dim: int):
    """Return weights (4,), standard deviations (4,) and centres (4, dim) of the modes of `mixture`."""
    i = np.arange(dim)
    signs = np.ones((4, dim))
    signs[1, i % 2 == 1] = -1
    signs[2, i % 4 >= 2] = -1
    signs[3, (i % 4 == 0) | (i % 4 == 3)] = -1
    return np.array([0.4, 0.3, 0.2, 0.1]), np.array([0.5, 0.45, 0.55, 0.5]), 5.0 * signs


def mixture(dim: int) -> Oracle:
    """Build four separated Gaussian modes of unequal weight and width, prior U(-10, 10)^dim."""
    weights, widths, centres = mixture_modes(dim)
    norms = np.log(weights) - 0.5 * dim * LOG_2PI - dim * np.log(widths)

    def logL(x):
        distance2 = jnp.sum((x - jnp.asarray(centres)) ** 2, axis=1)
        return jax.scipy.special.logsumexp(jnp.asarray(norms) - 0.5 * distance2 / jnp.asarray(widths) ** 2)

    return Oracle(f"mixture{dim}", box(logL, dim, -10.0, 10.0), -dim * math.log(20), "closed form")


def wedding_cake(dim: int = 2, n_tiers: int = 20, sigma: float = 0.1) -> Oracle:
    """Build nested plateaus with the outline of a Gaussian, prior U(-1, 1)^dim.

    Tier i fills the prior mass X = max|x|^dim between 2^-(i+1) and 2^-i (the last one all below 2^-i), with
    log L_i = -2^(-2 i / dim) / (2 sigma^2), so that Z = sum_i L_i (mass of tier i). After Fowlie, Handley
    and Su (arXiv:2010.13884).
    """
    tiers = np.arange(n_tiers)
    mass = 0.5 ** (tiers + 1)
    mass[-1] *= 2
    levels = -(0.5 ** (2 * tiers / dim)) / (2 * sigma**2)
    logZ = float(np.log(np.sum(mass * np.exp(levels))))

    def logL(x):
        tier = jnp.clip(jnp.floor(-dim * jnp.log2(jnp.max(jnp.abs(x)))), 0, n_tiers - 1)
        return jnp.asarray(levels)[tier.astype(int)]

    return Oracle("wedding_cake", box(logL, dim, -1.0, 1.0), logZ, "closed form")


def half_zero(dim: int = 2) -> Oracle:
    """Build a unit Gaussian at the origin that is cut off, L = 0, where x1 < 0; prior U(-10, 10)^dim."""

    def logL(x):
        return jnp.where(x[0] < 0, -jnp.inf, -0.5 * jnp.sum(x**2) - 0.5 * dim * LOG_2PI)

    return Oracle("half_zero", box(logL, dim, -10.0, 10.0), -math.log(2) - dim * math.log(20), "closed form")


def constant(dim: int = 2) -> Oracle:
    """Build the likelihood L = 1, prior U(0, 1)^dim."""
    return Oracle("constant", box(lambda x: jnp.zeros((), x.dtype), dim, 0.0, 1.0), 0.0, "closed form")


def rv_a6() -> Oracle:
    """Build six radial velocities of a circular orbit with many modes in the period.

    v = v0 + K cos(2 pi t / P + phi) with noise sigma = 0.5; ln P ~ U(ln 3, ln 50), phi ~ U(0, 2 pi),
    K ~ N(3, 1.5^2), v0 ~ N(0, 1).
    """
    t = np.array([0, 7.3, 11.9, 23.4, 31.8, 46.2])
    v = np.array([1.8608, 0.0209, 2.4935, 3.7197, -0.5793, 2.5183])
    sigma = 0.5

    def logL(theta):
        phase = 2 * jnp.pi * jnp.asarray(t) / theta["P"] + theta["phi"]
        residual = (jnp.asarray(v) - theta["v0"] - theta["K"] * jnp.cos(phase)) / sigma
        return -0.5 * jnp.sum(residual**2) - len(t) * (0.5 * LOG_2PI + math.log(sigma))

    phi = pr.uniform(0, 2 * math.pi, periodic=True)
    prior = Prior(P=pr.log_uniform(3, 50), phi=phi, K=pr.normal(3, 1.5), v0=pr.normal(0, 1))
    return Oracle("rv_a6", Problem(prior, logL), RV_A6, "quadrature over P and phi, the rest in closed form")


def eprv3(data_set: int, n_planets: int, *, broad: bool = False) -> Oracle:
    """Build data set 1 to 4 of the EPRV3 evidence challenge; the value is not exact with two or three planets.

    With broad period priors it is a lower bound: the part of the evidence in the narrow ranges.
    """
    import eprv3 as challenge

    method = "quadrature" if n_planets < 2 else "VB + importance sampling"
    logZ = challenge.PUBLISHED[method][n_planets][data_set - 1] * math.log(10)
    if broad:
        narrow = challenge.load(data_set).periods[:n_planets]
        logZ += np.sum(np.log(np.log(narrow[:, 1] / narrow[:, 0]) / math.log(challenge.BROAD[1] / challenge.BROAD[0])))
    source = f"{method}, error {('1e-06', '0.0015', 'unknown', 'unknown')[n_planets]} in log10 Z"
    name = f"eprv3_set{data_set}_planets{n_planets}{'_broad' * broad}"
    return Oracle(name, challenge.problem(data_set, n_planets, broad=broad), logZ, source)


ORACLES: dict[str, Callable[[], Oracle]] = {
    "rosenbrock2": partial(rosenbrock, 2),
    "rosenbrock4": partial(rosenbrock, 4),
    "shells2": partial(shells, 2),
    "shells5": partial(shells, 5),
    "eggbox": eggbox,
    "loggamma2": partial(loggamma, 2),
    "box_funnel5": partial(box_funnel, 5),
    "linear_gaussian5": partial(linear_gaussian, 5),
    "gauss_corr10": partial(gauss_corr, 10),
    "mixture5": partial(mixture, 5),
    "wedding_cake": wedding_cake,
    "half_zero": half_zero,
    "constant": constant,
    "rv_a6": rv_a6,
    **{f"eprv3_set{s}_planets{n}": partial(eprv3, s, n) for s in (1, 2, 3, 4) for n in (0, 1)},
}
