"""The EPRV3 model against direct float64 implementations: Kepler's equation, log L, priors, one evidence."""

import math
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from precision import enable_x64
from scipy import stats
from scipy.integrate import quad
from scipy.optimize import brentq

sys.path.append(str(Path(__file__).parents[2] / "examples"))
import eprv3  # noqa: E402

ROUNDING = float(jnp.finfo(jnp.zeros(0).dtype).eps)


def eccentric_anomaly(mean_anomaly, e):
    """Solve Kepler's equation for (n,) mean anomalies in [-pi, pi] by bracketing, in float64."""
    return np.array([brentq(lambda E, m=m: E - e * math.sin(E) - m, -4, 4, xtol=1e-14) for m in mean_anomaly])


def direct_model(data, theta, n_planets):
    """Compute velocities from the true anomaly in float64."""
    model = np.full(len(data.t), theta["C"])
    for i in range(1, n_planets + 1):
        P, K, e, omega, M = (theta[f"{name}{i}"] for name in ("P", "K", "e", "omega", "M"))
        cycles = (data.t - eprv3.epoch(data)) / P + M / (2 * np.pi)
        E = eccentric_anomaly(2 * np.pi * (cycles - np.round(cycles)), e)
        f = 2 * np.arctan2(math.sqrt(1 + e) * np.sin(E / 2), math.sqrt(1 - e) * np.cos(E / 2))
        model += K * (np.cos(omega + f) + e * math.cos(omega))
    return model


def direct_logL(data, theta, n_planets):
    """Evaluate the multivariate normal density entry by entry, from the challenge's formula."""
    lag = data.t[:, None] - data.t
    quasi_periodic = np.sin(np.pi * lag / 20.0) ** 2 / 0.5**2 + lag**2 / 50.0**2
    cov = 3.0 * np.exp(-0.5 * quasi_periodic) + np.diag(data.sigma**2 + theta["sigma_J"] ** 2)
    return stats.multivariate_normal(direct_model(data, theta, n_planets), cov).logpdf(data.v)


def draw(rng, data, n_planets, *, far=False):
    """Draw parameters like a posterior's (or from all over the prior), rounded to the working precision."""
    theta = {"C": rng.normal(0, 2), "sigma_J": abs(rng.normal(0, 1.5))}
    if far:
        theta = {"C": rng.uniform(-1000, 1000), "sigma_J": rng.uniform(0, 99)}
    for i, (low, high) in enumerate(data.periods[:n_planets], start=1):
        theta[f"P{i}"] = math.exp(rng.uniform(math.log(low), math.log(high)))
        theta[f"K{i}"] = rng.uniform(0, 999) if far else abs(rng.normal(0, 4))
        theta[f"e{i}"] = rng.uniform(0, 0.99) if far else min(rng.rayleigh(0.2), 0.9)
        theta |= {f"omega{i}": rng.uniform(0, 2 * np.pi), f"M{i}": rng.uniform(0, 2 * np.pi)}
    return {name: float(jnp.asarray(value)) for name, value in theta.items()}


@pytest.mark.parametrize("e", [0.0, 0.01, 0.3, 0.6, 0.9, 0.98, 0.99])
def test_kepler_solver(e):
    small = np.geomspace(1e-6, 1, 60)
    M = np.concatenate([np.linspace(-np.pi, np.pi, 181), small, -small])
    M, e = np.asarray(jnp.asarray(M), float), float(jnp.asarray(e))
    E = np.asarray(jax.jit(eprv3.kepler)(jnp.asarray(M), e), float)
    np.testing.assert_allclose(E, eccentric_anomaly(M, e), atol=10 * ROUNDING)


def test_kepler_solver_is_precise_in_float64():
    M = np.linspace(-np.pi, np.pi, 501)
    with enable_x64(True):  # noqa: FBT003
        for e in (0.0, 0.5, 0.9, 0.99, 0.9999):
            E = np.asarray(eprv3.kepler(jnp.asarray(M), e))
            np.testing.assert_allclose(E, eccentric_anomaly(M, e), atol=1e-13)


@pytest.mark.parametrize("e", [0.0, 1.0])
def test_orbit_is_finite_at_the_limits_of_the_eccentricity(e):
    velocity = eprv3.orbit(jnp.linspace(-300.0, 300.0, 401), 20.0, 3.0, e, 1.0, 0.0)
    assert np.isfinite(velocity).all()


