"""run(): the only outer loop."""

import contextlib
import dataclasses
import difflib
import time
from importlib.metadata import PackageNotFoundError, version
from numbers import Integral, Real

import jax
import numpy as np

from fusions.again import Source, flow_arrays
from fusions.algorithms import nested
from fusions.algorithms import refine as refinement
from fusions.algorithms.refine import Refine
from fusions.begin import begin
from fusions.engine import make_engine, make_tools
from fusions.errors import LikelihoodError, OptionError, ProblemError, Status
from fusions.evaluate import reject_invalid, theta_of, workers_of
from fusions.kernels import Cycle, FlowKernel, HitAndRun
from fusions.ledger import Ledger
from fusions.problem import Problem
from fusions.progress import Bar, Snapshot
from fusions.result import Result

PACKAGES = ("fusions", "jax", "flax", "optax", "diffrax", "numpy")
OPTIONS = ("n_live", "kernel", "kill", "precision", "cost")
COSTS = {"cheap": 1e-2, "expensive": 1e-1}  # schedules and their precision
CALLS_PER_TRAINING = 500  # likelihood calls that the cheap schedule spends more than the expensive one, per training
IDLE = 0.5  # worth of a flow below which the summary says so
POINTS_PER_DIM = 50  # effective posterior points per dimension that a refine phase starts from


def default_kernel():
    """Make the default kernel: global and local flow moves, then slices that do not trust the flow."""
    return Cycle((FlowKernel(), HitAndRun()))


def nested_sampling(n_live=500, *, kernel=None, kill=0.1, precision=None, cost=None, **unknown):
    """Set up nested sampling with flow-matched replacements.

    Parameters
    ----------
    n_live : live points; the error of ln Z is about sqrt(D_KL / n_live).
    kernel : settings of the kernel, for example `kernels.FlowKernel(n_moves=8)`; None for the default cycle.
    kill : share of the live points replaced between two trainings.
    precision : stop when the live points' volume, at their highest likelihood, holds less than this share of the evidence; None for 0.01
        if likelihood calls are cheap, 0.1 if they are expensive.
    cost : "cheap" for long walks, whose volumes alone make a calibrated ln Z; "expensive" for the fewest likelihood calls, which leaves
        accuracy to the refine phase; None for cheap where the likelihood is traced by JAX, expensive where it is a black box. "auto"
        compares the time of a training with that of likelihood calls; equal seeds may then give different runs.

    Returns
    -------
    Settings for `run`.
    """
    if unknown:
        name = next(iter(unknown))
        close = difflib.get_close_matches(name.replace("nlive", "n_live"), OPTIONS, 1)
        raise OptionError(
            f"Unknown option {name!r} of nested. " + (f"Did you mean {close[0]}?" if close else f"Options: {', '.join(OPTIONS)}.")
        )
    n_live = _checked_number(n_live, Integral, lambda v: v >= 20, "n_live to be an integer >= 20", "n_live=500")
    kill = _checked_number(kill, Real, lambda v: 0 < v <= 0.5, "0 < kill <= 0.5, the share of live points replaced per level", "kill=0.1")
    if precision is not None:
        precision = _checked_number(precision, Real, lambda v: 0 < v < 1, "0 < precision < 1, a share of the evidence", "precision=1e-2")
    if cost is not None and cost not in (*COSTS, "auto"):
        raise OptionError(f'Expected cost to be "cheap", "expensive", "auto" or None, got {cost!r}. Type cost="cheap".')
    if kernel is not None and (isinstance(kernel, type) or not hasattr(kernel, "build")):
        raise OptionError(f"Expected kernel settings such as kernels.FlowKernel() or kernels.Cycle((...)), got {kernel!r}.")
    return nested.Nested(n_live + n_live % 2, kernel or default_kernel(), float(kill), precision, cost)


def _checked_number(value, kind, accept, wanted, example):
    """Return a number of the right kind and range, or raise an error that says what to type."""
    if isinstance(value, bool) or not isinstance(value, kind) or not accept(value):
        raise OptionError(f"Expected {wanted}, got {value!r}. Type {example}.")
    return int(value) if kind is Integral else float(value)


