"""run(): the only outer loop, and the settings of its algorithm."""

import contextlib
import difflib
import math
import os
import time
from collections.abc import Callable
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np

from fusions import __version__
from fusions.algorithms.nested import level as nested
from fusions.algorithms.nested.schedule import SCHEDULES
from fusions.algorithms.refine.settings import Refine
from fusions.driver.programs import keep_programs, use_cache
from fusions.driver.progress import Bar, Snapshot
from fusions.driver.session import Session, Site
from fusions.driver.signals import Signals, StopSignal, exit_code
from fusions.driver.snapshot import path_of
from fusions.errors import LikelihoodError, OptionError, PrecisionError, ProblemError, Status
from fusions.io.checkpoint import Checkpoint, NullCheckpoint
from fusions.kernels import Cycle, FlowKernel, HitAndRun, Jump
from fusions.kernels.base import is_settings
from fusions.model.likelihood import verified, workers_of
from fusions.model.problem import Problem
from fusions.numerics import PRECISIONS, precision_of
from fusions.parallel.devices import ProcessGroup, choose_layout
from fusions.results.result import Result
from fusions.types import Budget

OPTIONS = ("n_live", "kernel", "kill", "precision", "cost")


def default_kernel() -> Cycle:
    """Make the default kernel: global and local flow moves, a jump between modes, then slices that do not trust the flow."""
    return Cycle((FlowKernel(), Jump(), HitAndRun()))