@pytest.mark.parametrize("data_set", [1, 2, 3, 4])
@pytest.mark.parametrize("n_planets", [0, 1, 2, 3])
def test_loglikelihood_near_the_posterior(data_set, n_planets):
    data = eprv3.load(data_set)
    logL = jax.jit(eprv3.loglikelihood(data, n_planets))
    rng = np.random.default_rng(10 * data_set + n_planets)
    for _ in range(12):
        theta = draw(rng, data, n_planets)
        exact = direct_logL(data, theta, n_planets)
        assert float(logL(theta)) == pytest.approx(exact, abs=1e-2, rel=1e-5)


@pytest.mark.parametrize("n_planets", [0, 1, 3])
def test_loglikelihood_far_from_the_posterior_is_finite(n_planets):
    data = eprv3.load(1)
    logL = jax.jit(eprv3.loglikelihood(data, n_planets))
    rng = np.random.default_rng(n_planets)
    for _ in range(20):
        theta = draw(rng, data, n_planets, far=True)
        assert float(logL(theta)) == pytest.approx(direct_logL(data, theta, n_planets), rel=2e-3)
    assert math.isfinite(float(logL({**theta, "C": 1000.0, "sigma_J": 0.0})))


def test_factorisation_restores_the_covariance():
    data = eprv3.load(2)
    noise = eprv3.factorise(data)
    restored = (noise.rotation * noise.variance) @ noise.rotation.T
    np.testing.assert_allclose(restored, eprv3.covariance(data), atol=1e-12)


@pytest.mark.parametrize("data_set", [1, 2, 3, 4])
def test_zero_planet_evidence_by_quadrature(data_set):
    """C enters linearly, so only the jitter needs a numerical integral."""
    data = eprv3.load(data_set)
    noise = eprv3.factorise(data)
    v, ones = noise.rotation.T @ data.v, noise.rotation.sum(axis=0)
    shift = eprv3.PUBLISHED["quadrature"][0][data_set - 1] * math.log(10)

    def integrand(s):
        weight = 1 / (noise.variance + s**2)
        precision, mean = weight @ ones**2, weight @ (v * ones)
        log_peak = -0.5 * (weight @ v**2 - mean**2 / precision - np.log(weight / (2 * np.pi)).sum())
        log_C = 0.5 * math.log(2 * np.pi / precision) - math.log(2000)
        return math.exp(log_peak + log_C - shift) / ((1 + s) * math.log(100))

    Z = quad(integrand, 0, 99, points=[0.5, 1, 2, 5], limit=500)[0]
    assert math.log10(Z) == pytest.approx(0, abs=2e-6)


@pytest.mark.parametrize(
    ("name", "density", "low", "high"),
    [
        ("C", lambda x: 1 / 2000, -1000, 1000),
        ("sigma_J", lambda s: 1 / ((1 + s) * math.log(100)), 0, 99),
        ("P1", lambda p: 1 / (p * math.log(44.6684 / 39.8107)), 39.8107, 44.6684),
        ("K1", lambda k: 1 / ((1 + k) * math.log(1000)), 0, 999),
        ("e1", lambda e: e / 0.04 * math.exp(-(e**2) / 0.08) / (1 - math.exp(-12.5)), 0, 1),
        ("omega1", lambda a: 1 / (2 * np.pi), 0, 2 * np.pi),
        ("M1", lambda a: 1 / (2 * np.pi), 0, 2 * np.pi),
    ],
)
def test_prior_is_the_normalised_density_of_the_challenge(name, density, low, high):
    prior = eprv3.problem(1, 1).prior
    draws = np.asarray(jax.vmap(prior.dict)(prior.sample(jax.random.key(7), 20_000))[name], float)
    assert draws.min() >= low - 1e-3
    assert draws.max() <= high + 1e-3
    assert quad(density, low, high)[0] == pytest.approx(1, abs=1e-6)
    cuts = np.quantile(draws, [0.1, 0.3, 0.5, 0.7, 0.9])
    exact = [quad(density, low, cut)[0] for cut in cuts]
    np.testing.assert_allclose(exact, [0.1, 0.3, 0.5, 0.7, 0.9], atol=0.015)


@pytest.mark.parametrize("n_planets", [0, 1, 2, 3])
def test_problem_has_its_parameters(n_planets):
    problem = eprv3.problem(3, n_planets)
    assert len(problem.names) == problem.prior.dim == 2 + 5 * n_planets
    assert sum(problem.prior.periodic) == 2 * n_planets
    assert problem.traceable


def test_wrong_numbers_are_refused():
    with pytest.raises(ValueError, match="data set 1, 2, 3 or 4"):
        eprv3.load(5)
    with pytest.raises(ValueError, match="0, 1, 2 or 3 planets"):
        eprv3.problem(1, 4)