def run(
    problem, algorithm=None, *, key=0, refine=True, max_calls=None, max_time=None, callback=None, progress=True, pool=None, timeout=None
):
    """Compute evidence and posterior of a problem.

    Parameters
    ----------
    problem : Problem
    algorithm : settings from `nested(...)`; None for its defaults.
    key : seed; the same seed gives the same result, bit for bit on one machine.
    refine : whether to refine ln Z after a converged nested run by flows fitted to the posterior; or settings, `Refine(error=0.01)`.
        It spends at most as many likelihood calls as the nested run did, or 20,480 if those were fewer.
    max_calls : stop after this many likelihood evaluations.
    max_time : stop after this many seconds.
    callback : function of a `Snapshot`, called after each level; a true return value ends the run.
    progress : whether to show a progress bar.
    pool : who calls a black-box likelihood in parallel: a number of processes, a `concurrent.futures.Executor`, an
        `mpi4py.futures.MPIPoolExecutor`, a Dask client, or any object with `map`. The samples do not depend on it.
    timeout : seconds after which a likelihood call in a pool counts as hanging.

    Returns
    -------
    Result; also after Ctrl-C or a limit, with a status that says so.

    Raises
    ------
    LikelihoodError
        If the likelihood fails; `error.result` holds what was computed before, or None.
    """
    algorithm = nested_sampling() if algorithm is None else algorithm
    refine = Refine() if refine is True else refine
    _check_arguments(problem, algorithm, refine, max_calls, max_time, callback)
    wanted, automatic = algorithm, algorithm.cost == "auto"
    algorithm, enough = _settled(wanted, problem, refine)
    key = _checked_number(key, Integral, lambda v: 0 <= v < 2**63, "key to be a non-negative integer seed below 2^63", "key=0")
    engine, ledger, state = make_engine(problem, algorithm), Ledger(), None
    n_traced, notes = sum(engine.traces.values()), []
    refined = None
    k_begin, k_loop, k_refine = jax.random.split(jax.random.key(key), 3)
    stack = contextlib.ExitStack()
    workers = stack.enter_context(workers_of(problem, pool, timeout))
    try:
        state, rate, notes = begin(k_begin, problem, algorithm, engine, ledger)
        if automatic:
            cost, note = _timed_cost(k_begin, engine, state, rate)
            algorithm, enough = _settled(dataclasses.replace(wanted, cost=cost), problem, refine)
            notes = [*notes, note]
        with Bar(shown=progress) as bar:
            bar.note(f"fusions: {problem.prior.dim} dimensions, {_path(problem)} likelihood, n_live = {algorithm.n_live}")
            rng, iteration = np.random.default_rng([key, 1]), 0
            while (status := _stop(state, algorithm, ledger, max_calls, max_time, enough)) is None:
                state = _level(jax.random.fold_in(k_loop, iteration), rng, problem, state, algorithm, engine, ledger, rate)
                iteration += 1
                snapshot = _snapshot(iteration, state, ledger)
                bar.update(snapshot)
                if callback is not None and callback(snapshot):
                    status = Status.USER_RULE
                    break
            if status is Status.CONVERGED and refine:
                bar.note(f"fusions: nested sampling has converged after {ledger.n_calls:,} calls; refining")
                refined = _refine(k_refine, rng, problem, refine, state, ledger, max_calls, max_time)
    except KeyboardInterrupt:
        if state is None:
            raise
        converged = _stop(state, algorithm, ledger, None, None, enough) is Status.CONVERGED
        notes += ["The refine phase was interrupted; ln Z is that of the nested run."] * converged
        status = Status.CONVERGED if converged else Status.INTERRUPTED
    except LikelihoodError as error:
        if state is not None:
            error.result = _result(problem, algorithm, engine, ledger, state, Status.FAILED, key, notes, n_traced, workers)
        raise
    finally:
        stack.close()
    return _result(problem, algorithm, engine, ledger, state, status, key, notes, n_traced, workers, refined)


def _settled(algorithm, problem, refine):
    """Fill in what depends on the problem: the schedule follows the path alone, so that equal seeds give equal runs.

    Returns
    -------
    algorithm, effective posterior points at which the nested run may stop: the refine phase does the rest if calls are expensive.
    """
    cost = algorithm.cost if algorithm.cost in COSTS else "cheap" if problem.traceable else "expensive"
    early = refine and cost == "expensive" and algorithm.precision is None
    enough = POINTS_PER_DIM * problem.prior.dim if early else np.inf
    return dataclasses.replace(algorithm, cost=cost, precision=algorithm.precision or COSTS[cost]), enough


