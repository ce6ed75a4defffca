"""The nested samples of a result: those of the run itself, and those played again that agree with the headline."""

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from numbers import Integral
from typing import Any

import numpy as np

from fusions.errors import OptionError
from fusions.evidence.replay import live_points, prior_points, replay
from fusions.evidence.volumes import Evidence, evaluate_ledger
from fusions.io.labels import math_label
from fusions.io.polychord import exported_births


@dataclass(frozen=True, eq=False, repr=False)
class NestedPoints:
    """Dead and live points of a nested run.

    Attributes
    ----------
    theta : (N, m); logL, logL_birth : (N,), births as in `Result`. The last `n_live` are the final live points.
    n_live : number of live points.
    family : (N,) as in `Result`, or empty.
    """

    theta: np.ndarray
    logL: np.ndarray
    logL_birth: np.ndarray
    n_live: int
    family: np.ndarray = field(default_factory=lambda: np.empty(0))

    @cached_property
    def evidence(self):
        """`fusions.evidence.volumes.Evidence` by the volumes of these points."""
        if np.any(np.isfinite(self.logL)):
            return evaluate_ledger(self.logL, self.logL_birth, self.family)
        empty = np.full(len(self.logL), np.nan)
        return Evidence(-np.inf, np.nan, np.nan, np.nan, np.nan, np.nan, empty, empty)


def ledger_of(result: Any):
    """Return the points of the nested run itself."""
    return NestedPoints(result.theta, result.logL, result.logL_birth, result.n_live, result.family)


def replayed(result: Any, n_live: Any = None):
    """Play a nested run again on all that was learned, the same each time; the run itself where its volumes are the headline.

    Parameters
    ----------
    result : Result
    n_live : number of live points; default `fusions.evidence.replay.live_points`.

    Returns
    -------
    NestedPoints
    """
    if n_live is not None and (isinstance(n_live, bool) or not isinstance(n_live, Integral) or n_live < 1):
        raise OptionError(f"Expected n_live to be a positive integer, got {n_live!r}. Type result.samples(n_live=1000).")
    if not result.replayed:
        return result.nested_points
    points = prior_points(result.logL, result.logL_birth, result.draws_logL, result.draws_logw)
    seed = np.frombuffer(hashlib.sha256(result.draws_logw.tobytes()).digest(), np.uint32)
    n_live = live_points(points, result.D_KL, result.logZ_err) if n_live is None else int(n_live)
    played = replay(points, n_live, np.random.default_rng(seed))
    nested, row = played.row < len(result.logL), played.row
    theta = np.empty((len(row), result.theta.shape[1]))
    theta[nested], theta[~nested] = result.theta[row[nested]], result.draws[row[~nested] - len(result.logL)]
    return NestedPoints(theta, played.logL, played.logL_birth, n_live)


def to_anesthetic(result: Any, points: NestedPoints):
    """Make anesthetic.NestedSamples of nested points; see `Result.samples`."""
    from anesthetic import NestedSamples

    latex = {name: f"${math_label(label)}$" for name, label in result.labels.items() if label}
    return NestedSamples(
        data=points.theta,
        columns=list(result.names),
        logL=points.logL,
        labels={name: latex.get(name, name) for name in result.names},
        logL_birth=exported_births(points.logL, points.logL_birth),
        logzero=-np.inf,
        label=result.info.get("name"),
    )
