"""A run in progress: its levels and its refine phase."""

import dataclasses
import functools
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from fusions.algorithms.nested import level as nested
from fusions.algorithms.nested.initial import begin
from fusions.algorithms.nested.level import Nested
from fusions.algorithms.nested.schedule import schedule_for, timed_cost
from fusions.algorithms.refine import phase
from fusions.algorithms.refine.settings import LEAST_BUDGET
from fusions.driver import snapshot
from fusions.driver.assemble import assemble, facts_of, idle_notes, refined_fields, version_of
from fusions.driver.compiled import charging, make_engine, make_functions
from fusions.driver.programs import Stopwatch
from fusions.driver.progress import Snapshot
from fusions.driver.redraw import attach
from fusions.driver.saving import Progress, Saver
from fusions.driver.signals import Signals
from fusions.driver.snapshot import RunState
from fusions.errors import LikelihoodError, Status
from fusions.evidence.ledger import Ledger
from fusions.model.likelihood import reject_invalid
from fusions.model.problem import Problem
from fusions.model.resolution import coarse, look_inside, refuse_blind, rounded_constants
from fusions.numerics import keys_of
from fusions.parallel.devices import ProcessGroup
from fusions.parallel.sharding import Layout
from fusions.types import Budget

ENDS = (None, *Status)  # for processes to agree on
N_BEST = 8  # live points at which the rounding of log L is looked at
PLATEAU = (
    "All live points have log L = {:.10g} exactly: a plateau, taken for the highest value of the likelihood. If it has no steps, it is "
    "rounded somewhere: look for integers, float32 or values that are cut."
)


class Site(NamedTuple):
    """Where a run is computed and saved, and who can end it.

    Attributes
    ----------
    layout : where rows are computed; team : ProcessGroup that shares the run.
    signals : Signals
    workers : () -> facts and notes of the pool.
    folder : Checkpoint, NullCheckpoint or None; save_every : seconds between saves.
    """

    layout: Layout
    team: ProcessGroup
    signals: Signals
    workers: Callable
    folder: Any = None
    save_every: float = 0.0


