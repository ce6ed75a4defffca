"""Evaluate a problem's likelihood on batches of internal coordinates: traced (inside jit) or hosted (numpy), here or by a pool."""

import contextlib
import dataclasses
import warnings
from collections.abc import Callable
from contextvars import ContextVar
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fusions.errors import LikelihoodError, advice_on
from fusions.model.calls import describe_theta
from fusions.numerics import in_chunks
from fusions.parallel.pool import check_pool, open_pool
from fusions.parallel.sharding import ALONE
from fusions.parallel.tasks import ATTEMPTS, PoolFailure, Task

AT_ONCE = 2048  # points of a result whose parameters are computed at once
UNUSED = (
    "pool= was not used: JAX compiles this likelihood into the sampler. Type Problem(..., traceable=False) if the workers shall call it."
)
_WORKERS: ContextVar = ContextVar("workers", default=(None, None, {}))  # problem and pool of the run, {id of a problem: is it that one}


class Evaluator(NamedTuple):
    """The likelihood as samplers see it.

    Attributes
    ----------
    inside : x (n, d), arrays of the data -> (logL (n,), blobs (n, b)) for use inside jit; None for a black box. Without
        arrays they are those of the problem.
    rows : the same for numpy arrays on the host, float64.
    charge : called with the number of calls that `batches` makes.
    """

    inside: Callable | None
    rows: Callable
    charge: Callable = lambda n_calls: None

    def batches(self, x, size):
        """Yield logL, blobs of points x (n, d): so many at once where JAX compiles the likelihood, all at once where it does not."""
        self.charge(len(x))
        yield from in_chunks(self.rows, x, size) if self.inside is not None else [self.rows(x)]


def make_evaluator(problem, layout=ALONE):
    """Make the `Evaluator` of a `Problem` in a `Layout`."""
    if not problem.traceable:
        most = layout.max_batch if problem.vectorized else None
        in_parts = _in_parts(lambda x: _call_rows(problem, _theta_rows(problem, x)), most)
        return Evaluator(None, lambda x, arrays=(): in_parts(x))

    def one(x, arrays):
        theta = problem.prior.theta(x)
        logL, blobs = problem.call_one(theta, arrays)
        return jnp.where(jnp.all(jnp.isfinite(theta)), logL, -jnp.inf).astype(x.dtype), jnp.asarray(blobs, x.dtype)

    def inside(x, arrays=()):
        return layout.rowwise(jax.vmap(lambda row: one(row, arrays)))(x)

    compiled = layout.compiled(inside)

    def rows(x, arrays=()):
        logL, blobs = compiled(x, arrays)
        return np.asarray(logL, np.float64), np.asarray(blobs, np.float64)

    return Evaluator(inside, rows)


def verified(problem):
    """Return the problem, as a black box if JAX computes another likelihood than the user's own function, as `problem.frozen` tells."""
    if not problem.traceable or not problem.frozen:
        return problem
    if problem.insisted:
        warnings.warn(f"{problem.frozen} It is compiled all the same, because of traceable=True.", stacklevel=3)
        return problem
    if not problem.noisy:
        warnings.warn(
            f"{problem.frozen} It is called as a black box: type Problem(..., traceable=False) to do without this message.", stacklevel=3
        )
    return dataclasses.replace(problem, traceable=False)


def _in_parts(function, most):
    """Give a function of rows (n, d) at most so many at once."""
    if most is None:
        return function

    def rows(x):
        parts = [function(x[i : i + most]) for i in range(0, len(x), most)]
        return tuple(np.concatenate(column) for column in zip(*parts, strict=True))

    return rows


@contextlib.contextmanager
def workers_of(problem, pool, timeout):
    """Let the evaluators of a problem call its likelihood in a pool.

    Parameters
    ----------
    problem : Problem
    pool : number of processes, Executor, Dask client or object with `map`; None to call here.
    timeout : seconds that a call may take, or None.

    Yields
    ------
    Function that returns what there is to say of the pool by then: {"pool": its report} or {}, and a list of notes.
    """
    check_pool(pool, timeout)
    opened = None
    if pool is not None and problem.traceable:
        warnings.warn(UNUSED, stacklevel=4)
    elif pool is not None:
        names = None if problem.array else problem.prior.names
        opened = open_pool(Task(problem.loglikelihood, names, problem.vectorized, problem.rest), pool, timeout)
    token = _WORKERS.set((problem, opened, {}))
    try:
        yield lambda: _pool_facts(opened, unused=pool is not None and opened is None)
    finally:
        _WORKERS.reset(token)
        if opened is not None:
            opened.close()


def _pool_facts(pool, *, unused):
    """Return the facts and notes of a pool for the result."""
    if pool is None:
        return {}, [UNUSED] * unused
    report = pool.report()
    words = (("died", "ended unexpectedly and was replaced"), ("timeout", "hung and was replaced"), ("raised", "raised an error"))
    counts = [f"{report[kind]} times a worker {text}" for kind, text in words if report[kind]]
    return {"pool": report}, [f"{'; '.join(counts)}. The calls were repeated."] if counts else []


