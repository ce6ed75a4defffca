"""Radial-velocity model of the EPRV3 evidence challenge: planets on Keplerian orbits in correlated noise.

The challenge (Nelson et al. 2020, arXiv:1806.04683; data in data/eprv3, MIT licence) fixes data, likelihood
and priors. `problem(data_set, n_planets)` is the model with the narrow period priors, `broad=True` that with
the broad ones; its parameters are C, sigma_J and five for each planet:

==========  ==========================================  =============================================
name        meaning                                     prior
==========  ==========================================  =============================================
C           velocity offset [m/s]                       uniform on (-1000, 1000)
sigma_J     jitter [m/s]                                p ~ 1 / (1 + sigma_J / (1 m/s)) on (0, 99)
P1          orbital period [days]                       log-uniform on the bounds of the data set,
                                                        or on (1.25, 10000)
K1          velocity semi-amplitude [m/s]               p ~ 1 / (1 + K / (1 m/s)) on (0, 999)
e1          eccentricity                                Rayleigh(0.2) truncated to (0, 1)
omega1      argument of periastron [rad]                uniform on the circle
M1          mean anomaly at the middle of the data      uniform on the circle
==========  ==========================================  =============================================

Accurate in float32 because everything that does not depend on the parameters happens once, in float64, on the
host: the covariance is factorised, data and model live in its eigenbasis, and times are counted from the
middle of the data.
"""

import math
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import fusions
from fusions import priors as pr

DATA = Path(__file__).parent / "data" / "eprv3"

# Correlated noise, fixed by the challenge.
ALPHA = math.sqrt(3.0)  # amplitude [m/s]
LAMBDA_E = 50.0  # decay time [days]
LAMBDA_P = 0.5  # inverse harmonic complexity
TAU = 20.0  # rotation period [days]

# Scales and limits of the modified log-uniform priors [m/s].
K_MAX, JITTER_MAX, SCALE = 999.0, 99.0, 1.0
C_MAX = 1000.0
BROAD = (1.25, 1e4)  # periods [days]
E_SCALE = 0.2

# log10 Z of data sets 1 to 4, narrow period priors; {method: {n_planets: values}}.
# Quadrature: numerical integration, error 1e-6 (0 planets) and 0.0015 (1 planet), no sampler involved.
# The others were submitted to the challenge (Nelson et al. 2020 and github.com/EPRV3EvidenceChallenge):
# variational Bayes with importance sampling (long runs), MultiNest and MultiNest with importance nested
# sampling, both with 2000 live points.
PUBLISHED = {
    "quadrature": {
        0: (-211.977390, -197.109759, -169.644475, -161.622370),
        1: (-191.782, -165.381, -161.846, -159.177),
    },
    "VB + importance sampling": {
        1: (-191.785, -165.385, -161.849, -159.180),
        2: (-169.714, -166.166, -156.160, -159.599),
        3: (-169.725, -165.405, -157.686, -160.647),
    },
    "MultiNest": {1: (-191.339, -164.881, -161.630, -158.582)},
    "MultiNest-INS": {1: (-191.425, -165.004, -161.765, -158.311)},
}


class DataSet(NamedTuple):
    """One data set of the challenge, float64.

    Attributes
    ----------
    t : (n,) times [days].
    v : (n,) radial velocities [m/s].
    sigma : (n,) standard deviations [m/s].
    periods : (m, 2) bounds of the narrow period prior of each planet [days].
    """

    t: np.ndarray
    v: np.ndarray
    sigma: np.ndarray
    periods: np.ndarray


class Noise(NamedTuple):
    """Eigendecomposition rotation @ diag(variance) @ rotation.T of the covariance without jitter, float64.

    Attributes
    ----------
    variance : (n,) eigenvalues [m^2/s^2].
    rotation : (n, n) eigenvectors in columns.
    """

    variance: np.ndarray
    rotation: np.ndarray


def load(data_set: int) -> DataSet:
    """Read data set 1, 2, 3 or 4."""
    if data_set not in (1, 2, 3, 4):
        raise ValueError(f"Expected data set 1, 2, 3 or 4, got {data_set!r}.")
    t, v, sigma = np.loadtxt(DATA / f"rvs_{data_set:04d}.txt").T
    bounds = np.loadtxt(DATA / f"prior_bounds_{data_set:04d}.txt", delimiter=",", usecols=(2, 3))
    return DataSet(t, v, sigma, bounds)


def covariance(data: DataSet) -> np.ndarray:
    """Build the (n, n) quasi-periodic covariance of the velocities, without jitter [m^2/s^2]."""
    lag = data.t[:, None] - data.t[None, :]
    exponent = (np.sin(np.pi * lag / TAU) / LAMBDA_P) ** 2 + (lag / LAMBDA_E) ** 2
    return ALPHA**2 * np.exp(-0.5 * exponent) + np.diag(data.sigma**2)


def factorise(data: DataSet) -> Noise:
    """Diagonalise the covariance: jitter then only adds to the eigenvalues."""
    return Noise(*np.linalg.eigh(covariance(data)))


def epoch(data: DataSet) -> float:
    """Return the time at which the mean anomalies are given: the middle of the data [days]."""
    return float(0.5 * (data.t.min() + data.t.max()))