def _timed_cost(key, engine, state, rate):
    """Time one training and compare it with the likelihood calls that the cheap schedule spends more per training.

    Returns
    -------
    "cheap" or "expensive", a sentence for the summary.
    """
    population = nested.population(state.x, np.ones(len(state.x), bool), state.pool_x, state.pool_logL, np.inf, 1)
    for _ in range(2):
        start = time.perf_counter()
        jax.block_until_ready(engine.tune(key, population, state.params[0], state.info[0]))
        training = time.perf_counter() - start
    calls = CALLS_PER_TRAINING * rate
    cost = "cheap" if calls < training else "expensive"
    return cost, f'cost="auto" chose "{cost}": {CALLS_PER_TRAINING} likelihood calls take {calls:.2g} s, a training {training:.2g} s.'


def _refine(key, rng, problem, settings, state, ledger, max_calls, max_time):
    """Refine a converged run; returns the result's fields, or None if no calls are left for it."""
    start, before, n_nested = time.perf_counter(), dict(ledger.seconds), ledger.n_calls
    tools, traces = make_tools(problem, settings)
    n_traced = sum(traces.values())

    def spent(n_calls):
        ledger.n_calls += n_calls

    def expired():
        return max_time is not None and ledger.elapsed() >= max_time

    budget = max(n_nested, refinement.LEAST_BUDGET)
    budget = budget if max_calls is None else min(budget, int(max_calls) - n_nested)
    found = None if expired() else refinement.refine(key, rng, settings, tools, ledger.points(state), budget, spent, expired)
    ledger.seconds = {**before, "refine": time.perf_counter() - start}
    if found is None:
        return None
    theta = theta_of(problem, found.draws.x, found.draws.blobs)
    summary = {
        "importance": (found.importance.logZ, found.importance.logZ_err), "bridge": found.bridge, "coverage": found.coverage,
        "ess": found.importance.ess, "khat": found.importance.khat, "n_draws": len(found.draws.x), "n_calls": ledger.n_calls - n_nested,
        "ode_error": found.ode_error, "rounds": found.rounds.tolist(), "settings": repr(settings),
    }  # fmt: skip
    again = {"flows": flow_arrays(found.flows), "source": Source(problem, settings, found.flows)}
    return {"refined": summary, "draws": theta, "draws_logw": found.draws.logw, **again}, sum(traces.values()) - n_traced


def _check_arguments(problem, algorithm, refine, max_calls, max_time, callback):
    """Raise an error that says what to type instead."""
    if not isinstance(problem, Problem):
        raise ProblemError(f"Expected a fusions.Problem, got {type(problem).__name__}. Type run(Problem(prior, loglikelihood)).")
    if not isinstance(algorithm, nested.Nested):
        raise OptionError(f"Expected fusions.nested(...), got {algorithm!r}. Type run(problem, fusions.nested(n_live=500)).")
    if refine is not False and not isinstance(refine, Refine):
        raise OptionError(f"Expected refine to be True, False or fusions.Refine(...), got {refine!r}. Type refine=True.")
    for name, least in (("error", 0), ("max_rounds", 1), ("max_draws", 1)) if refine else ():
        value = getattr(refine, name)
        if not value > 0 or value < least:
            raise OptionError(f"Expected {name} of Refine to be {f'>= {least}' if least else '> 0'}, got {value!r}. Type fusions.Refine().")
    dim = problem.prior.dim
    if algorithm.n_live < 2 * dim:
        raise OptionError(
            f"n_live = {algorithm.n_live} is too few for {dim} dimensions: expected at least {2 * dim}. Type n_live={max(500, 25 * dim)}."
        )
    for name, value in (("max_calls", max_calls), ("max_time", max_time)):
        if value is not None:
            _checked_number(value, Real, lambda v: v > 0, f"{name} > 0 or None", f"{name}=None")
    if callback is not None and not callable(callback):
        raise OptionError(f"Expected callback to be a function of a Snapshot, got {callback!r}.")


def _path(problem):
    return "traced" if problem.traceable else "hosted"


def _stop(state, algorithm, ledger, max_calls, max_time, enough):
    """Return the status with which to stop now, or None; `enough` effective posterior points are all that is wanted."""
    if state.logL.min() == state.logL.max():
        return Status.PLATEAU
    if state.running.remaining(state.logL) < np.log(algorithm.precision) or state.running.effective(state.logL) >= enough:
        return Status.CONVERGED
    if max_calls is not None and ledger.n_calls >= max_calls:
        return Status.MAX_CALLS
    if max_time is not None and ledger.elapsed() >= max_time:
        return Status.MAX_TIME
    return None


