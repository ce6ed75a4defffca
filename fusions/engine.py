"""Compiled functions of one problem and algorithm, shared by all runs of the pair."""

import functools
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fusions.evaluate import Evaluator, make_evaluator
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

    def counted(name, function):
        def run(*args):
            traces[name] += 1
            return function(*args)

        return jax.jit(run)

    if evaluator.inside is None:
        walk = drive.hosted(kernel, evaluator.rows, counted)
    else:
        walk = drive.fused(kernel, evaluator.inside, counted)
    return Engine(evaluator, counted("init", kernel.init_params), counted("tune", kernel.tune), walk, _blank_info(kernel, space), traces)


def _blank_info(kernel, space):
    """Make a report of nan in the shapes of the kernel's own."""
    x = jnp.zeros((2, space.dim))
    walkers = Walkers(x, x[:, 0], jnp.zeros((2, space.n_blobs)), jnp.ones(2, bool), jnp.ones(()))

    def report(key):
        params = kernel.init_params(key, Population(x, x[:, 0]))
        return kernel.finish(kernel.init(key, params, walkers))[1]

    shapes = jax.eval_shape(report, jax.random.key(0))
    return jax.tree.map(lambda leaf: jnp.full(leaf.shape, jnp.nan, leaf.dtype), shapes)
