"""Perfect nested sampling of problems whose evidence has a closed form, and Results made of it.

A problem is known by the prior volume X inside of a contour: log L falls with X, and a perfect draw above the
contour L* is uniform in (0, X*), X* the volume where log L > L*.
"""

from typing import NamedTuple

import numpy as np
from scipy.special import gammainc, gammaln

from fusions.errors import Status
from fusions.evidence.refinement import ChainsReport, Refinement, RoundReport
from fusions.evidence.volumes import Running, death_order, insertion_uniforms, shell_weights
from fusions.numerics import logsumexp
from fusions.results.result import Result


class VolumeProblem(NamedTuple):
    """A likelihood as a function of the prior volume that it encloses.

    Attributes
    ----------
    logL : function (n,) X -> (n,) log L, non-increasing.
    above : function L* -> volume of {log L > L*}.
    logZ : exact ln of the evidence.
    """

    logL: object
    above: object
    logZ: float


def gaussian_ball(dim=4, radius=6.0):
    """Return L = exp(-r^2/2) under a uniform prior in a ball: X = (r/radius)^dim."""
    a = dim / 2
    logZ = np.log(a) + a * np.log(2 / radius**2) + gammaln(a) + np.log(gammainc(a, radius**2 / 2))
    return VolumeProblem(
        lambda X: -0.5 * radius**2 * X ** (2 / dim),
        lambda logL: (-2 * logL / radius**2) ** (dim / 2) if logL < 0 else 0.0,
        float(logZ),
    )


def wedding_cake(tiers=12, ratio=0.5, step=0.9):
    """Return a cake: tier i has volume ratio^i and log L = i * step, constant on each tier."""
    edges = ratio ** np.arange(tiers)
    shells = edges - np.append(edges[1:], 0.0)

    def above(logL):
        return edges[np.searchsorted(np.arange(tiers) * step, logL, side="right")]

    logZ = np.log(np.sum(shells * np.exp(step * np.arange(tiers))))
    return VolumeProblem(lambda X: step * (np.searchsorted(-edges, -X, side="right") - 1.0), above, float(logZ))


def half_zero(inner, fraction=0.5):
    """Give the outer `fraction` of the prior zero likelihood; the problem `inner` fills the rest."""
    left = 1 - fraction

    def logL(X):
        return np.where(X < left, inner.logL(np.minimum(X / left, 1.0)), -np.inf)

    return VolumeProblem(logL, lambda c: left if c == -np.inf else left * inner.above(c), inner.logZ + np.log(left))


class Ledger(NamedTuple):
    """What a nested run leaves: deaths, then live points; `X` are true volumes."""

    logL: np.ndarray
    logL_birth: np.ndarray
    X: np.ndarray
    uniforms: np.ndarray
    trace: dict


def nested_run(problem, *, seed, n_live=100, n_kill=1, shrink=1.0, log_remaining=-7.0):
    """Run nested sampling with perfect replacements; `shrink` < 1 draws them from too small a volume.

    Returns
    -------
    Ledger
    """
    rng = np.random.default_rng(seed)
    X, birth = rng.random(n_live), np.full(n_live, np.nan)
    logL, running = problem.logL(X), Running()
    dead, uniforms, trace = [], [], []
    while np.any(np.isneginf(logL)) or running.remaining(logL) > log_remaining:
        order = np.argsort(logL, kind="stable")
        logL, X, birth = logL[order], X[order], birth[order]
        contour = logL[n_kill - 1]
        k = np.count_nonzero(logL <= contour)
        if k == n_live:
            break
        running = running.kill(logL[:k], n_live)
        dead.append((logL[:k].copy(), birth[:k].copy(), X[:k].copy()))
        X[:k] = rng.random(k) * problem.above(contour) * shrink
        birth[:k], logL[:k] = contour, problem.logL(X[:k])
        uniforms.append(insertion_uniforms(rng, logL[k:], logL[:k]))
        trace.append((contour, running.logX, n_live + 4.0 * sum(len(d[0]) for d in dead)))
    columns = [np.concatenate(parts) for parts in zip(*dead, (logL, birth, X), strict=True)]
    keys = dict(zip(("logL", "logX", "n_calls"), np.array(trace).reshape(-1, 3).T, strict=True))
    return Ledger(*columns, np.concatenate([*uniforms, np.empty(0)]), keys)


def ball_points(rng, X, dim=4, radius=6.0):
    """Place points of enclosed volume X (n,) on spheres in `dim` dimensions."""
    direction = rng.normal(size=(len(X), dim))
    return direction / np.linalg.norm(direction, axis=1, keepdims=True) * (radius * X[:, None] ** (1 / dim))


LABELS = {"x": r"x_{\mathrm{in}}", "y": r"$\omega$", "z": r"speed $z$ [m/s]", "r2": r"r^2"}


def make_result(problem=None, *, seed=0, status=Status.CONVERGED, info=None, **run):
    """Make a Result of a perfect run on the four-dimensional ball, with one derived parameter."""
    ledger = nested_run(problem or gaussian_ball(), seed=seed, **run)
    theta = ball_points(np.random.default_rng([seed, 1]), ledger.X)
    levels = np.arange(len(ledger.trace["logL"]))
    trace = {
        **ledger.trace,
        "acceptance": 0.5 * np.exp(-levels / (2 + levels[-1:])),
        "loss": 2.0 + np.exp(-levels / 20),
        "scale": 0.3 + 0.1 * np.sin(levels / 9),
        "unique": np.full(len(levels), 100.0),
    }
    return Result(
        names=("x", "y", "z", "theta_w", "r2"),
        n_params=4,
        labels=LABELS,
        theta=np.column_stack([theta, np.sum(theta**2, axis=1)]),
        logL=ledger.logL,
        logL_birth=ledger.logL_birth,
        n_live=run.get("n_live", 100),
        status=status,
        insertion_uniforms=ledger.uniforms,
        level_trace=trace,
        n_calls=4 * len(ledger.logL),
        seconds={"likelihood": 0.4, "training": 4.8, "ode": 5.4, "rest": 1.5, "total": 12.1},
        n_compilations=2,
        info={"name": "my problem", "seed": seed, "path": "traced", **(info or {})},
    )


def convention_shift(result):
    """Return ln Z of volumes that shrink by n/(n+1), as anesthetic's, minus that of our exp(-1/n)."""
    order, n_alive = death_order(result.logL, result.logL_birth)
    logmass = shell_weights(np.cumsum(-np.log1p(1 / n_alive)))
    return logsumexp(result.logL[order] + logmass) - result.logZ


def make_refinement(logZ=-1.0, *, n_moves=32, drift=1.2, settled=True, rounds=((-1.1, 0.1, 0.3), (-1.01, 0.01, 0.7)), **changes):
    """Make a refine phase that passes all checks, but for what is changed."""
    fields = {
        "importance": (logZ, 0.01), "bridge": (logZ, 0.01), "coverage": (0.0, 0.01), "ess": 1500.0, "khat": 0.3, "n_draws": 2048,
        "n_calls": 4000, "ode_error": 1e-4, "settings": "Refine()",
    }  # fmt: skip
    chains = ChainsReport(n_moves=n_moves, drift=drift, settled=settled)
    return Refinement(**fields | changes, rounds=tuple(RoundReport(*row) for row in rounds), chains=chains)
