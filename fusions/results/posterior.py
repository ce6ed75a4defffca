"""What the posterior of a result says, with Monte Carlo errors: expectations, moments, quantiles.

The error of a weighted mean of f is, to first order, sqrt(sum w^2 (f - mean)^2) (Owen 2013, Monte Carlo theory, methods and examples,
eq. 9.8). Where the weights come from volumes, what their simulations scatter by is added.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from fusions.errors import OptionError
from fusions.evidence.volumes import simulated_weights
from fusions.numerics import normalised, parts_of, weighted_moments


class Moments(NamedTuple):
    """Posterior mean and standard deviation of each column, and the Monte Carlo errors of both, all (m,)."""

    mean: np.ndarray
    sd: np.ndarray
    mean_err: np.ndarray
    sd_err: np.ndarray


def _errors(result, w, centred):
    """Return the errors (k,) of weighted means of values; `centred` gives these less their means, (r, k) at rows (r,)."""
    own = sum((w[rows] ** 2) @ centred(rows) ** 2 for rows in parts_of(len(w)))
    if result.headline.name != "volumes":
        return np.sqrt(own)
    total, moment = 0.0, 0.0
    for rows, p in simulated_weights(result.logL, result.logL_birth):
        total, moment = total + p.sum(axis=0), moment + p.T @ centred(rows)
    return np.hypot(np.sqrt(own), (moment / total[:, None]).std(axis=0, ddof=1))


def _finite(values):
    """Show what has no weight as zero, so that products with it are finite."""
    return np.where(np.isfinite(values), values, 0.0)


def moments(result: Any):
    """Compute `Moments`; NaN without a point of finite log L."""
    if not np.isfinite(result.logZ):
        return Moments(*np.full((4, len(result.names)), np.nan))
    theta, logw = result.posterior
    mean, sd = weighted_moments(theta, logw)

    def centred(rows):
        offset = _finite(theta[rows]) - mean
        return np.concatenate([offset, offset**2 - sd**2], axis=1)

    mean_err, variance_err = np.split(_errors(result, np.exp(normalised(logw)), centred), 2)
    return Moments(mean, sd, mean_err, np.divide(variance_err, 2 * sd, out=np.zeros_like(sd), where=sd > 0))


def expectation(result: Any, function: Callable):
    """Compute a posterior mean and its error; see `Result.expectation`."""
    theta, logw = result.posterior
    w = np.exp(normalised(logw))
    values = np.asarray(function(dict(zip(result.names, theta.T, strict=True))), np.float64)
    if values.shape != w.shape or not np.all(np.isfinite(values[w > 0])):
        raise OptionError(f"Expected the function to return {w.shape} finite values, got shape {values.shape}.")
    values = _finite(values)
    mean = w @ values
    return float(mean), float(_errors(result, w, lambda rows: values[rows, None] - mean)[0])


def quantiles(result: Any, q: Sequence[float]):
    """Compute quantiles and their errors; see `Result.quantiles`."""
    at = np.asarray(q, np.float64)
    if at.ndim != 1 or not np.all((at > 0) & (at < 1)):
        raise OptionError(f"Expected q to be numbers between 0 and 1, got {q!r}. Type result.quantiles([0.16, 0.5, 0.84]).")
    theta, logw = result.posterior
    w = np.exp(normalised(logw))
    orders = [np.argsort(column, kind="stable") for column in theta.T]
    cumulative = [np.cumsum(w[order]) - 0.5 * w[order] for order in orders]
    columns = list(zip(cumulative, orders, theta.T, strict=True))
    values = np.stack([np.interp(at, c, column[order]) for c, order, column in columns], axis=1)
    err = _errors(result, w, lambda rows: ((theta[rows, None] <= values) - at[:, None]).reshape(len(rows), -1)).reshape(values.shape)
    ends = [
        [np.interp(np.clip(at + sign * e, 0, 1), c, column[order]) for e, (c, order, column) in zip(err.T, columns, strict=True)]
        for sign in (1, -1)
    ]
    return values, 0.5 * (np.transpose(ends[0]) - np.transpose(ends[1]))
