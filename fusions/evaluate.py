"""Evaluate a problem's likelihood on batches of internal coordinates: traced (inside jit) or hosted (numpy)."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fusions.errors import LikelihoodError


class Evaluator(NamedTuple):
    """The likelihood as samplers see it.

    Attributes
    ----------
    inside : x (n, d) -> (logL (n,), blobs (n, b)) for use inside jit; None for a black box.
    rows : the same for numpy arrays on the host, float64.
    theta : x (n, d) -> parameter vectors (n, n_parameters), float64.
    """

    inside: Callable | None
    rows: Callable
    theta: Callable


def describe(names, theta):
    """Write one parameter vector as 'm=1.2, c=0.3'."""
    return ", ".join(f"{name}={value:.10g}" for name, value in zip(names, theta, strict=False))


def make_evaluator(problem):
    """Make the `Evaluator` of a `Problem`."""
    prior = problem.prior
    if prior.traceable:
        mapped = jax.jit(jax.vmap(prior.theta))

        def theta(x):
            return np.asarray(mapped(x), np.float64)
    else:

        def theta(x):
            return np.stack([np.asarray(prior.theta(row), np.float64) for row in np.asarray(x)])

    if not problem.traceable:
        return Evaluator(None, lambda x: problem.call_rows(theta(x)), theta)

    def one(x):
        logL, blobs = problem.call_one(prior.theta(x))
        return jnp.asarray(logL, x.dtype), jnp.asarray(blobs, x.dtype)

    inside = jax.vmap(one)
    compiled = jax.jit(inside)

    def rows(x):
        logL, blobs = compiled(x)
        return np.asarray(logL, np.float64), np.asarray(blobs, np.float64)

    return Evaluator(inside, rows, theta)


def reject_invalid(problem, evaluator, x, logL):
    """Raise a LikelihoodError that names the parameter values of the first NaN or +inf in logL (n,)."""
    invalid = np.isnan(logL) | (logL == np.inf)
    if invalid.any():
        i = int(np.argmax(invalid))
        where = describe(problem.prior.names, evaluator.theta(x[i : i + 1])[0])
        raise LikelihoodError(
            f"The log-likelihood is {logL[i]} at {where}; expected a finite number, or -inf where the likelihood is zero. "
            "Return -inf for impossible parameters, and look for a division by zero or a logarithm of a negative number there.")
