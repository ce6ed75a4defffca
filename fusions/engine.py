"""Compiled functions of one problem and algorithm, shared by all runs of the pair."""

import functools
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fusions.algorithms.refine import BATCH, Tools
from fusions.evaluate import Evaluator, make_evaluator, reject_invalid
from fusions.kernels import drive
from fusions.types import Population, Walkers


class Engine(NamedTuple):
    """What a run needs, compiled once.

    Attributes
    ----------
    evaluator : the problem's likelihood.
    init_params : (key, population) -> the kernel's params.
    tune : (key, population, params, info) -> params.
    walk : (key, params, walkers, threshold, spent) -> Walk.
    blank_info : the report before any walk, all nan.
    traces : how often each function was traced.
    """

    evaluator: Evaluator
    init_params: Callable
    tune: Callable
    walk: Callable
    blank_info: Any
    traces: Counter


@functools.lru_cache(maxsize=16)
def make_engine(problem, settings):
    """Build the compiled functions of a `Problem` with the settings of an algorithm."""
    space = problem.space()
    kernel = settings.kernel.build(space)
    evaluator = make_evaluator(problem)
    traces = Counter()
    counted = _counting(traces)
    if evaluator.inside is None:
        walk = drive.hosted(kernel, evaluator.rows, counted)
    else:
        walk = drive.fused(kernel, evaluator.inside, counted)
    return Engine(evaluator, counted("init", kernel.init_params), counted("tune", kernel.tune), walk, _blank_info(kernel, space), traces)


def _counting(traces):
    """Return jit for named functions whose tracings are counted."""

    def counted(name, function):
        def run(*args):
            traces[name] += 1
            return function(*args)

        return jax.jit(run)

    return counted


@functools.lru_cache(maxsize=16)
def make_tools(problem, settings):
    """Build the compiled functions of a `Problem` with the settings of a refine phase.

    Returns
    -------
    Tools, Counter of tracings
    """
    space, evaluator, traces = problem.space(), make_evaluator(problem), Counter()
    flow, counted = settings.flow.build(space), _counting(traces)

    def host(function):
        return lambda *args: np.asarray(function(*args), np.float64)

    draw = counted("draw", lambda key, state: flow.sample(key, state, BATCH))
    logq = counted("logq", flow.logq)
    logprior = host(jax.jit(space.logprior))
    fit = counted("refine", lambda key, state, x: flow.fit(key, state, x)[0])

    def target(x):
        inside = logprior(x)
        wanted = np.isfinite(inside)
        logL, blobs = np.full(len(x), -np.inf), np.zeros((len(x), space.n_blobs))
        if evaluator.inside is not None:
            logL[:], blobs[:] = evaluator.rows(x)
        elif wanted.any():
            logL[wanted], blobs[wanted] = evaluator.rows(x[wanted])
        reject_invalid(problem, x[wanted], logL[wanted])
        return logL, blobs, inside, int(wanted.sum())

    roundtrip = host(counted("roundtrip", lambda key, state: flow.roundtrip(key, state, BATCH)))
    return Tools(counted("init", flow.init), fit, lambda *args: np.asarray(draw(*args)), roundtrip, host(logq), target, logprior), traces


def _blank_info(kernel, space):
    """Make a report of nan in the shapes of the kernel's own."""
    x = jnp.zeros((2, space.dim))
    walkers = Walkers(x, x[:, 0], jnp.zeros((2, space.n_blobs)), jnp.ones(2, bool), jnp.ones(()))

    def report(key):
        params = kernel.init_params(key, Population(x, x[:, 0]))
        return kernel.finish(kernel.init(key, params, walkers))[1]

    shapes = jax.eval_shape(report, jax.random.key(0))
    return jax.tree.map(lambda leaf: jnp.full(leaf.shape, jnp.nan, leaf.dtype), shapes)
