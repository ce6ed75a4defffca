"""Compiled functions: those without a likelihood are shared by all problems of a kind, the others by all runs of equal problems."""

import functools
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fusions.algorithms.nested.level import Nested
from fusions.algorithms.refine.chains import GRADIENT_CALLS
from fusions.algorithms.refine.draws import RefineFunctions, RefineSpace
from fusions.algorithms.refine.settings import BATCH, Refine
from fusions.flows.defensive import has_velocity
from fusions.kernels.base import Kernel
from fusions.kernels.hamiltonian import differentiable, make_trajectory
from fusions.kernels.walk import Steps, fused, hosted, steps_of
from fusions.model.bounded import with_edges
from fusions.model.likelihood import Evaluator, make_evaluator, reject_invalid
from fusions.model.problem import Problem
from fusions.parallel.sharding import ALONE, Layout
from fusions.types import Budget, Population, Walkers

SHAPES = 6  # kinds of problems whose programs are kept: those of one take about 5,000 memory maps, and Linux gives a process 65,530
PROBLEMS = 8  # of which the programs with their likelihood are kept


def clear_cache():
    """Give the memory of all compiled functions back, those that JAX keeps for other code too; what is on disk stays.

    A traced likelihood takes 40 MB for its programs, of which `PROBLEMS` are kept, and 4 MB in caches of JAX. Type this in loops over
    hundreds of models. A run that comes after finds its programs on disk.
    """
    for kept in (_kernel, _chains, _flow, _coordinates, _engine, _refine_functions):
        kept.cache_clear()
    jax.clear_caches()


class Counted:
    """Compiles functions in a `Layout`, and counts how often each is traced."""

    def __init__(self, layout: Layout):
        self.layout = layout
        self.traces: Counter = Counter()

    def __call__(self, name: str, function: Callable):
        """Return a function under jit, under a name."""

        def run(*args):
            self.traces[name] += 1
            return function(*args)

        run.__name__ = name
        return self.layout.compiled(run)


# Programs that know no likelihood: one for each kind of space, settings, layout and precision ---------------------------------


class KernelPrograms(NamedTuple):
    """What all problems of one space share of a kernel.

    Attributes
    ----------
    kernel : Kernel
    init_params, tune : its functions, compiled.
    steps : those of an ask-and-tell walk.
    blank_info : the report before any walk, all nan.
    counted : Counted
    """

    kernel: Kernel
    init_params: Callable
    tune: Callable
    steps: Steps
    blank_info: Any
    counted: Counted


@functools.lru_cache(maxsize=SHAPES)
def _kernel(settings, space, precision):
    del precision  # of JAX just now: another one needs other functions
    kernel, counted = settings.build(space), Counted(space.layout)
    return KernelPrograms(
        kernel, counted("init", kernel.init_params), counted("tune", kernel.tune), steps_of(kernel, counted),
        _blank_info(kernel, space), counted,
    )  # fmt: skip


@functools.lru_cache(maxsize=SHAPES)
def _chains(settings, space, precision):
    """Make the kernel of chains with its functions compiled, and their `Counted`."""
    del precision
    kernel, counted = settings.build(space), Counted(space.layout)
    names = ("init_params", "tune", "propose", "accept")
    return kernel._replace(**{name: counted(name, getattr(kernel, name)) for name in names}, init=counted("start", kernel.init)), counted


@functools.lru_cache(maxsize=SHAPES)
def _flow(settings, space, precision):
    """Make what the `RefineFunctions` take from a flow, the compiled prior density, and their `Counted`."""
    del precision
    counted = Counted(space.layout)
    return *_of_flow(settings.build(space), counted), jax.jit(space.logprior), counted


@functools.lru_cache(maxsize=SHAPES)
def _coordinates(space, bounded, precision):
    del precision
    return with_edges(space, bounded)


# What a run needs, for each problem -------------------------------------------------------------------------------------------