def kepler(mean_anomaly, e):
    """Solve E - e sin E = M without branches: Markley's cubic start and one correction of high order.

    Parameters
    ----------
    mean_anomaly : (...) M in [-pi, pi] [rad].
    e : (...) eccentricity in [0, 1).

    Returns
    -------
    (...) eccentric anomaly E [rad].

    References
    ----------
    F. L. Markley, "Kepler Equation Solver", Celestial Mechanics and Dynamical Astronomy 63, 101 (1995).
    """
    m = jnp.abs(mean_anomaly)
    alpha = (3 * jnp.pi**2 + 1.6 * jnp.pi * (jnp.pi - m) / (1 + e)) / (jnp.pi**2 - 6)
    d = 3 * (1 - e) + alpha * e
    q = 2 * alpha * d * (1 - e) - m**2
    r = 3 * alpha * d * (d - 1 + e) * m + m**3
    w = jnp.cbrt(jnp.abs(r) + jnp.sqrt(q**3 + r**2)) ** 2
    start = (2 * r * w / (w**2 + w * q + q**2) + m) / d
    f2, f3 = e * jnp.sin(start), e * jnp.cos(start)
    f0, f1 = start - f2 - m, 1 - f3
    step = -f0 / (f1 - 0.5 * f0 * f2 / f1)
    step = -f0 / (f1 + step * f2 / 2 + step**2 * f3 / 6)
    step = -f0 / (f1 + step * f2 / 2 + step**2 * f3 / 6 - step**3 * f2 / 24)
    return jnp.sign(mean_anomaly) * (start + step)


def orbit(t, P, K, e, omega, M):
    """Compute the radial velocity that one planet gives to its star, K [cos(omega + f) + e cos(omega)].

    Parameters
    ----------
    t : (n,) times since the epoch of M [days].
    P, K, e, omega, M : () period [days], semi-amplitude [m/s], eccentricity, argument of periastron and
        mean anomaly at t = 0 [rad].

    Returns
    -------
    (n,) radial velocity [m/s].
    """
    e = jnp.minimum(e, 1 - 1e-6)
    cycles = t / P + M / (2 * jnp.pi)
    E = kepler(2 * jnp.pi * (cycles - jnp.round(cycles)), e)
    distance = (1 - e) + 2 * e * jnp.sin(0.5 * E) ** 2  # 1 - e cos E, without cancellation
    cos_f = (jnp.cos(E) - e) / distance
    sin_f = jnp.sqrt((1 - e) * (1 + e)) * jnp.sin(E) / distance
    return K * (jnp.cos(omega) * (cos_f + e) - jnp.sin(omega) * sin_f)


def planets(t, theta, n_planets):
    """Sum the (n,) velocities [m/s] of the planets of a parameter dictionary; they do not interact."""
    velocity = jnp.zeros(len(t))
    for i in range(1, n_planets + 1):
        velocity += orbit(t, *(theta[f"{name}{i}"] for name in ("P", "K", "e", "omega", "M")))
    return velocity


def loglikelihood(data: DataSet, n_planets: int):
    """Return the function theta (dict) -> log L = log N(v; C + planets, covariance + sigma_J^2 I)."""
    noise = factorise(data)
    times = data.t - epoch(data)
    velocities = noise.rotation.T @ data.v
    ones = noise.rotation.sum(axis=0)

    def logL(theta):
        residual = jnp.asarray(velocities) - theta["C"] * jnp.asarray(ones)
        if n_planets:
            model = planets(jnp.asarray(times), theta, n_planets)
            rotation = jnp.asarray(noise.rotation.T)
            residual -= jnp.matmul(rotation, model, precision=jax.lax.Precision.HIGHEST)
        variance = jnp.asarray(noise.variance) + theta["sigma_J"] ** 2
        return -0.5 * jnp.sum(residual**2 / variance + jnp.log(2 * jnp.pi * variance))

    return logL


def modified_log_uniform(upper):
    """Build the prior p(s) = 1 / [(s0 + s) ln(1 + upper / s0)] on (0, upper), s0 = 1 m/s."""
    return pr.icdf(lambda u: SCALE * jnp.expm1(u * math.log1p(upper / SCALE)))


def prior(data: DataSet, n_planets: int, *, broad: bool = False):
    """Build the challenge's prior, with the narrow bounds of the periods or with the broad ones, the same for all planets."""
    parameters = {"C": pr.uniform(-C_MAX, C_MAX), "sigma_J": modified_log_uniform(JITTER_MAX)}
    for i, (low, high) in enumerate([BROAD] * n_planets if broad else data.periods[:n_planets], start=1):
        parameters[f"P{i}"] = pr.log_uniform(float(low), float(high))
        parameters[f"K{i}"] = modified_log_uniform(K_MAX)
        parameters[f"e{i}"] = pr.rayleigh(E_SCALE, upper=1.0)
        parameters[f"omega{i}"] = pr.uniform(0, 2 * math.pi, periodic=True)
        parameters[f"M{i}"] = pr.uniform(0, 2 * math.pi, periodic=True)
    return fusions.Prior(**parameters)


def problem(data_set: int, n_planets: int, *, broad: bool = False):
    """Build the problem of one data set (1 to 4) with 0 to 3 planets, narrow or broad period priors; the broad do not order planets."""
    if n_planets not in (0, 1, 2, 3):
        raise ValueError(f"Expected 0, 1, 2 or 3 planets, got {n_planets!r}.")
    data = load(data_set)
    labels = {"C": r"C", "sigma_J": r"\sigma_J"}
    for i in range(1, n_planets + 1):
        symbols = {"P": f"P_{i}", "K": f"K_{i}", "e": f"e_{i}", "omega": rf"\omega_{i}", "M": f"M_{i}"}
        labels |= {f"{k}{i}": s for k, s in symbols.items()}
    return fusions.Problem(prior(data, n_planets, broad=broad), loglikelihood(data, n_planets), labels=labels)
