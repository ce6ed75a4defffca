"""Evaluate a problem's likelihood on batches of internal coordinates: traced (inside jit) or hosted (numpy)."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fusions.errors import LikelihoodError

ROWS = 1024  # points mapped to parameters at once


class Evaluator(NamedTuple):
    """The likelihood as samplers see it.

    Attributes
    ----------
    inside : x (n, d) -> (logL (n,), blobs (n, b)) for use inside jit; None for a black box.
    rows : the same for numpy arrays on the host, float64.
    """

    inside: Callable | None
    rows: Callable


def make_evaluator(problem):
    """Make the `Evaluator` of a `Problem`."""
    if not problem.traceable:
        return Evaluator(None, lambda x: problem.call_rows(problem.prior.theta_rows(x)))

    def one(x):
        logL, blobs = problem.call_one(problem.prior.theta(x))
        return jnp.asarray(logL, x.dtype), jnp.asarray(blobs, x.dtype)

    inside = jax.vmap(one)
    compiled = jax.jit(inside)

    def rows(x):
        logL, blobs = compiled(x)
        return np.asarray(logL, np.float64), np.asarray(blobs, np.float64)

    return Evaluator(inside, rows)


def evaluate_in_chunks(function, x, size):
    """Apply a function of rows (n, d) in chunks of one shape, the last one padded, so that it compiles once.

    Returns
    -------
    list of the outputs, each a tuple of arrays, without the padding.
    """
    out = []
    for i in range(0, len(x), size):
        rows = x[i : i + size]
        padded = np.concatenate([rows, np.repeat(rows[:1], size - len(rows), axis=0)])
        out.append(tuple(column[: len(rows)] for column in function(padded)))
    return out


def theta_of(problem, x, blobs):
    """Turn internal coordinates (n, d) and blobs (n, b) into the columns of a result."""
    theta = [rows for (rows,) in evaluate_in_chunks(lambda x: (problem.prior.theta_rows(x),), x, ROWS)]
    return np.concatenate([np.concatenate(theta), blobs], axis=1)


def describe(problem, x):
    """Write the parameters at one point x (d,) as 'm=1.2, c=0.3'."""
    theta = problem.prior.theta_rows(np.asarray(x)[None])[0]
    return ", ".join(f"{name}={value:.10g}" for name, value in zip(problem.prior.names, theta, strict=True))


def reject_invalid(problem, x, logL):
    """Raise a LikelihoodError that names the parameter values of the first NaN or +inf in logL (n,)."""
    invalid = np.isnan(logL) | (logL == np.inf)
    if invalid.any():
        i = int(np.argmax(invalid))
        raise LikelihoodError(
            f"The log-likelihood is {logL[i]} at {describe(problem, x[i])}; expected a finite number, or -inf where the likelihood is "
            "zero. Return -inf for impossible parameters, and look for a division by zero or a logarithm of a negative number there."
        )