class Session:
    """A run in progress.

    Attributes
    ----------
    problem, algorithm, refine, key : what is run: Problem, Nested, Refine or False, seed.
    site : where and with whom.
    budget : Budget
    schedule : Schedule
    state : the last `RunState`; None before the live points are drawn.
    ledger : Ledger; what it holds beyond the state does not count.
    saver : Saver
    refined : fields of the refine phase, or None.
    cut : whether the refine phase was left early, so that its result is not final.
    failure : what error ended the refine phase, a sentence, or None.
    notes : sentences for the summary.
    """

    def __init__(self, problem: Problem, algorithm: Nested, refine: Any, key: int, site: Site, budget: Budget):
        """Prepare a run: nothing is computed yet.

        Parameters
        ----------
        problem : Problem; algorithm : Nested; refine : Refine or False; key : seed.
        site : Site
        budget : Budget
        """
        self.problem, self.algorithm, self.refine, self.key = problem, algorithm, refine, key
        self.site, self.budget = site, budget
        self.schedule = schedule_for(algorithm, problem, refine)
        self.engine, self.ledger = make_engine(problem, algorithm, site.layout).charging(budget), Ledger()
        self.n_compiled = -self.engine.traces().total()
        self.k_begin, self.k_loop, self.k_refine = keys_of(jax.random.key(key), 3)
        self.state: Any = None
        self.rate, self.cut = 0.0, False
        self.refined: dict | None = None
        self.failure: str | None = None
        self.notes: list[str] = []
        identity = snapshot.identity(problem, algorithm, key) if site.folder is not None else None
        self.saver = Saver(site.folder, site.save_every, identity, site.signals, self._progress)

    # The nested run -------------------------------------------------------------------------------------

    def begin(self):
        """Draw the live points and choose the schedule; what an earlier run left in the folder is removed."""
        watch = Stopwatch()
        with self.site.signals.interruptible():
            state, self.rate, notes = begin(self.k_begin, self.problem, self.algorithm, self.schedule, self.engine, self.ledger)
            self.notes += notes
            if self.algorithm.cost == "auto":
                timed = timed_cost(self.k_begin, self.engine, state, self.rate)
                cost, note = self.site.team.first(lambda: timed)
                self._settle(cost)
                self.notes.append(note)
        self.ledger.seconds["compile"] += watch.read()[1]
        self._commit(state, 0, np.inf)
        self.saver.begin(state.live)

    def resume(self):
        """Go on from what the folder holds, if it is of this run; return whether there was something."""
        saved = self.site.team.first(self.site.folder.load)
        if saved is None:
            return False
        meta, directory = saved.meta, self.site.folder.directory
        snapshot.refuse_other(directory, meta["identity"], self.saver.identity)
        self._settle(meta["cost"])
        snapshot.refuse_coarser(directory, meta["passed"], meta["precision"], self.schedule.precision)
        probe = {name: saved.arrays[f"probe/{name}"] for name in ("x", "logL")}
        chunk = nested.batch_size(self.algorithm.n_live, self.schedule.kill)[1]
        snapshot.check_likelihood(directory, self.problem, self.engine.evaluator, chunk, probe)
        self.ledger.blocks, values = snapshot.unpack_records(saved.records)
        state = snapshot.unpack_mark(meta, saved.arrays, self.engine, len(self.ledger.blocks))
        self.budget.used, self.ledger.seconds = state.n_calls, dict(state.seconds)
        self.ledger.wind(state.elapsed)
        self.rate, self.notes, self.state = meta["rate"], meta["notes"], state
        self.saver.go_on(state, meta, probe, values)
        self._tell([f"A newer state of the checkpoint was damaged ({text}); the one before was used." for text in saved.damaged])
        if meta["jax"] != version_of("jax"):
            self._tell([f"Resumed with jax {version_of('jax')}, begun with {meta['jax']}: the numbers may differ from one run in one go."])
        return True

    def stop(self):
        """Return the status with which to stop now, or None, the same in all processes."""
        return ENDS[self.site.team.highest(ENDS.index(self._arrived() or self._out_of_budget()))]

    def _arrived(self):
        """Return the status with which the live points end the nested run, or None."""
        state = self.state.nested
        logL = state.live.logL
        if logL.min() == logL.max():
            return Status.PLATEAU if 2 * len(np.unique(state.live.x, axis=0)) > len(logL) else Status.CLONES
        if state.running.remaining(logL) < np.log(self.schedule.precision) or state.running.effective(logL) >= self.schedule.enough:
            return Status.CONVERGED
        return None

    def _out_of_budget(self):
        """Return the status with which a signal or a limit ends the run, or None."""
        if self.site.signals.received:
            return self._signalled()
        if self.budget.left <= 0:
            return Status.MAX_CALLS
        return Status.MAX_TIME if self.budget.late() else None

    def _signalled(self):
        return Status.TERMINATED if self.site.signals.received in ("SIGTERM", "SIGUSR1") else Status.INTERRUPTED

    def level(self):
        """Do one level; enter its dead points, ranks, cost and history into the ledger, all together at its end."""
        watch, training, used = Stopwatch(), [], self.budget.used

        def tune(*args):
            watch = Stopwatch()
            params = jax.block_until_ready(self.engine.tune(*args))
            training.append(watch.read()[0])
            return params

        def walk(*args):
            out = self.engine.walk(*args)
            if out.invalid is not None:
                reject_invalid(self.problem, *out.invalid)
            return out

        before, key = self.state, jax.random.fold_in(self.k_loop, self.state.iteration)
        with self.site.signals.interruptible():
            state, level = nested.step(key, before.nested, self.algorithm, self.schedule, tune, walk)
        seconds, compiling = watch.read()
        self._clock(compiling, sum(training), seconds - sum(training), level.walks)
        self.ledger.append(level.dead, level.slot, level.uniforms, self._trace(state, level, self.budget.used - used))
        self._commit(state, before.iteration + 1, min(before.passed, before.nested.running.remaining(before.nested.live.logL)))
        self.saver.save_if_due()
        return self._snapshot()

    def _clock(self, compiling, training, moving, walks):
        """Add the seconds of a level to the clocks."""
        likelihood = min(moving, sum(self.rate * w.n_rows if np.isnan(w.seconds) else w.seconds for w in walks))
        for name, seconds in (("compile", compiling), ("training", training), ("likelihood", likelihood), ("ode", moving - likelihood)):
            self.ledger.seconds[name] += seconds

    def _trace(self, state, level, n_calls):
        """Return the history of a level, {name: number}."""
        n_dead = len(level.slot)
        return {
            "logL": level.threshold, "logX": state.running.logX, "n_calls": self.budget.used, "efficiency": n_dead / max(n_calls, 1),
            "unmoved": level.n_unmoved / n_dead, **state.controller._asdict(), **_kernel_report(state.info),
        }  # fmt: skip

    def _commit(self, nested_state, iteration, passed):
        """Let what was computed count; an earlier Result is then not final."""
        ledger, n_calls = self.ledger, self.budget.used
        clocks = dict(ledger.seconds), ledger.elapsed()
        self.state = RunState(nested_state, iteration, len(ledger.blocks), n_calls, *clocks, passed)
        self.saver.final = None

    def _settle(self, cost):
        self.schedule = schedule_for(dataclasses.replace(self.algorithm, cost=cost), self.problem, self.refine)

    # What to tell the user --------------------------------------------------------------------------------

    @functools.cached_property
    def inside(self):
        """What the likelihood computes in single precision."""
        return look_inside(self.problem)

    def watch(self):
        """See whether numbers tell the live points apart, until the dead hold half of the evidence: warn where they hardly do.

        Raises
        ------
        PrecisionError : if they do not.
        """
        state = self.state.nested
        if state.running.remaining(state.live.logL) < np.log(0.5):
            return
        found = coarse(self.problem, state.live.x, state.live.logL, self.inside)
        new = [entry for entry in found if not any(f"in {entry.name}: " in note for note in self.notes)]
        self._tell([f"Precision is short: {entry}" for entry in new])
        refuse_blind(found)

    def examine(self, status: Status):
        """Warn of what the nested run, which has ended, can't see: float32 data, and a plateau that may be one of rounding."""
        live = self.state.nested.live
        best = np.argsort(live.logL)[-N_BEST:]
        self._tell(rounded_constants(self.problem, self.inside, live.x[best], live.logL[best]))
        if status is Status.PLATEAU and self.state.iteration:
            self._tell([PLATEAU.format(live.logL[0])])

    def _tell(self, notes):
        """Warn now and in the summary."""
        for note in notes:
            warnings.warn(note, stacklevel=5)
        self.notes += notes

    def _snapshot(self):
        """Sum up the run so far."""
        state, trace, running = self.state, self.ledger.blocks[-1].trace, self.state.nested.running
        remaining, elapsed = running.remaining(state.nested.live.logL), self.ledger.elapsed()
        logL, efficiency = float(trace["logL"][-1]), float(trace["efficiency"][-1])
        return Snapshot(state.iteration, logL, running.logX, running.logZ, remaining, self.budget.used, efficiency, elapsed)

    # The refine phase -------------------------------------------------------------------------------------

    def refine_phase(self, show: Callable):
        """Refine a converged run; if it is left early, only the likelihood values at its draws are kept.

        Parameters
        ----------
        show : called with the number of likelihood calls so far.
        """
        watch, target, site = Stopwatch(), self._refine_budget(), self.site
        functions, traces = make_functions(self.problem, self.refine, site.layout)
        n_traced, found = traces().total(), None

        def expired():
            left = self.cut or self.budget.late() or (site.team.size > 1 and site.signals.received is not None)
            self.cut = bool(site.team.highest(int(left)))
            return self.cut

        self.budget.report, self.budget.expired = show, expired
        with site.signals.interruptible(patient=False):
            points = self.ledger.points(self.state.nested.live)
            functions = charging(functions._replace(target=self.saver.remembered(functions.target)), self.budget)
            if not expired():
                found = phase.refine(self.k_refine, self.refine, self.schedule, functions, points, self.budget, target)
        for name, seconds in zip(("refine", "compile"), watch.read(), strict=True):
            self.ledger.seconds[name] += seconds
        self.n_compiled += traces().total() - n_traced
        if found is not None:
            self.refined = refined_fields(found, self.problem, self.refine, functions.space.leave, self.budget.used - self.state.n_calls)

    def spare(self, error: Any):
        """Keep a converged nested run although its refine phase raised an error; resuming tries the phase again.

        The processes of a team can't know of an error in another one, unless all of them see the same likelihood values.
        """
        if self.site.team.size > 1 and not isinstance(error, LikelihoodError):
            raise error
        self.cut = True
        if self.site.signals.received is None:  # else JAX has replaced the exception of a signal
            text = str(error) if isinstance(error, LikelihoodError) else f"{type(error).__name__}: {error}"
            again = " Mend it and make the same call again, which tries the refine phase once more." if self.site.folder is not None else ""
            self.failure = failure = f"The refine phase failed; ln Z is that of the nested run. {text}{again}"
            warnings.warn(failure, stacklevel=4)

    def _refine_budget(self):
        """Return the likelihood calls that the refine phase may spend."""
        return min(max(self.state.n_calls, LEAST_BUDGET), self._most())

    def _most(self):
        """Return the likelihood calls that the limit leaves to the refine phase."""
        return self.budget.limit - self.state.n_calls

    # The end ------------------------------------------------------------------------------------------------

    def interrupted(self):
        """Return the status of a run that was left in the middle."""
        if self._arrived() is not Status.CONVERGED:
            return self._signalled()
        self.cut = True
        return Status.CONVERGED

    def finished(self, status: Status):
        """Return the Result of an earlier session if it is final, else None."""
        if self.site.team.size > 1 or not status.complete:
            return None
        result, notes = self.saver.finished(self._final(status))
        self._tell(notes)
        return attach(result, self.problem, self.refine) if result is not None and result.flows else result

    def end(self, status: Status):
        """Make the Result, and save it and the state that it was made from."""
        result = self.result(status)
        self.saver.keep(result, self._final(status) if status.complete and not self.cut else None)
        return result

    def result(self, status: Status):
        """Assemble the Result from the ledger and the live points."""
        del self.ledger.blocks[self.state.n_blocks :]
        pool, pool_notes = self.site.workers()
        settings = {name: getattr(self.schedule, name) for name in ("kill", "precision", "cost")}
        info = facts_of(self.problem, self.key, dataclasses.replace(self.algorithm, **settings)) | {
            "warnings": [*self._last_notes(), *pool_notes], **pool, "cut": self.cut,
            "signal": self.site.signals.received if self.cut or not status.complete else None,
        }  # fmt: skip
        return assemble(
            self.problem,
            self.ledger,
            self.state.nested.live,
            status,
            n_calls=self.budget.used,
            n_compilations=self.engine.traces().total() + self.n_compiled,
            info=info,
            **(self.refined or {}),
        )

    def _last_notes(self):
        """Return the sentences for the summary of the Result."""
        notes = list(self.notes)
        if self.cut:
            left = "; ln Z is that of the nested run." if self.refined is None else ": it had fewer rounds than it wanted."
            notes.append(self.failure or f"The refine phase was interrupted{left}")
        return notes + idle_notes(self.ledger.trace())

    def _final(self, status):
        """Describe what a final Result of this run depends on, beside the state."""
        refined = self.refine and status is Status.CONVERGED
        return {
            "refine": repr(self.refine) if refined else None, "budget": self._refine_budget() if refined else None,
            "precision": self.schedule.precision,
        }  # fmt: skip

    def _progress(self):
        """Return what there is to save."""
        if self.state is None:
            return None
        facts = {"cost": self.schedule.cost, "precision": self.schedule.precision, "rate": self.rate, "notes": self.notes}
        return Progress(self.state, self.ledger.blocks, {**facts, "jax": version_of("jax")})


def _kernel_report(info):
    """Average acceptance, held-out loss, scale and skill of the first kernel over both halves."""
    first = [half.reports()[0] for half in info]
    return {
        name: float(np.mean([getattr(r, field) for r in first]))
        for name, field in (("acceptance", "accepted"), ("loss", "loss"), ("scale", "scale"), ("skill", "skill"))
    }