class Engine(NamedTuple):
    """What a run needs, compiled once.

    Attributes
    ----------
    evaluator : the problem's likelihood.
    init_params : (key, population) -> the kernel's params.
    tune : (key, population, params, info) -> params.
    walk : (key, params, walkers, threshold, charge) -> Walk.
    blank_info : the report before any walk, all nan.
    traces : () -> how often each function was traced so far, for whichever problem.
    layout : where they run.
    """

    evaluator: Evaluator
    init_params: Callable
    tune: Callable
    walk: Callable
    blank_info: Any
    traces: Callable
    layout: Layout

    def charging(self, budget: Budget):
        """Return the engine whose likelihood calls a `Budget` is charged with."""
        evaluator = self.evaluator._replace(charge=budget.charge)
        return self._replace(evaluator=evaluator, walk=lambda *args: self.walk(*args, budget.charge))


def make_engine(problem: Problem, settings: Nested, layout: Layout = ALONE):
    """Build the compiled functions of a `Problem` with the settings of an algorithm, once per `Layout`; problems of a form share them.

    Parameters
    ----------
    problem : Problem; settings : Nested; layout : Layout.
    """
    engine = _engine(problem.form(), problem.program(), settings.kernel, layout, jnp.result_type(float))
    if not problem.arrays:
        return engine
    arrays = layout.placed(problem.arrays)
    evaluator = engine.evaluator._replace(rows=functools.partial(engine.evaluator.rows, arrays=arrays))
    return engine._replace(evaluator=evaluator, walk=functools.partial(engine.walk, arrays=arrays))


@functools.lru_cache(maxsize=PROBLEMS)
def _engine(problem, program, kernel, layout, precision):
    del program  # that of the problem just now: what a function reads may have changed
    shared, own = _kernel(kernel, _space(problem, layout), precision), Counted(layout)
    evaluator = make_evaluator(problem, layout)
    if evaluator.inside is None:
        walk = hosted(shared.steps, evaluator.rows)
    else:
        walk = fused(shared.kernel, evaluator.inside, own)
    blank_info = layout.placed(shared.blank_info)
    return Engine(
        evaluator, shared.init_params, shared.tune, walk, blank_info, lambda: shared.counted.traces + own.traces, layout
    )  # fmt: skip


def _space(problem, layout):
    """Return the space of a problem; what is derived from its parameters is nothing to kernels and flows."""
    return problem.space()._replace(layout=layout, n_blobs=0)


def make_functions(problem: Problem, settings: Refine, layout: Layout = ALONE):
    """Build the compiled functions of a `Problem` with the settings of a refine phase, once per `Layout` and form of a problem.

    Parameters
    ----------
    problem : Problem; settings : Refine; layout : Layout.

    Returns
    -------
    RefineFunctions, whose target returns its likelihood calls too; () -> how often each function was traced so far, for whichever problem
    """
    functions, traces = _refine_functions(problem.form(), problem.program(), settings.kernel, settings.flow, layout, jnp.result_type(float))
    if problem.arrays:
        arrays = layout.placed(problem.arrays)
        target, trajectory = functools.partial(functions.target, arrays=arrays), functions.trajectory
        functions = functions._replace(target=target, trajectory=trajectory and functools.partial(trajectory, arrays=arrays))
    return functions, traces


def charging(functions: RefineFunctions, budget: Budget):
    """Return `RefineFunctions` whose likelihood calls a `Budget` is charged with, and whose target returns them no more."""

    def target(u):
        *values, n_calls = functions.target(u)
        budget.charge(n_calls)
        return tuple(values)

    def trajectory(key, u, widths, step, n_steps):
        budget.charge(GRADIENT_CALLS * len(u) * (n_steps + 1))
        return functions.trajectory(key, u, widths, step, n_steps)

    return functions._replace(target=target, trajectory=functions.trajectory and trajectory)