def nested_sampling(
    n_live: int = 500,
    *,
    kernel: Any = None,
    kill: float | None = None,
    precision: float | None = None,
    cost: str | None = None,
    **unknown: Any,
) -> nested.Nested:
    """Set up nested sampling with flow-matched replacements.

    Parameters
    ----------
    n_live : live points; the error of ln Z is about sqrt(D_KL / n_live).
    kernel : settings of the kernel, for example `kernels.FlowKernel(n_moves=8)`; None for the default cycle.
    kill : share of the live points replaced between two trainings; None for 0.3 if likelihood calls are cheap, 0.1 if they are expensive.
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
    if kill is not None:
        kill = _checked_number(kill, Real, lambda v: 0 < v <= 0.5, "0 < kill <= 0.5, a share of the live points per level", "kill=0.1")
    if precision is not None:
        precision = _checked_number(precision, Real, lambda v: 0 < v < 1, "0 < precision < 1, a share of the evidence", "precision=1e-2")
    if cost is not None and cost not in (*SCHEDULES, "auto"):
        raise OptionError(f'Expected cost to be "cheap", "expensive", "auto" or None, got {cost!r}. Type cost="cheap".')
    if kernel is not None and not is_settings(kernel):
        raise OptionError(f"Expected kernel settings such as kernels.FlowKernel() or kernels.Cycle((...)), got {kernel!r}.")
    return nested.Nested(n_live + n_live % 2, kernel or default_kernel(), kill and float(kill), precision, cost)


def _checked_number(value, kind, accept, wanted, example):
    """Return a number of the right kind and range, or raise an error that says what to type."""
    if isinstance(value, bool) or not isinstance(value, kind) or not accept(value):
        raise OptionError(f"Expected {wanted}, got {value!r}. Type {example}.")
    return int(value) if kind is Integral else float(value)


def run(
    problem: Problem, algorithm: nested.Nested | None = None, *, key: int = 0, refine: bool | Refine = True,
    max_calls: float | None = None, max_time: float | None = None, callback: Callable[[Snapshot], Any] | None = None,
    progress: bool = True, checkpoint: str | Path | None = None, resume: bool = True, checkpoint_every: float = 60.0,
    pool: Any = None, timeout: float | None = None, devices: Any = None, max_batch: int | None = None, precision: str = "double",
) -> Result:  # fmt: skip
    """Compute evidence and posterior of a problem.

    Parameters
    ----------
    problem : Problem
    algorithm : settings from `nested(...)`; None for its defaults.
    key : seed; the same seed gives the same result, bit for bit on one machine.
    refine : whether to refine ln Z after a converged nested run by flows fitted to the posterior; or settings, `Refine(error=0.01)`.
        It aims at as many likelihood calls as the nested run took, or 20,480 if those were fewer; chains that have not converged may
        take twice that number where calls are expensive, five times where they are cheap.
    max_calls : stop after this many likelihood evaluations.
    max_time : stop this many seconds after this call.
    callback : function of a `Snapshot`, called after each level; a true return value ends the run.
    progress : whether to show a progress bar.
    checkpoint : folder to save the run in. The same call then resumes the run, or returns its result if it has ended; a run that was
        stopped by a limit or a signal goes on with the limits of this call.
    resume : False to start afresh; what the folder holds is removed when the new live points are drawn.
    checkpoint_every : seconds between saves; 0 saves after each level.
    pool : who calls a black-box likelihood in parallel: a number of processes, a `concurrent.futures.Executor`, an
        `mpi4py.futures.MPIPoolExecutor`, a Dask client, or any object with `map`. The samples do not depend on it.
    timeout : seconds after which a likelihood call in a pool counts as hanging.
    devices : who computes a likelihood that JAX traces, and the flows: a number of `jax.devices()`, or a list or array of devices, also
        of several processes of `jax.distributed`; None for JAX's default device. Live points need not be a multiple of it.
    max_batch : most rows that a device computes at once, against running out of memory; None for whole batches. A row of an exact
        divergence counts d times.
    precision : "double", whatever JAX's x64 flag says, which stays as it is; or "single" for accelerators that are slow otherwise: a
        black box still gets doubles, but parameters have seven digits, and the run warns where these do not resolve the posterior.

    Returns
    -------
    Result; also after Ctrl-C, SIGTERM, SIGUSR1 or a limit, with a status that says so. If the refine phase fails, that of the nested run,
    with a warning.

    Raises
    ------
    LikelihoodError
        If the likelihood fails in the nested run; `error.result` holds what was computed before, or None.
    PrecisionError
        If floating-point numbers do not tell the live points apart; `error.result` as above.
    CheckpointError
        If the folder is in use, damaged, or holds another run.
    """
    algorithm = nested_sampling() if algorithm is None else algorithm
    refine = Refine() if refine is True else refine
    _check_arguments(problem, algorithm, refine, max_calls, max_time, callback)
    _check_checkpoint(checkpoint, resume, checkpoint_every)
    if precision not in PRECISIONS:
        raise OptionError(f'Expected precision of run to be "double" or "single", got {precision!r}. Type precision="double".')
    key = _checked_number(key, Integral, lambda v: 0 <= v < 2**63, "key to be a non-negative integer seed below 2^63", "key=0")
    deadline = np.inf if max_time is None else time.perf_counter() + max_time
    budget = Budget(int(max_calls) if max_calls is not None and math.isfinite(max_calls) else np.inf, deadline)
    keep_programs(__version__)
    with contextlib.ExitStack() as stack:
        stack.enter_context(precision_of(precision))
        problem = verified(problem)
        layout = choose_layout(problem, devices, max_batch)
        team = ProcessGroup(layout)
        folder = None if checkpoint is None else _folder(checkpoint, team, stack)
        workers = stack.enter_context(workers_of(problem, pool, timeout))
        signals, bar = stack.enter_context(Signals(patient=team.size > 1)), stack.enter_context(Bar(shown=progress and team.is_first))
        session = Session(problem, algorithm, refine, key, Site(layout, team, signals, workers, folder, checkpoint_every), budget)
        try:
            if not (resume and folder is not None and session.resume()):
                session.begin()
        except StopSignal:  # nothing to return yet
            if signals.received == "SIGINT":
                raise KeyboardInterrupt from None
            raise SystemExit(exit_code(signals.received)) from None
        return _advance(session, callback, bar)


def cache_programs(directory: str | Path | None) -> None:
    """Keep compiled programs in a folder from now on, for this process, in the place of the one that is usual.

    The usual one is the platform's folder for caches, or `FUSIONS_CACHE` in the environment ("off" for none); a cache that JAX has been
    configured with stays. Programs that were not needed lately are removed when a folder has grown to 2 GB.

    Parameters
    ----------
    directory : path; None to keep none.
    """
    use_cache(directory, __version__)


def _folder(directory, team, stack):
    """Take hold of a folder in the first process, until the stack is left."""
    held = []
    team.first(lambda: held.append(stack.enter_context(Checkpoint(directory))))
    return held[0] if team.is_first else NullCheckpoint(directory)


def _advance(session, callback, bar):
    """Do levels, then the refine phase, until the run ends in one of its ways."""
    n_live, dim, path = session.algorithm.n_live, session.problem.prior.dim, path_of(session.problem)
    bar.note(f"fusions: {dim} dimensions, {path} likelihood, n_live = {n_live}")
    if session.state.iteration:
        bar.note(f"fusions: resumed after {session.state.iteration:,} levels and {session.state.n_calls:,} calls")
    try:
        session.watch()
        while (status := session.stop()) is None:
            snapshot = session.level()
            bar.update(snapshot)
            session.watch()
            if callback is not None and session.site.team.highest(int(bool(callback(snapshot)))):
                status = Status.USER_RULE
                break
        if (result := session.finished(status)) is not None:
            return result
        session.examine(status)
        if status is Status.CONVERGED and session.refine:
            bar.note(f"fusions: nested sampling has converged after {session.state.n_calls:,} calls; refining")
            try:
                session.refine_phase(bar.refining)
            except Exception as error:  # whatever a user's function raises
                session.spare(error)
    except KeyboardInterrupt:
        status = session.interrupted()
    except (LikelihoodError, PrecisionError) as error:
        error.result = session.result(Status.FAILED)
        raise
    finally:
        session.saver.save()
    return session.end(status)


def _check_arguments(problem, algorithm, refine, max_calls, max_time, callback):
    """Raise an error that says what to type instead."""
    if not isinstance(problem, Problem):
        raise ProblemError(f"Expected a fusions.Problem, got {type(problem).__name__}. Type run(Problem(prior, loglikelihood)).")
    if not isinstance(algorithm, nested.Nested):
        raise OptionError(f"Expected fusions.nested(...), got {algorithm!r}. Type run(problem, fusions.nested(n_live=500)).")
    if refine is not False and not isinstance(refine, Refine):
        raise OptionError(f"Expected refine to be True, False or fusions.Refine(...), got {refine!r}. Type refine=True.")
    for name, least in (("error", 0), ("efficiency", 0), ("max_rounds", 1), ("max_draws", 1)) if refine else ():
        value = getattr(refine, name)
        if value is None and name == "efficiency":
            continue
        if not value > 0 or value < least:
            raise OptionError(f"Expected {name} of Refine to be {f'>= {least}' if least else '> 0'}, got {value!r}. Type fusions.Refine().")
    if refine and not is_settings(refine.kernel):
        raise OptionError(
            f"Expected kernel of Refine to be a kernel, got {refine.kernel!r}. Type fusions.Refine(kernel=kernels.Jump(slides=0.6))."
        )
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


def _check_checkpoint(checkpoint, resume, every):
    """Raise an error that says what to type instead."""
    if checkpoint is not None and not isinstance(checkpoint, (str, os.PathLike)):
        raise OptionError(f'Expected checkpoint to be the path of a folder, got {checkpoint!r}. Type checkpoint="runs/a".')
    if not isinstance(resume, bool):
        raise OptionError(f"Expected resume to be True or False, got {resume!r}. Type resume=True.")
    _checked_number(every, Real, lambda v: v >= 0, "checkpoint_every >= 0 seconds", "checkpoint_every=60")
