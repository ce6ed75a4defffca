"""Coordinates of the refine phase: a prior with edges is uniform between them, and densities end there."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from scipy.special import ndtri

import fusions
from fusions import priors as pr
from fusions.driver.compiled import make_functions
from fusions.flows.matching import Training
from fusions.flows.mixture import MixtureCNF
from fusions.model.bounded import with_edges

ENDS = {
    "uniform": (pr.uniform(-5, 5), True),
    "log_uniform": (pr.log_uniform(1, 1e10), True),
    "truncated": (pr.truncated_normal(0, 1, -1, 2), True),
    "scipy": (scipy.stats.uniform(2, 3), True),
    "icdf": (pr.icdf(lambda u: 3 * u + 1), True),
    "host icdf": (pr.icdf(lambda u: 3 * float(u) + 1), True),
    "normal": (pr.normal(0, 1), False),
    "half_normal": (pr.half_normal(1), False),
    "exponential": (pr.exponential(1.0), False),
    "cauchy": (pr.cauchy(0, 1), False),
    "density that vanishes at its ends": (pr.beta(2, 3), False),
    "angle": (pr.uniform(0, 1, periodic=True), False),
}
MIXED = fusions.Prior(a=pr.uniform(-5, 5), b=pr.normal(0, 1), w=pr.uniform(0, 1, periodic=True), constraint=lambda p: p["a"] + p["b"] < 3)


def unit_cube(u):
    return np.array([10 * u[0] - 5, scipy.stats.norm.ppf(u[1])])


def fails_far_out(u):
    if u[0] > 0.999:
        raise ValueError("too far")
    return u


@pytest.mark.parametrize("name", ENDS)
def test_priors_with_edges_are_known(name):
    distribution, expected = ENDS[name]
    assert fusions.Prior(a=distribution).bounded == (expected,)


def test_edges_of_blocks():
    assert fusions.Prior(pr.transform(unit_cube, ["a", "b"]), pr.gaussian(["c", "d"], [0, 0], np.eye(2))).bounded == (True,) + 3 * (False,)
    assert fusions.Prior(pr.transform(fails_far_out, ["a"])).bounded == (False,)


@pytest.fixture(scope="module")
def mixed():
    problem = fusions.Problem(MIXED, lambda p: -0.5 * (p["a"] - 2) ** 2)
    return problem, with_edges(problem.space(), MIXED.bounded)


def test_points_come_back(mixed):
    x = np.asarray(MIXED.sample(0, 1000))
    y = mixed[1].enter(x)
    assert y.dtype == x.dtype
    assert np.all(np.abs(y[:, 0]) < 0.5)
    np.testing.assert_array_equal(y[:, 1:], x[:, 1:])
    np.testing.assert_allclose(mixed[1].leave(y), x, atol=1e-3)
    assert np.abs(mixed[1].leave(y) - x)[np.abs(x[:, 0]) < 3].max() < 1e-4


def test_the_prior_keeps_its_mass_and_its_constraint(mixed):
    problem, coordinates = mixed
    x = np.array(MIXED.sample(1, 1000))
    x[:, 0] = np.clip(x[:, 0], -4, 4)
    jacobian = -0.5 * x[:, 0] ** 2 - 0.5 * np.log(2 * np.pi)
    np.testing.assert_allclose(coordinates.space.logprior(coordinates.enter(x)), problem.space().logprior(x) - jacobian, atol=1e-3)
    assert np.all(np.isneginf(coordinates.space.logprior(jnp.array([[0.6, 0, 0], [-0.6, 0, 0], [0.49, 2.0, 0], [np.nan, 0, 0]]))))


def test_a_posterior_many_orders_narrower_than_its_prior_can_be_told_apart():
    prior = fusions.Prior(a=pr.uniform(-1e8, 1e8))
    coordinates = with_edges(fusions.Problem(prior, lambda p: 0 * p["a"]).space(), prior.bounded)
    theta = np.linspace(-3, 3, 61)
    x = ndtri(0.5 + theta / 2e8).astype(np.float32)[:, None]
    y = coordinates.enter(x)
    np.testing.assert_allclose(np.diff(y[:, 0]) * 2e8, 0.1, rtol=1e-3)
    np.testing.assert_allclose(coordinates.leave(y), x, rtol=1e-5, atol=1e-12)


def test_what_lies_outside_costs_no_call_and_comes_to_the_edge():
    problem = fusions.Problem(fusions.Prior(a=pr.uniform(-5, 5)), lambda p: -0.5 * p["a"] ** 2)
    functions, _ = make_functions(problem, fusions.Refine())
    y = np.array([[0.0], [0.7], [-3.5]], np.float32)
    logL, _, logprior, n_calls = functions.target(y)
    assert (n_calls, logprior[0]) == (1, 0.0)
    assert np.isneginf(logprior[1:]).all()
    assert abs(logL[0]) < 1e-6
    np.testing.assert_allclose(problem.prior.theta_rows(functions.space.leave(y))[1:, 0], [5, -5], atol=1e-5)


@pytest.mark.slow
def test_a_posterior_cut_by_edges_is_covered_to_its_end():
    """A ridge with an end in the corner of the prior: no point there has many times more posterior than draws."""
    rng, n, width = np.random.default_rng(0), 15_000, 0.05
    a = rng.uniform(2, 5, n)
    b = a**2 / 5 + width * rng.standard_normal(n)
    theta = np.stack([a, b], 1)[np.abs(b) < 5]
    prior = fusions.Prior(a=pr.uniform(-5, 5), b=pr.uniform(-5, 5))
    coordinates = with_edges(fusions.Problem(prior, lambda p: 0 * p["a"]).space(), prior.bounded)
    y = coordinates.enter(ndtri((theta + 5) / 10).astype(np.float32))
    flow = MixtureCNF(components=8, width=32, depth=2, ode_steps=4, training=Training(steps=60, rounds=6, batch=256, jitter=0.0))
    flow = flow.build(coordinates.space)
    state, _ = jax.jit(flow.fit)(jax.random.key(0), flow.init(jax.random.key(1)), jnp.asarray(y[:8192]))
    a, b = 10 * y[8192:12288].T
    logp = -0.5 * ((b - a**2 / 5) / width) ** 2 - np.log(width * np.sqrt(2 * np.pi)) - np.log(3) + np.log(100 * n / len(theta))
    logw = logp - np.asarray(jax.jit(flow.logq)(state, jnp.asarray(y[8192:12288])))
    assert abs(np.log(np.mean(np.exp(-logw)))) < 0.1
    assert np.max(logw) < np.log(10)
