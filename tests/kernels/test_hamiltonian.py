"""Hamiltonian trajectories: they keep a posterior, edges and angles included, and run along ridges."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from scipy.stats import kstest, norm

import fusions
from fusions import priors as pr
from fusions.driver.compiled import make_functions
from fusions.types import turned

PRIOR = fusions.Prior(cut=pr.uniform(0, 10), free=pr.normal(0, 1), turn=pr.uniform(-np.pi, np.pi, periodic=True))
TURN = 2.0  # of the von Mises density of the angle


def logL(p):
    """Cut by the edge of the first prior, two standard deviations wide; around the back of the angle."""
    return -0.5 * (p["cut"] / 2) ** 2 - 0.5 * ((p["free"] - 1) / 0.5) ** 2 - TURN * jnp.cos(p["turn"])


@pytest.fixture(scope="module")
def cut():
    """Make the problem and its compiled functions."""
    problem = fusions.Problem(PRIOR, logL)
    return problem, *make_functions(problem, fusions.Refine())


def exact(functions, n, rng):
    """Draw n posterior points in the coordinates of the chains."""
    a, free, turn = abs(2 * rng.standard_normal(n)), 0.8 + np.sqrt(0.2) * rng.standard_normal(n), np.pi + rng.vonmises(0, TURN, n)
    return functions.space.enter(np.column_stack([norm.ppf(a / 10), free, turned(turn)]).astype(np.float32))


def test_trajectories_keep_the_posterior(cut):
    _, functions, traces = cut
    x, rng = exact(functions, 4000, np.random.default_rng(0)), np.random.default_rng(1)
    others = exact(functions, 4000, rng)
    for i in range(3):
        y, at, chance, force = functions.trajectory(jax.random.key(i), x, np.array([0.2, 0.4, 0.6]), 0.5, 10 + i)
        assert chance.mean() > 0.8
        assert np.mean(np.abs(y - x).max(axis=1) > 0.1) > 0.7
        np.testing.assert_allclose(at, functions.target(y)[0], atol=1e-4)
        assert force.shape == x.shape
        x = y
    for column, other in zip(x.T, others.T, strict=True):
        assert kstest(column, other).pvalue > 1e-3
    assert traces()["trajectory"] == 1


def test_short_steps_conserve_the_energy(cut):
    _, functions, _ = cut
    x = exact(functions, 500, np.random.default_rng(2))
    chance = functions.trajectory(jax.random.key(3), x, np.array([0.2, 0.4, 0.6]), 0.01, 50)[2]
    assert chance.min() > 0.99


def test_the_force_is_the_gradient_of_the_posterior(cut):
    _, functions, _ = cut
    x, h = exact(functions, 50, np.random.default_rng(4)), 1e-2
    x = x[(np.abs(x[:, 0]) < 0.45) & (np.abs(x[:, 2]) < 3)]
    force = functions.trajectory(jax.random.key(5), x, np.ones(3), 0.1, 0)[3]
    for i, row in enumerate(h * np.eye(3, dtype=np.float32)):
        high, low = (functions.target(y)[0] + functions.logprior(y) for y in (x + row, x - row))
        np.testing.assert_allclose(force[:, i], (high - low) / (2 * h), rtol=0.05, atol=0.05)


def test_no_trajectories_without_a_gradient():
    prior = fusions.Prior(a=pr.uniform(0, 1))
    shape = jax.ShapeDtypeStruct((), jnp.float32)

    def opaque(p):
        return jax.pure_callback(lambda a: np.float32(-a), shape, p["a"], vmap_method="sequential")

    for problem in (fusions.Problem(prior, lambda p: -p["a"], traceable=False), fusions.Problem(prior, opaque)):
        assert make_functions(problem, fusions.Refine())[0].trajectory is None


def test_a_likelihood_that_is_nowhere_smooth_moves_nothing_wrongly():
    problem = fusions.Problem(fusions.Prior(a=pr.uniform(0, 1)), lambda p: jnp.where(p["a"] < 0.5, 0.0, -jnp.inf))
    functions, _ = make_functions(problem, fusions.Refine())
    x = np.random.default_rng(6).uniform(-0.5, 0, (2000, 1)).astype(np.float32)
    y, at, *_ = functions.trajectory(jax.random.key(7), x, np.ones(1), 0.3, 5)
    assert np.all(y < 0)
    assert np.all(at == 0)
    assert kstest(y[:, 0], "uniform", (-0.5, 0.5)).pvalue > 1e-3


def test_a_ridge_is_followed_in_few_steps():
    oracle = oracles.rosenbrock(4)
    functions, _ = make_functions(oracle.problem, fusions.Refine())
    x = (0.005 * np.random.default_rng(8).standard_normal((400, 4))).astype(np.float32)  # units of the prior's width
    for i in range(4):
        x = functions.trajectory(jax.random.key(i), x, np.full(4, 0.004), 0.6, 100)[0]
    assert 0.55 < 10 * x[:, 3].mean() < 1.05  # exact 0.818, standard deviation 1.2