@functools.lru_cache(maxsize=PROBLEMS)
def _refine_functions(problem, program, kernel, flow, layout, precision):
    del program
    space, enter, leave, latent, bounds = _coordinates(_space(problem, layout), problem.prior.bounded, precision)
    evaluator, own = make_evaluator(problem, layout), Counted(layout)
    moves, of_moves = _chains(kernel, space, precision)
    init, fit, draw, roundtrip, logq, logprior, of_flow = _flow(flow, space, precision)

    def host(function):
        return lambda *args: np.asarray(function(*args), np.float64)

    logprior = host(logprior)

    def target(u, arrays=()):
        inside = logprior(u)
        wanted, x = np.isfinite(inside), leave(u)
        logL, blobs = np.full(len(x), -np.inf), np.zeros((len(x), problem.n_blobs))
        if evaluator.inside is not None:
            logL[:], blobs[:] = evaluator.rows(x, arrays)
        elif wanted.any():
            logL[wanted], blobs[wanted] = evaluator.rows(x[wanted])
        reject_invalid(problem, x[wanted], logL[wanted])
        return logL, blobs, inside, int(wanted.sum())

    trajectory = _trajectory(problem, space, latent, bounds, own)
    functions = RefineFunctions(
        RefineSpace(space.periodic, bounds, enter, leave), init, fit, flow.training.held_out, draw, host(roundtrip), host(logq), target,
        logprior, moves, trajectory,
    )  # fmt: skip
    return functions, lambda: of_moves.traces + of_flow.traces + own.traces


def _of_flow(flow, counted):
    """Compile what the `RefineFunctions` take from a flow, with and without a velocity: each when it is first needed."""
    both = (False, True)
    fits = [counted("refine", lambda key, state, x, on=on: flow.fit(key, state, x, with_velocity=on)[0]) for on in both]
    samples = [counted("draw", lambda key, state, on=on: flow.sample(key, state, BATCH, with_velocity=on)) for on in both]
    logqs = [counted("logq", functools.partial(flow.logq, with_velocity=on)) for on in both]
    solved = counted("roundtrip", lambda key, state: flow.roundtrip(key, state, BATCH))

    def fit(key, state, x, *, with_velocity):
        return fits[with_velocity](key, state, x)

    def draw(key, state):
        return np.asarray(samples[has_velocity(state)](key, state))

    def roundtrip(key, state):
        return solved(key, state) if has_velocity(state) else np.zeros(BATCH)

    def logq(state, x):
        return logqs[has_velocity(state)](state, x)

    return counted("init", flow.init), fit, draw, roundtrip, logq


def _trajectory(problem, space, latent, bounds, counted):
    """Make the function that moves chains along trajectories, on the host; None if the likelihood has no gradient."""
    inside = make_evaluator(problem).inside

    def likelihood(u, arrays):
        return inside(latent(u), arrays)[0]

    if inside is None or not differentiable(likelihood, space.dim, problem.arrays):
        return None
    compiled = counted("trajectory", make_trajectory(space, likelihood, bounds))

    def trajectory(key, u, widths, step, n_steps, arrays=()):
        u, *columns = compiled(key, u, widths.astype(u.dtype), u.dtype.type(step), np.int32(n_steps), arrays)
        return np.asarray(u), *(np.asarray(column, np.float64) for column in columns)

    return trajectory


def _blank_info(kernel, space):
    """Make a report of nan in the shapes of the kernel's own."""
    x = jnp.zeros((2, space.dim))
    walkers = Walkers(x, x[:, 0], jnp.zeros((2, 0)), jnp.ones(2, bool), jnp.ones(()))

    def report(key):
        params = kernel.init_params(key, Population(x, x[:, 0]))
        return kernel.finish(kernel.init(key, params, walkers))[1]

    shapes = space.layout.shapes(report, jax.random.key(0))
    return jax.tree.map(lambda leaf: np.full(leaf.shape, np.nan, leaf.dtype), shapes)
