"""Compiled functions of one problem and algorithm, shared by all runs of the pair."""

import functools
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fusions.algorithms.refine import BATCH, Tools
from fusions.edges import with_edges
from fusions.evaluate import Evaluator, make_evaluator, reject_invalid
from fusions.flows.density import is_bent
from fusions.kernels import drive
from fusions.kernels.hamiltonian import differentiable, make_trajectory
from fusions.layout import ALONE, Layout
from fusions.types import Population, Walkers

KEPT = 4  # pairs of which compiled functions are kept: those of one take about 5,000 memory maps, and Linux gives a process 65,530


def forget():
    """Drop all compiled functions."""
    _engine.cache_clear()
    _tools.cache_clear()


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
    layout : where they run.
    """

    evaluator: Evaluator
    init_params: Callable
    tune: Callable
    walk: Callable
    blank_info: Any
    traces: Counter
    layout: Layout


def make_engine(problem, settings, layout=ALONE):
    """Build the compiled functions of a `Problem` with the settings of an algorithm, once per `Layout`."""
    return _engine(problem, settings, layout, jnp.result_type(float))


@functools.lru_cache(maxsize=KEPT)
def _engine(problem, settings, layout, precision):
    del precision  # of the user's x64 flag: another one needs other functions
    space = problem.space()._replace(layout=layout)
    kernel = settings.kernel.build(space)
    evaluator = make_evaluator(problem, layout)
    traces = Counter()
    counted = _counting(traces, layout)
    if evaluator.inside is None:
        walk = drive.hosted(kernel, evaluator.rows, counted)
    else:
        walk = drive.fused(kernel, evaluator.inside, counted)
    init_params, tune = counted("init", kernel.init_params), counted("tune", kernel.tune)
    return Engine(evaluator, init_params, tune, walk, _blank_info(kernel, space), traces, layout)


def _counting(traces, layout):
    """Return `Layout.compiled` for named functions whose tracings are counted."""

    def counted(name, function):
        def run(*args):
            traces[name] += 1
            return function(*args)

        run.__name__ = name
        return layout.compiled(run)

    return counted


def make_tools(problem, settings, layout=ALONE):
    """Build the compiled functions of a `Problem` with the settings of a refine phase, once per `Layout`.

    Returns
    -------
    Tools, Counter of tracings
    """
    return _tools(problem, settings, layout, jnp.result_type(float))


@functools.lru_cache(maxsize=KEPT)
def _tools(problem, settings, layout, precision):
    del precision
    space, enter, leave, latent, bounds = with_edges(problem.space()._replace(layout=layout), problem.prior.bounded)
    evaluator, traces = make_evaluator(problem, layout), Counter()
    kernel, counted = settings.kernel.build(space), _counting(traces, layout)

    def host(function):
        return lambda *args: np.asarray(function(*args), np.float64)

    logprior = host(jax.jit(space.logprior))

    def target(y):
        inside = logprior(y)
        wanted, x = np.isfinite(inside), leave(y)
        logL, blobs = np.full(len(x), -np.inf), np.zeros((len(x), space.n_blobs))
        if evaluator.inside is not None:
            logL[:], blobs[:] = evaluator.rows(x)
        elif wanted.any():
            logL[wanted], blobs[wanted] = evaluator.rows(x[wanted])
        reject_invalid(problem, x[wanted], logL[wanted])
        return logL, blobs, inside, int(wanted.sum())

    moves = kernel._replace(
        **{name: counted(name, getattr(kernel, name)) for name in ("init_params", "tune", "propose", "accept")},
        init=counted("start", kernel.init),
    )
    trajectory = _trajectory(problem, space, latent, bounds, counted)
    init, fit, draw, roundtrip, logq = _of_flow(settings.flow.build(space), counted)
    return Tools(
        init, fit, draw, host(roundtrip), host(logq), target, logprior, moves, trajectory, space.periodic, bounds, enter, leave
    ), traces


def _of_flow(flow, counted):
    """Compile what the `Tools` take from a flow, with and without a velocity: each when it is first needed."""
    both = (False, True)
    fits = [counted("refine", lambda key, state, x, bend=bend: flow.fit(key, state, x, bend=bend)[0]) for bend in both]
    samples = [counted("draw", lambda key, state, bent=bent: flow.sample(key, state, BATCH, bent=bent)) for bent in both]
    logqs = [counted("logq", functools.partial(flow.logq, bent=bent)) for bent in both]
    solved = counted("roundtrip", lambda key, state: flow.roundtrip(key, state, BATCH))

    def fit(key, state, x, *, bend):
        return fits[bend](key, state, x)

    def draw(key, state):
        return np.asarray(samples[is_bent(state)](key, state))

    def roundtrip(key, state):
        return solved(key, state) if is_bent(state) else np.zeros(BATCH)

    def logq(state, x):
        return logqs[is_bent(state)](state, x)

    return counted("init", flow.init), fit, draw, roundtrip, logq


def _trajectory(problem, space, latent, bounds, counted):
    """Make the function that moves chains along trajectories, on the host; None if the likelihood has no gradient."""
    inside = make_evaluator(problem).inside

    def likelihood(y):
        return inside(latent(y))[0]

    if inside is None or not differentiable(likelihood, space.dim):
        return None
    compiled = counted("trajectory", make_trajectory(space, likelihood, bounds))

    def trajectory(key, y, widths, step, n_steps):
        y, *columns = compiled(key, y, widths.astype(y.dtype), y.dtype.type(step), np.int32(n_steps))
        return np.asarray(y), *(np.asarray(column, np.float64) for column in columns)

    return trajectory


def _blank_info(kernel, space):
    """Make a report of nan in the shapes of the kernel's own."""
    x = jnp.zeros((2, space.dim))
    walkers = Walkers(x, x[:, 0], jnp.zeros((2, space.n_blobs)), jnp.ones(2, bool), jnp.ones(()))

    def report(key):
        params = kernel.init_params(key, Population(x, x[:, 0]))
        return kernel.finish(kernel.init(key, params, walkers))[1]

    shapes = space.layout.shapes(report, jax.random.key(0))
    return space.layout.placed(jax.tree.map(lambda leaf: np.full(leaf.shape, np.nan, leaf.dtype), shapes))
