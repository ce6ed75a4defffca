"""The problems of docs/honesty.py: evidences computed again, and the reading of its rows."""

import json
import math
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

sys.path.append(str(Path(__file__).parents[2] / "docs"))

import honesty
import honesty_problems as problems


def log_likelihood(known, theta):
    """Evaluate log L at (n, d) points in chunks, as float64."""
    call = jax.jit(jax.vmap(lambda row: known.problem.call_one(row)[0]))
    chunks = np.array_split(np.asarray(theta), max(1, len(theta) // 200_000))
    return np.concatenate([np.asarray(call(jnp.asarray(chunk)), float) for chunk in chunks])


def box(known):
    """Return the corners of the prior's box, both (d,)."""
    faces = [known.problem.prior.theta(jnp.full(known.problem.prior.dim, value)) for value in (-40.0, 40.0)]
    return (np.asarray(face, float) for face in faces)


@pytest.mark.parametrize(
    ("name", "n"),
    [
        *((name, (800, 800)) for name in ("minor2", "trio2", "grid3", "grid5", "ring", "corner2")),
        ("banana2", (800, 1600)),
        ("ridge2", (1600, 1600)), ("students2", (1600, 1600)), ("spike2", (3000, 3000)), ("twist", (160, 160, 120)),
    ],
)  # fmt: skip
def test_evidence_by_the_midpoint_rule(name, n):
    known = problems.PROBLEMS.get(name, partial(problems.corner, 2))()
    assert known.name == name
    low, high = box(known)
    axes = [a + (b - a) * (np.arange(m) + 0.5) / m for a, b, m in zip(low, high, n, strict=True)]
    theta = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(n))
    assert logsumexp(log_likelihood(known, theta)) - math.log(len(theta)) == pytest.approx(known.logZ, abs=2e-3)


def test_neighbours_of_the_chain_are_correlated():
    i, x = np.arange(4), np.random.default_rng(0).standard_normal((20, 4))
    exact = multivariate_normal(np.zeros(4), 0.9 ** abs(i[:, None] - i)).logpdf(x)
    assert log_likelihood(problems.chain(4), x) == pytest.approx(exact, abs=1e-3)


@pytest.mark.parametrize(("pair", "each"), [("banana4", "banana2"), ("students4", "students2")])
def test_products_of_independent_parts(pair, each):
    whole, part = problems.PROBLEMS[pair](), problems.PROBLEMS[each]()
    assert whole.logZ == pytest.approx(2 * part.logZ)
    x = np.random.default_rng(1).standard_normal((20, 4))
    sums = log_likelihood(part, x[:, :2]) + log_likelihood(part, x[:, 2:])
    assert log_likelihood(whole, x) == pytest.approx(sums, rel=1e-4)


def test_the_core_of_a_mode_holds_its_draws_and_no_others():
    known = problems.trio(4)
    x = 2.5 + 0.5 * np.random.default_rng(2).standard_normal((5000, 4))
    assert known.inside(x).mean(axis=0) == pytest.approx([problems.CORE, 0, 0], abs=1e-3)
    assert known.masses == pytest.approx([0.6, 0.3, 0.1], abs=3e-3)


def row(**changes):
    """Make a row of a run that is right and quiet."""
    base = {
        "setting": "default", "problem": "ring", "seed": 0, "exact": 1.0, "logZ": 1.01, "err": 0.01, "headline": "importance",
        "warnings": [], "insertion_p": 0.5, "unvisited": [], "status": "CONVERGED", "n_calls": 1000, "seconds": 2.0,
    }  # fmt: skip
    return base | changes


def test_failures_warnings_and_good_runs():
    wrong = row(logZ=1.05)
    assert honesty.failed(wrong)
    assert not honesty.good(wrong)
    assert not honesty.failed(row(logZ=1.05, unvisited=[1]))
    assert honesty.good(row())
    assert not honesty.good(row(setting="one slice"))
    assert not honesty.warned(row())
    assert honesty.warned(row(warnings=["few draws"]))
    assert honesty.warned(row(insertion_p=1e-3))


def test_page_counts_failures_and_false_alarms(tmp_path, monkeypatch):
    rows = [row(seed=0), row(seed=1, warnings=["x"]), row(seed=2, logZ=0.9), row(seed=3, logZ=0.9, insertion_p=1e-6, status="PLATEAU")]
    rows += [row(seed=4, logZ=0.5, unvisited=[2]), row(setting="one slice, two rounds")]
    monkeypatch.setattr(honesty, "ROWS", tmp_path / "rows.jsonl")
    monkeypatch.setattr(honesty, "PAGE", tmp_path / "page.md")
    honesty.ROWS.write_text("".join(json.dumps(r) + "\n" for r in rows))
    honesty.table()
    page = honesty.PAGE.read_text()
    assert "| failed, every mode visited | 2 | 1 of 2 (50 %) |" in page
    assert "| default settings, not failed | 2 | 1 of 2 (50 %) |" in page
    assert "| a mode never visited | 1 | 0 of 1 (0 %) |" in page
    assert "Of the failed runs 1 ended on a plateau" in page
    assert "| ring | 5 | 2 | 1 | 2 | 1 |" in page
    assert "`nested(n_live=500)`\n" in page
    assert "`, at most 2 rounds" in page
