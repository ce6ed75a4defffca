"""The benchmark of paper/: what samplers see of a problem, and the scores."""

import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import ndtri

sys.path.append(str(Path(__file__).parents[2] / "paper"))

import benchmark
from targets import Target, oracle


def row(seed, error, calls=1000, **changes):
    """Make a row of a finished run."""
    base = {
        "sampler": "fusions", "setting": "n_live 500", "problem": "shells5", "seed": seed, "status": "ok", "exact": -5.0,
        "logZ": -5.0 + error, "err": 0.1, "n_calls": calls, "seconds": 3.0,
    }  # fmt: skip
    return base | changes


@pytest.mark.parametrize("name", benchmark.PROBLEMS)
def test_cube_and_prior_give_the_same_likelihood(name):
    target, problem = Target(name), oracle(name).problem
    u = np.random.default_rng(0).uniform(size=(5, target.dim))
    theta = jax.vmap(problem.prior.theta)(jnp.asarray(ndtri(u)))
    direct = np.asarray(jax.jit(jax.vmap(problem.call_one))(theta)[0], float)
    assert target.rows(u) == pytest.approx(direct, rel=1e-3, abs=1e-3)
    assert target.row(u[2]) == pytest.approx(direct[2], rel=1e-3, abs=1e-3)
    assert target.n_calls == 6
    assert np.isfinite(target.rows(np.zeros((1, target.dim)))).all()


def test_score_of_known_rows():
    s = benchmark.score([row(0, 0.3), row(1, -0.1, 3000)])
    assert s["W"] == pytest.approx(2000 * 0.05)
    assert s["mean"] == pytest.approx(0.1)
    assert s["pull"] == pytest.approx(1.0)
    assert s["low"] == pytest.approx(3000 * 0.01)
    assert s["high"] == pytest.approx(2000 * 0.05)
    assert np.isnan(benchmark.score([row(0, 0.3)])["low"])


def test_a_timeout_is_a_loss():
    s = benchmark.score([row(0, 0.0), row(1, 0.0, status="timeout", logZ=None)])
    assert s["W"] == np.inf


def test_peers_are_compared_by_their_best_setting():
    rows = [row(0, 0.1), row(0, 0.2, sampler="dynesty", setting="a"), row(0, 0.05, sampler="dynesty", setting="b")]
    table = benchmark.scores(rows)
    assert benchmark.best(table, "shells5", "dynesty") == "b"
    assert benchmark.verdict(table, "n_live 500", "dynesty").startswith("| dynesty | 0 of 7 | 0 | shells5 |")
    table = benchmark.scores(rows[:2])
    assert benchmark.verdict(table, "n_live 500", "dynesty").startswith("| dynesty | 1 of 7 | 1 | - |")


def test_later_rows_replace_earlier_ones(tmp_path):
    paths = [tmp_path / "a", tmp_path / "b"]
    for path, error in zip(paths, (0.1, 0.2), strict=True):
        path.write_text(json.dumps(row(0, error)) + "\n")
    assert [r["logZ"] for r in benchmark.load(*paths)] == [-4.8]


def test_a_failing_or_slow_sampler_leaves_a_row(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "ROWS", tmp_path / "rows.jsonl")
    job = {"sampler": "fusions", "setting": "x", "problem": "shells5", "seed": 0}
    assert benchmark.attempt(job, {"no_such_option": 1}, 100)["status"] == "error"
    assert benchmark.attempt(job, {"n_live": 500}, 0.1)["status"] == "timeout"
    assert [r["status"] for r in benchmark.load(benchmark.ROWS)] == ["timeout"]
