"""A hot start: a changed problem whose prior is moved to where the posterior of an earlier run was.

The evidence of prior x likelihood does not change if a factor goes from the one to the other ("posterior repartitioning", Chen, Hobson,
Das & Gelderblom 2019, doi:10.1007/s11222-018-9841-3). A prior close to the posterior leaves a nested run few contours to climb.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fusions.driver.compiled import make_functions
from fusions.errors import OptionError
from fusions.flows.cnf import coordinates
from fusions.flows.gaussian_mixture import draw_mixture, fit_components, mixed, mixture_logprob, standard_components, widened
from fusions.flows.matching import whiten
from fusions.model.problem import Problem
from fusions.numerics import in_double
from fusions.parallel.tasks import RATIO, Shifted
from fusions.priors.blocks import Block
from fusions.priors.prior import Prior
from fusions.results.result import Result

BATCHES = 16  # of draws of the flows that the Gaussians are fitted to
COMPONENTS = 24
ITERATIONS = 20  # of expectation maximisation
WIDTHS = (1.0, 2.0)  # of the Gaussians, half of the draws each: the posterior may have moved by a part of its width
PRIOR_SHARE = 0.2  # of draws from the prior itself: nothing that it allows is lost


class Frame(NamedTuple):
    """Whitening: shift (d,) and lower triangular scale (d, d)."""

    shift: Any
    scale: Any


@in_double
def hot_start(problem: Problem, result: Result, *, key: int = 0):
    """Prepare a slightly changed problem to be run from where the posterior of an earlier run was.

    The prior that is returned is a mixture: a fifth of the problem's own, the rest Gaussians fitted to draws of the earlier run's flows,
    which takes no likelihood calls. What was taken from the prior goes to the likelihood, so that evidence and posterior stay those of
    `problem`, wherever the earlier posterior was; the closer it was, the fewer calls a run takes.

    Parameters
    ----------
    problem : the changed `Problem`, with as many parameters in the same order as the one of the result, and no constraint.
    result : Result of a run with a refine phase.
    key : seed of the draws that the Gaussians are fitted to.

    Returns
    -------
    Problem with one more parameter, "ln_prior_ratio", which is ln(prior / mixture) and is part of the new log L; the information D_KL of
    its run is relative to the mixture.
    """
    if not isinstance(problem, Problem):
        raise OptionError(f"Expected a fusions.Problem, got {type(problem).__name__}. Type fusions.hot_start(problem, result).")
    source = getattr(result, "source", None)
    if source is None:
        raise OptionError(
            "Expected the result of a run with a refine phase, got one without flows, or loaded from files. Run with refine=True, or type "
            "result = fusions.attach(result, old_problem) first."
        )
    prior, old = problem.prior, source.problem.prior
    if (prior.dim, prior.periodic) != (old.dim, old.periodic):
        raise OptionError(
            f"Expected a problem with as many parameters as that of the result, in the same order, got {prior!r} beside {old!r}. "
            "Start it with fusions.run(problem)."
        )
    if prior.constraint is not None:
        raise OptionError("Expected a prior without a constraint. Let the likelihood return -inf where it does not hold.")
    space = problem.space()
    near = _near(jax.random.key(key), source, space)
    period = np.where(prior.periodic, 2 * np.pi, np.inf)

    def log_prob(x):
        there = mixture_logprob(near, x[None], jnp.asarray(period, x.dtype), prior.periodic)[0]
        return jnp.logaddexp(np.log(PRIOR_SHARE) + prior.log_prob(x), np.log1p(-PRIOR_SHARE) + there)

    def log_ratio(x):
        return prior.log_prob(x) - log_prob(x)

    block = Block(
        (*prior.names, RATIO), prior.dim, partial(_theta, prior, log_ratio if prior.theta_traceable else jax.jit(log_ratio)), "hot_start",
        prior.periodic, prior.theta_traceable, partial(_draw, prior, space, near), log_prob, prior.traceable,
    )  # fmt: skip
    shifted: Any = Shifted(problem.loglikelihood, problem.array, bool(problem.blobs))
    return Problem(
        Prior(block), shifted, labels=problem.labels, blobs=problem.blobs,
        array=problem.array, vectorized=problem.vectorized, traceable=problem.traceable, noisy=problem.noisy, data=problem.data,
    )  # fmt: skip


def _near(key, source, space):
    """Fit Gaussians to draws of the flows, in internal coordinates."""
    functions, _ = make_functions(source.problem, source.settings)
    states = [state for state, _ in source.flows.members()]
    keys = jax.random.split(key, BATCHES + 1)
    u = np.concatenate([functions.draw(k, states[i % len(states)]) for i, k in enumerate(keys[1:])])
    x, inside = functions.space.leave(u), np.isfinite(functions.logprior(u)).astype(u.dtype)

    period_of, whitened = coordinates(space)

    def fitted(key, x, weights):
        frame = Frame(*whiten(x, weights, space.periodic))
        start = standard_components(COMPONENTS, space.dim, x.dtype)
        found = fit_components(key, whitened(frame, x), weights, start, period_of(frame), ITERATIONS)
        return found._replace(means=frame.shift + found.means @ frame.scale.T, factors=frame.scale @ found.factors)

    base = jax.jit(fitted)(keys[0], x, inside)
    return mixed(*((1 / len(WIDTHS), widened(base, width)) for width in WIDTHS))


def _theta(prior, log_ratio, x):
    """Return the parameters and ln(prior / mixture) at a point (d,)."""
    if not prior.theta_traceable:
        return np.append(prior.theta(x), float(log_ratio(x)))
    return jnp.append(prior.theta(x), log_ratio(x))


def _draw(prior, space, near, key, n):
    """Draw n points (n, d) of the mixture of the prior and of the Gaussians."""
    k_side, k_prior, k_near = jax.random.split(key, 3)
    x = space.wrap(draw_mixture(k_near, near, n))
    return jnp.where(jax.random.bernoulli(k_side, PRIOR_SHARE, (n, 1)), prior.sample(k_prior, n), x)
