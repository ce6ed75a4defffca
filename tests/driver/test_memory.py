"""What a run with many dead points holds in memory: a few copies less than it could."""

import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

import fusions
from fusions import priors as pr
from fusions.errors import Status
from fusions.evidence.ledger import Ledger, Particles
from fusions.evidence.volumes import insertion_uniforms
from fusions.io.polychord import set_apart
from fusions.model.likelihood import theta_of
from fusions.results.result import Result

DOCS = Path(__file__).parents[2] / "docs"
N, DIM = 20_487, 40


def held(function):
    """Return what a function returns and the most bytes that were held meanwhile."""
    tracemalloc.start()
    try:
        value = function()
        return value, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_parameters_of_many_points_are_held_once():
    problem = fusions.Problem(fusions.Prior(**{f"x{i}": pr.normal(0, 1) for i in range(DIM)}), lambda p: p["x0"])
    x = np.random.default_rng(0).normal(size=(N, DIM)).astype(np.float32)
    theta_of(problem, [x[:1]], np.zeros((1, 2)))  # compiles
    theta, most = held(lambda: theta_of(problem, [x[:7], x[7:]], np.ones((N, 2))))
    assert most < 1.3 * theta.nbytes
    np.testing.assert_allclose(theta[:, :DIM], x, rtol=1e-6)
    np.testing.assert_array_equal(theta[:, DIM:], 1.0)


def test_ledger_is_joined_once():
    ledger, rng = Ledger(), np.random.default_rng(0)
    for _ in range(10):
        dead = Particles(rng.normal(size=(N, DIM)), rng.random(N), rng.random(N), np.zeros((N, 0)))
        ledger.append(dead, np.zeros(N, int), rng.random(N))
    live = Particles(rng.normal(size=(5, DIM)), np.ones(5), np.ones(5), np.zeros((5, 0)))
    x, most = held(lambda: ledger.joined(live, "x"))
    assert len(x) == 10 * N + 5
    assert most < 1.3 * x.nbytes


def test_ranks_need_no_square_of_the_replacements():
    n, rng = 4000, np.random.default_rng(0)
    uniforms, most = held(lambda: insertion_uniforms(rng, rng.random(n), rng.random(n)))
    assert len(uniforms) == n
    assert most < n * n


def test_repeats_are_sought_among_few_rows():
    rows = np.random.default_rng(0).normal(size=(N, DIM))
    rows[5] = rows[3]
    apart, most = held(lambda: set_apart(rows.copy()))
    assert most < 1.3 * rows.nbytes
    assert apart[5, 0] == np.nextafter(rows[3, 0], np.sign(rows[3, 0]) * np.inf)
    np.testing.assert_array_equal(np.delete(apart, 5, axis=0), np.delete(rows, 5, axis=0))


def test_moments_are_summed_in_parts(monkeypatch):
    monkeypatch.setattr("fusions.numerics.SUMMED", 2048)
    n, rng = 5 * 2048 + 5, np.random.default_rng(0)
    theta = rng.normal(size=(n, 10))
    logL = np.sort(-0.5 * theta[:, 0] ** 2)
    result = Result([f"x{i}" for i in range(10)], 10, {}, theta, logL, np.full(n, np.nan), n_live=n, status=Status.CONVERGED)
    p = np.exp(result.evidence.logw)
    (mean, sd, *_), most = held(result.moments)
    assert most < theta.nbytes
    np.testing.assert_allclose(mean, p @ theta, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(sd, np.sqrt(p @ (theta - p @ theta) ** 2), rtol=1e-9)


@pytest.mark.slow
def test_a_million_dead_points_in_fifty_dimensions():
    done = subprocess.run([sys.executable, DOCS / "memory.py"], capture_output=True, text=True, check=True, cwd=DOCS.parent)
    peaks = [float(line.split("|")[3].replace(",", "").split()[0]) for line in done.stdout.splitlines()[2:]]
    assert len(peaks) >= 9
    assert max(peaks) < 2200  # MB; coordinates of float64 are 400 of them