def _level(key, rng, problem, state, algorithm, engine, ledger, rate):
    """Do one level; enter its dead points, ranks, cost and history into the ledger, all together at its end.

    `rate` is the time per likelihood row [s], from which the likelihood's share of a compiled walk is estimated.
    """
    clock, training = time.perf_counter(), []

    def tune(*args):
        start = time.perf_counter()
        params = jax.block_until_ready(engine.tune(*args))
        training.append(time.perf_counter() - start)
        return params

    def walk(*args):
        out = engine.walk(*args, spent)
        if out.invalid is not None:
            reject_invalid(problem, *out.invalid)
        return out

    def spent(n_calls):
        ledger.n_calls += n_calls

    before = ledger.n_calls
    state, level = nested.step(key, rng, state, algorithm, tune, walk)
    moving = time.perf_counter() - clock - sum(training)
    likelihood = min(moving, sum(rate * w.n_rows if np.isnan(w.seconds) else w.seconds for w in level.walks))
    for name, seconds in (("training", sum(training)), ("likelihood", likelihood), ("ode", moving - likelihood)):
        ledger.seconds[name] += seconds
    n_calls = ledger.n_calls - before
    ledger.bury(level.dead_x, level.dead_logL, level.dead_birth, level.dead_blobs, level.dead_slot)
    ledger.uniforms.append(level.uniforms)
    n_dead = len(level.dead_logL)
    ledger.remember(
        logL=level.threshold, logX=state.running.logX, n_calls=ledger.n_calls, efficiency=n_dead / max(n_calls, 1),
        unmoved=level.n_unmoved / n_dead, memory=state.memory, effort=state.effort, **_kernel_report(state.info),
    )  # fmt: skip
    return state


def _kernel_report(info):
    """Average acceptance, held-out loss, scale and worth of the first kernel that reports them."""
    reports = jax.tree.leaves(info, is_leaf=lambda leaf: hasattr(leaf, "accepted"))
    first = reports[:: max(len(reports) // 2, 1)]
    return {
        name: float(np.mean([getattr(r, field) for r in first]))
        for name, field in (("acceptance", "accepted"), ("loss", "loss"), ("scale", "scale"), ("worth", "worth"))
    }


def _snapshot(iteration, state, ledger):
    """Sum up the run so far."""
    efficiency, logL = ledger.trace["efficiency"][-1], ledger.trace["logL"][-1]
    running = state.running
    return Snapshot(
        iteration, logL, running.logX, running.logZ, running.remaining(state.logL), ledger.n_calls, efficiency, ledger.elapsed()
    )


def _result(problem, algorithm, engine, ledger, state, status, key, notes, n_traced, workers, refined=None):
    """Assemble the Result from the ledger and the live points."""
    x, logL, logL_birth, blobs, uniforms = ledger.joined(state)
    idle, n_levels = int(np.sum(np.array(ledger.trace["worth"]) < IDLE)), len(ledger.trace["worth"])
    if idle:
        notes = [*notes, f"The flow had learned nothing at {idle} of {n_levels} levels; walks leaned on slices there and took more calls."]
    fields, n_compiled = refined or ({}, 0)
    pool, pool_notes = workers()
    info = {
        "seed": key, "path": _path(problem), "fingerprint": problem.fingerprint(), "warnings": [*notes, *pool_notes],
        "settings": repr(algorithm), "versions": {name: _version(name) for name in PACKAGES}, **pool,
    }  # fmt: skip
    return Result(
        names=problem.names,
        n_params=len(problem.prior.names),
        labels=dict(problem.labels),
        theta=theta_of(problem, x, blobs),
        logL=logL,
        logL_birth=logL_birth,
        n_live=len(state.logL),
        status=status,
        insertion_uniforms=uniforms,
        level_trace=ledger.trace,
        n_calls=ledger.n_calls,
        seconds=ledger.clocks(),
        n_compilations=sum(engine.traces.values()) - n_traced + n_compiled,
        constraint_logmass=problem.prior.log_mass(jax.random.key(key)),
        info=info,
        **fields,
    )


def _version(name):
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"
