"""The exact values of docs/quantities.py, computed again by quadrature."""

import math
import sys
from pathlib import Path

import numpy as np
import oracles
import pytest

sys.path.append(str(Path(__file__).parents[2] / "docs"))

from quantities import measured, quantities


def midpoints(low, high, n):
    """Return the midpoints of n intervals."""
    return low + (high - low) * (np.arange(n) + 0.5) / n


def plane(line):
    """Return all pairs of a line's points (n^2, 2)."""
    return np.stack(np.meshgrid(line, line, indexing="ij"), -1).reshape(-1, 2)


def test_masses_of_modes_in_the_plane():
    for name, log_density in (
        ("eggbox", lambda x: (2 + np.prod(np.cos(0.5 * x), axis=1)) ** 5),
        ("shells2", lambda x: np.logaddexp(*(-0.5 * ((np.hypot(x[:, 0] - c, x[:, 1]) - 2) / 0.1) ** 2 for c in (-3.5, 3.5)))),
    ):
        theta = plane(midpoints(0, 10 * math.pi, 300) if name == "eggbox" else midpoints(-6, 6, 300))
        found = measured(name, theta, log_density(theta))
        assert found == pytest.approx({label: exact for label, (_, exact) in quantities(name).items()}, rel=2e-3)


@pytest.mark.parametrize("dim", [2, 4, 10])
def test_rosenbrock_by_a_transfer_matrix(dim):
    x = midpoints(-5, 5, 2500)
    step = np.exp(-100 * (x[None] - x[:, None] ** 2) ** 2 - (1 - x[:, None]) ** 2)
    last = backward = np.ones(len(x))
    for _ in range(dim - 1):
        last, backward = last @ step, step @ backward
        last, backward = last / last.sum(), backward / backward.sum()
    exact = {label: value for label, (_, value) in quantities(f"rosenbrock{dim}").items()}
    assert backward[x < 0].sum() == pytest.approx(exact["P(x1<0)"], rel=2e-3)
    assert last @ x == pytest.approx(exact[f"E[x{dim}]"], rel=2e-3)
    if dim == 10:
        assert last[x > 3].sum() == pytest.approx(exact["P(x10>3)"], rel=2e-3)


def test_mixture_draws_have_the_masses_of_their_modes():
    weights, widths, centres = oracles.mixture_modes(10)
    theta = np.repeat(centres, 50, axis=0) + np.repeat(widths, 50)[:, None] * np.random.default_rng(0).standard_normal((200, 10))
    found = measured("mixture10", theta, np.log(np.repeat(weights / 50, 50)))
    assert list(found.values()) == pytest.approx(list(weights))


def test_log_gamma_has_four_equal_modes():
    x = midpoints(0, 1, 600)
    gamma, normal = ([(x - c) * 30 for c in (1 / 3, 2 / 3)] for _ in range(2))
    pair = np.logaddexp(*(z - np.exp(z) for z in gamma))[:, None] + np.logaddexp(*(-0.5 * z**2 for z in normal))[None]
    found = measured("loggamma10", plane(x), pair.ravel())
    assert list(found.values()) == pytest.approx([0.25] * 4, abs=0.005)


def test_period_modes_are_disjoint_and_at_most_all():
    masses = quantities("rv_a6")
    hits = sum(inside(np.linspace(2, 40, 10_001)[:, None]).astype(int) for inside, _ in masses.values())
    assert hits.max() == 1
    assert 0.95 < sum(mass for _, mass in masses.values()) < 1
    assert quantities("wedding_cake") == {}
