"""A changed model seen from the points of another, and two models compared."""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from fusions.errors import OptionError, Status
from fusions.numerics import effective_sample_size, logsumexp, normalised


class Reweighted(NamedTuple):
    """A changed model seen from the points of another: ln Z, its error, effective size, theta (n, m), normalised log weights (n,)."""

    logZ: float
    logZ_err: float
    ess: float
    theta: np.ndarray
    logw: np.ndarray


def reweighted(result: Any, log_ratio: Callable):
    """Estimate the evidence of a changed prior or likelihood from the points of a Result; see `Result.reweight`."""
    theta, logw = result.posterior
    ratio = np.asarray(log_ratio(dict(zip(result.names, theta.T, strict=True))), np.float64)
    if ratio.shape != logw.shape or np.any(np.isnan(ratio)) or np.any(ratio == np.inf):
        raise OptionError(f"Expected log_ratio to return {logw.shape} values that are not NaN or +inf, got shape {ratio.shape}.")
    new = logw + ratio
    if not np.any(np.isfinite(new)):
        raise OptionError("Expected a changed model with a finite posterior at some point of this run; it is zero at all of them.")
    p, gain = np.exp(normalised(logw)), logsumexp(new) - logsumexp(logw)
    spread = np.sqrt(np.sum((p * (np.exp(ratio - gain) - 1)) ** 2))
    err = float(np.hypot(result.logZ_err, spread))
    return Reweighted(result.logZ + gain, err, effective_sample_size(new), theta, normalised(new))


def log_bayes_factor(a: Any, b: Any):
    """Compare two Results; see `Result.log_bayes_factor`."""
    if not isinstance(b, type(a)):
        raise OptionError(f"Expected a Result, got {type(b).__name__}. Type a.log_bayes_factor(b).")
    for result in (a, b):
        if not (result.status.complete or result.status is Status.USER_RULE):
            warnings.warn(f"{result!r} is incomplete, and so is its Bayes factor.", stacklevel=3)
    return a.logZ - b.logZ, float(np.hypot(a.logZ_err, b.logZ_err))
