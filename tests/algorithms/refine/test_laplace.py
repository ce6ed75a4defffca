"""The Gaussian at the top of a mode."""

import numpy as np
import pytest

from fusions.algorithms.refine.laplace import GRADIENT, STEP, laplace

NOWHERE = np.array([[-np.inf], [np.inf]])


def new(x):
    """Say that no mode is known."""
    return False


def gaussian(mean, cov):
    """Make the log density of a Gaussian, up to a constant."""
    inverse = np.linalg.inv(cov)
    return lambda x: -0.5 * np.einsum("ni,ij,nj->n", x - mean, inverse, x - mean)


@pytest.mark.parametrize("dim", [1, 2, 5, 10])
@pytest.mark.parametrize("wrong", [0.1, 1.0, 10.0])
def test_a_gaussian_is_found_whatever_the_scale_given(dim, wrong):
    rng = np.random.default_rng(dim)
    root, mean = 0.01 * (0.4 * rng.standard_normal((dim, dim)) / np.sqrt(dim) + np.eye(dim)), rng.standard_normal(dim)
    cov = root @ root.T
    width = np.sqrt(np.diag(cov))
    top, found, integral, n_calls = laplace(mean + 5 * width, wrong * width, gaussian(mean, cov), NOWHERE.repeat(dim, axis=1), new)
    assert np.sqrt((top - mean) @ np.linalg.solve(cov, top - mean)) < np.sqrt(dim) * (GRADIENT / wrong + 2 * STEP * wrong)
    inverse = np.linalg.inv(root)
    np.testing.assert_allclose(np.linalg.eigvalsh(inverse @ found @ inverse.T), 1, atol=0.1)
    assert abs(integral - 0.5 * np.linalg.slogdet(2 * np.pi * cov)[1]) < 0.1 + 0.5 * dim * (GRADIENT / wrong + 2 * STEP * wrong) ** 2
    assert n_calls < 60 * (dim + 1)


def test_a_top_at_an_edge_has_the_width_inside():
    """A slope of ten per unit is worth a tenth of it."""
    top, cov, _, _ = laplace(np.array([0.3, 0.1]), np.ones(2), cut, np.array([[0.0, -np.inf], [np.inf, np.inf]]), new)
    np.testing.assert_allclose(top, [0, 0], atol=0.02)
    np.testing.assert_allclose(np.sqrt(np.diag(cov)), [0.05, 1], rtol=0.5)


def cut(x):
    """Compute the log of a density that falls exponentially from its edge, and like a normal one across."""
    return np.where(x[:, 0] >= 0, -10 * x[:, 0] - 0.5 * x[:, 1] ** 2, -np.inf)


def test_an_infinite_wall_is_stepped_back_from():
    def walled(x):
        return np.where(x[:, 0] > 0.5, gaussian(np.ones(2), np.eye(2))(x), -np.inf)

    top, cov, _, _ = laplace(np.array([3.0, 3.0]), np.array([5.0, 5.0]), walled, NOWHERE.repeat(2, axis=1), new)
    np.testing.assert_allclose(top, 1, atol=0.2)
    assert np.all(np.linalg.eigvalsh(cov) > 0)


def test_a_climb_ends_at_a_known_mode():
    calls = []

    def height(x):
        calls.append(len(x))
        return gaussian(np.zeros(3), np.eye(3))(x)

    top, cov, _, n_calls = laplace(np.full(3, 8.0), np.ones(3), height, NOWHERE.repeat(3, axis=1), lambda x: np.linalg.norm(x) < 5)
    assert cov is None
    assert np.linalg.norm(top) < 5
    assert n_calls == sum(calls) < 40


def test_a_ridge_without_an_end_keeps_a_finite_width():
    _, cov, _, _ = laplace(np.zeros(2), np.ones(2), lambda x: -50 * x[:, 0] ** 2, NOWHERE.repeat(2, axis=1), new)
    assert np.all(np.isfinite(cov))
    np.testing.assert_allclose(np.sqrt(cov[0, 0]), 0.1, rtol=0.2)
    assert np.sqrt(cov[1, 1]) >= 1
