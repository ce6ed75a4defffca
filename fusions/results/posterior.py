"""What the posterior of a result says, with Monte Carlo errors: expectations, moments, quantiles.

The error of a weighted mean of f is, to first order, sqrt(sum w^2 (f - mean)^2) (Owen 2013, Monte Carlo theory, methods and examples,
eq. 9.8). Where the weights come from volumes, what their simulations scatter by is added.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from fusions.errors import OptionError
from fusions.evidence.volumes import simulated_logw
from fusions.numerics import normalised, weighted_moments


class Moments(NamedTuple):
    """Posterior mean and standard deviation of each column, and the Monte Carlo errors of both, all (m,)."""

    mean: np.ndarray
    sd: np.ndarray
    mean_err: np.ndarray
    sd_err: np.ndarray


def _columns(values):
    """Show what has no weight as zero, so that products with it are finite."""
    return np.where(np.isfinite(values), values, 0.0)


def _weights(result):
    """Return theta (n, m) and normalised weights (n,) of the posterior, and such weights (n, k) for simulated volumes or None."""
    theta, logw = result.posterior
    volumes = result.headline.name == "volumes"
    return theta, np.exp(normalised(logw)), np.exp(simulated_logw(result.logL, result.logL_birth)) if volumes else None


def _errors(values, mean, w, simulated):
    """Return the errors (k,) of the weighted means of values (n, k)."""
    own = np.sqrt((w**2) @ (values - mean) ** 2)
    return own if simulated is None else np.hypot(own, (simulated.T @ (values - mean)).std(axis=0, ddof=1))


def moments(result: Any):
    """Compute `Moments`; NaN without a point of finite log L."""
    if not np.isfinite(result.logZ):
        return Moments(*np.full((4, len(result.names)), np.nan))
    mean, sd = weighted_moments(*result.posterior)
    theta, w, simulated = _weights(result)
    offset = _columns(theta) - mean
    variance_err = _errors(offset**2, sd**2, w, simulated)
    return Moments(mean, sd, _errors(offset, 0.0, w, simulated), np.divide(variance_err, 2 * sd, out=np.zeros_like(sd), where=sd > 0))


def expectation(result: Any, function: Callable):
    """Compute a posterior mean and its error; see `Result.expectation`."""
    theta, w, simulated = _weights(result)
    values = np.asarray(function(dict(zip(result.names, theta.T, strict=True))), np.float64)
    if values.shape != w.shape or not np.all(np.isfinite(values[w > 0])):
        raise OptionError(f"Expected the function to return {w.shape} finite values, got shape {values.shape}.")
    values = _columns(values)
    mean = w @ values
    return float(mean), float(_errors(values[:, None], mean, w, simulated)[0])


def quantiles(result: Any, q: Sequence[float]):
    """Compute quantiles and their errors; see `Result.quantiles`."""
    at = np.asarray(q, np.float64)
    if at.ndim != 1 or not np.all((at > 0) & (at < 1)):
        raise OptionError(f"Expected q to be numbers between 0 and 1, got {q!r}. Type result.quantiles([0.16, 0.5, 0.84]).")
    theta, w, simulated = _weights(result)
    found = np.empty((2, len(at), theta.shape[1]))
    for j, column in enumerate(theta.T):
        order = np.argsort(column, kind="stable")
        cumulative = np.cumsum(w[order]) - 0.5 * w[order]
        found[0, :, j] = value = np.interp(at, cumulative, column[order])
        err = _errors((column[:, None] <= value).astype(np.float64), at, w, simulated)
        ends = [np.interp(np.clip(at + sign * err, 0, 1), cumulative, column[order]) for sign in (1, -1)]
        found[1, :, j] = 0.5 * (ends[0] - ends[1])
    return found[0], found[1]