def _theta_rows(problem, x):
    """Return the parameters (n, n_names) at x (n, d); a prior that fails on the way ends a run as a failing likelihood does."""
    try:
        return np.asarray(problem.prior.theta_rows(x), float)
    except Exception as error:  # whatever a user's function raises
        raise LikelihoodError(
            f"The prior failed at one of {len(x)} points: {type(error).__name__}: {error}. Its functions must return numbers at every draw "
            "from it."
        ) from error


def _call_rows(problem, theta):
    """Return log L (n,) and blobs (n, b) at theta (n, n_names); -inf without a call where a parameter is not finite."""
    finite = np.isfinite(theta).all(axis=1)
    logL, blobs = np.full(len(theta), -np.inf), np.zeros((len(theta), problem.n_blobs))
    logL[finite], blobs[finite] = _called(problem, theta[finite])
    return logL, blobs


def _called(problem, theta):
    """Return log L (n,) and blobs (n, b) at finite theta (n, n_names), from the pool if the run has one."""
    owner, pool, same = _WORKERS.get()
    if pool is None or len(theta) == 0 or not _is_same(owner, problem, same):
        return problem.call_rows(theta)
    parts = np.array_split(theta, min(pool.n_workers, len(theta))) if problem.vectorized else list(theta)
    try:
        returned = pool.map(parts, len(theta))
    except PoolFailure as failure:
        raise _explained(problem, [np.atleast_2d(parts[i]) for i in failure.rows], failure) from failure.__cause__
    return problem.read_rows(parts, returned)


def _is_same(owner, problem, known):
    """Tell whether two problems are equal, once: their data are compared by their values."""
    if id(problem) not in known:
        known[id(problem)] = owner == problem
    return known[id(problem)]


def _explained(problem, batches, failure):
    """Turn the failure of a pool into a LikelihoodError that names the parameter values."""
    where = "; ".join(describe_theta(problem.prior.names, theta[0]) for theta in batches) or "no point yet"
    if problem.vectorized and batches:
        where += f" (the first of a batch of {len(batches[0])} points)"
    texts = {
        "raised": f"Likelihood raised {failure} at {where}, and again when it was repeated. {advice_on(str(failure))}",
        "timeout": f"The likelihood took longer than timeout = {failure} at {where}. Raise timeout=, or mend the call that hangs there.",
        "died": f"The likelihood ended its worker process ({failure}) at {where}, {ATTEMPTS['died']} times. Likely causes: too little "
        "memory, or a crash in compiled code. Call the likelihood at these parameters alone, or type a smaller pool=.",
        "broken": f"The pool failed ({failure}) with the likelihood at {where}. A pool of yours can't be mended; pool=4 makes one that "
        "replaces workers that die.",
    }
    return LikelihoodError(texts[failure.kind])


def theta_of(problem, parts, blobs):
    """Turn internal coordinates, a list of (m, d), and blobs (n, b) of all of them into the columns of a result, without a joined copy.

    Parameters
    ----------
    problem : Problem
    parts : list of (m, d); blobs : (n, b).

    Returns
    -------
    theta (n, n_names + b).
    """
    n_names, n = len(problem.prior.names), 0
    theta = np.empty((len(blobs), n_names + blobs.shape[1]))
    theta[:, n_names:] = blobs
    for x in parts:
        for i in range(0, len(x), AT_ONCE):
            rows = problem.prior.theta_rows(x[i : i + AT_ONCE])
            theta[n : n + len(rows), :n_names] = rows
            n += len(rows)
    return theta


def describe(problem, x):
    """Write the parameters at one point x (d,) as 'm=1.2, c=0.3'."""
    return describe_theta(problem.prior.names, problem.prior.theta_rows(np.asarray(x)[None])[0])


def reject_undefined(problem, x):
    """Raise a LikelihoodError that names the first parameters that are not finite at draws x (n, d) from the prior.

    Far out in a tail a quantile function may overflow; what is not finite at a draw is an error in the prior.
    """
    for theta in _theta_rows(problem, x):
        if not np.isfinite(theta).all():
            raise LikelihoodError(
                f"The prior gave {describe_theta(problem.prior.names, theta)} at one of its draws; expected finite numbers. Look for "
                "a division by zero in its functions, or for numbers beyond those of double precision (1e308): choose other units."
            )


def reject_invalid(problem, x, logL):
    """Raise a LikelihoodError that names the parameter values of the first NaN or +inf in logL (n,).

    Parameters
    ----------
    problem : Problem
    x : (n, d); logL : (n,) [nats].
    """
    invalid = np.isnan(logL) | (logL == np.inf)
    if invalid.any():
        i = int(np.argmax(invalid))
        raise LikelihoodError(
            f"The log-likelihood is {logL[i]} at {describe(problem, x[i])}; expected a finite number, or -inf where the likelihood is "
            "zero. Return -inf for impossible parameters, and look for a division by zero or a logarithm of a negative number there."
        )
