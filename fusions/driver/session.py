"""A run in progress: its levels and its refine phase, when it is saved, and the Result that it makes."""

import dataclasses
import functools
import hashlib
import itertools
import time
import warnings
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple

import jax
import numpy as np

from fusions.algorithms.nested import level as nested
from fusions.algorithms.nested.initial import begin
from fusions.algorithms.nested.schedule import settled, timed_cost
from fusions.algorithms.refine import phase as refinement
from fusions.driver import snapshot
from fusions.driver.compiled import make_engine, make_tools
from fusions.driver.programs import Stopwatch
from fusions.driver.progress import Snapshot
from fusions.driver.redraw import Source, attach, flow_arrays
from fusions.driver.snapshot import RunState, generator, path_of
from fusions.errors import FileError, LikelihoodError, Status
from fusions.evidence.ledger import Ledger
from fusions.evidence.refinement import ChainsReport, FindReport, Refinement, Round
from fusions.model.likelihood import reject_invalid, theta_of
from fusions.model.resolution import coarse, look_inside, refuse_blind, rounded_constants
from fusions.numerics import keys_of
from fusions.results.result import Result

PACKAGES = ("fusions", "jax", "flax", "optax", "diffrax", "numpy")
ENDS = (None, *Status)  # for processes to agree on
N_BEST = 8  # live points at which the rounding of log L is looked at
PLATEAU = (
    "All live points have log L = {:.10g} exactly: a plateau, taken for the highest value of the likelihood. If it has no steps, it is "
    "rounded somewhere: look for integers, float32 or values that are cut."
)
AT_ONCE = 32  # levels that are packed at once for the checkpoint: they may take much of the memory
IDLE = 0.5  # skill of a flow below which the summary says so


class Limits(NamedTuple):
    """Limits of one call of `run`: likelihood calls in all, the time at which to stop."""

    max_calls: float | None
    deadline: float

    def expired(self):
        """Return whether time is up."""
        return time.perf_counter() >= self.deadline


class Session:
    """A run in progress.

    Attributes
    ----------
    layout, team : where rows are computed, and the processes that share the run.
    algorithm, enough : settings with their schedule, effective posterior points at which the nested run may stop.
    mark : the last `RunState`; None before the live points are drawn.
    ledger : Ledger; what it holds beyond the mark does not count.
    refined : fields of the refine phase, or None.
    cut : whether the refine phase was left early, so that its result is not final.
    failure : what error ended the refine phase, a sentence, or None.
    notes : sentences for the summary.
    trouble : why the last save failed, or None.
    """

    def __init__(self, problem, algorithm, refine, key, layout, team, signals, workers, folder=None, every=0.0):
        """Prepare a run: nothing is computed yet."""
        self.layout, self.team = layout, team
        self.problem, self.wanted, self.refine, self.key = problem, algorithm, refine, key
        self.signals, self.workers, self.folder, self.every = signals, workers, folder, every
        self.identity = snapshot.identity(problem, algorithm, key) if folder is not None else None
        self.algorithm, self.enough = settled(algorithm, problem, refine)
        self.engine, self.ledger = make_engine(problem, self.algorithm, layout), Ledger()
        self.n_compiled = -self.engine.traces().total()
        self.k_begin, self.k_loop, self.k_refine = keys_of(jax.random.key(key), 3)
        self.mark, self.probe, self.rate, self.refined, self.cut = None, None, 0.0, None, False
        self.failure, self.notes, self.trouble, self.final = None, [], None, None
        self.values, self.unsaved, self.n_saved, self.saved_at, self.written = {}, [], 0, -np.inf, (None, None)

    # Computing ------------------------------------------------------------------------------------------

    def begin(self):
        """Draw the live points and choose the schedule; what an earlier run left in the folder is removed."""
        watch = Stopwatch()
        with self.signals.interruptible():
            state, self.rate, notes = begin(self.k_begin, self.problem, self.algorithm, self.engine, self.ledger)
            self.notes += notes
            if self.wanted.cost == "auto":
                timed = timed_cost(self.k_begin, self.engine, state, self.rate)
                cost, note = self.team.first(lambda: timed)
                self._settle(cost)
                self.notes.append(note)
        self.ledger.seconds["compile"] += watch.read()[1]
        best = np.argsort(state.logL)[-snapshot.N_PROBES :]
        self.probe = {"x": state.x[best], "logL": state.logL[best]}
        self._commit(state, 0, np.random.default_rng([self.key, 1]), np.inf)
        if self.folder is not None:
            self.folder.clear()
            self.save()

    def stop(self, limits):
        """Return the status with which to stop now, or None, the same in all processes."""
        return ENDS[self.team.highest(ENDS.index(self._stop(limits)))]

    def _stop(self, limits):
        state = self.mark.nested
        if state.logL.min() == state.logL.max():
            return Status.PLATEAU if 2 * len(np.unique(state.x, axis=0)) > len(state.x) else Status.CLONES
        if state.running.remaining(state.logL) < np.log(self.algorithm.precision) or state.running.effective(state.logL) >= self.enough:
            return Status.CONVERGED
        if self.signals.received:
            return self._signalled()
        if limits.max_calls is not None and self.ledger.n_calls >= limits.max_calls:
            return Status.MAX_CALLS
        return Status.MAX_TIME if limits.expired() else None

    def _signalled(self):
        return Status.TERMINATED if self.signals.received in ("SIGTERM", "SIGUSR1") else Status.INTERRUPTED

    def level(self):
        """Do one level; enter its dead points, ranks, cost and history into the ledger, all together at its end."""
        watch, training, before = Stopwatch(), [], self.ledger.n_calls

        def tune(*args):
            watch = Stopwatch()
            params = jax.block_until_ready(self.engine.tune(*args))
            training.append(watch.read()[0])
            return params

        def walk(*args):
            out = self.engine.walk(*args, self._spent)
            if out.invalid is not None:
                reject_invalid(self.problem, *out.invalid)
            return out

        key, rng = jax.random.fold_in(self.k_loop, self.mark.iteration), generator(self.mark.rng)
        with self.signals.interruptible():
            state, level = nested.step(key, rng, self.mark.nested, self.algorithm, tune, walk)
        seconds, compiling = watch.read()
        moving = seconds - sum(training)
        likelihood = min(moving, sum(self.rate * w.n_rows if np.isnan(w.seconds) else w.seconds for w in level.walks))
        parts = {"compile": compiling, "training": sum(training), "likelihood": likelihood, "ode": moving - likelihood}
        for name, seconds in parts.items():
            self.ledger.seconds[name] += seconds
        n_calls, n_dead = self.ledger.n_calls - before, len(level.dead_logL)
        trace = {
            "logL": level.threshold, "logX": state.running.logX, "n_calls": self.ledger.n_calls, "efficiency": n_dead / max(n_calls, 1),
            "unmoved": level.n_unmoved / n_dead, "parent_correlation": state.parent_correlation, "walk_scale": state.walk_scale,
            **_kernel_report(state.info),
        }  # fmt: skip
        dead = level.dead_x, level.dead_logL, level.dead_birth, level.dead_blobs, level.dead_slot
        self.ledger.append(*dead, level.uniforms, trace)
        before = self.mark.nested
        self._commit(state, self.mark.iteration + 1, rng, min(self.mark.passed, before.running.remaining(before.logL)))
        self._save_if_due()
        return self._snapshot()

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
        state = self.mark.nested
        if state.running.remaining(state.logL) < np.log(0.5):
            return
        found = coarse(self.problem, state.x, state.logL, self.inside)
        new = [entry for entry in found if not any(f"in {entry.name}: " in note for note in self.notes)]
        self._tell([f"Precision is short: {entry}" for entry in new])
        refuse_blind(found)

    def examine(self, status):
        """Warn of what the nested run, which has ended, can't see: float32 data, and a plateau that may be one of rounding."""
        state = self.mark.nested
        best = np.argsort(state.logL)[-N_BEST:]
        self._tell(rounded_constants(self.problem, self.inside, state.x[best], state.logL[best]))
        if status is Status.PLATEAU and self.mark.iteration:
            self._tell([PLATEAU.format(state.logL[0])])

    def _spent(self, n_calls):
        self.ledger.n_calls += n_calls

    def _settle(self, cost):
        self.algorithm, self.enough = settled(dataclasses.replace(self.wanted, cost=cost), self.problem, self.refine)

    def _commit(self, state, iteration, rng, passed):
        """Let what was computed count; an earlier Result is then not final."""
        ledger, rng_state = self.ledger, rng.bit_generator.state
        self.mark = RunState(
            state, iteration, rng_state, len(ledger.blocks), ledger.n_calls, dict(ledger.seconds), ledger.elapsed(), passed
        )
        self.final = None

    def refine_phase(self, limits, show):
        """Refine a converged run; if it is left early, only the likelihood values at its draws are kept.

        Parameters
        ----------
        limits : Limits
        show : called with the number of likelihood calls so far.
        """
        watch, budget = Stopwatch(), self._budget(limits)
        tools, traces = make_tools(self.problem, self.refine, self.layout)
        n_traced, found = traces().total(), None

        def expired():
            left = self.cut or limits.expired() or (self.team.size > 1 and self.signals.received is not None)
            self.cut = bool(self.team.highest(int(left)))
            return self.cut

        def spent(n_calls):
            self._spent(n_calls)
            show(self.ledger.n_calls)

        with self.signals.interruptible(patient=False):
            points, rng = self.ledger.points(self.mark.nested), generator(self.mark.rng)
            tools = tools._replace(target=self._remembered(tools.target))
            if not expired():
                settings = self.refine, tools, points, self.algorithm.cost
                found = refinement.refine(self.k_refine, rng, *settings, budget, self._most(limits), spent, expired)
        for name, seconds in zip(("refine", "compile"), watch.read(), strict=True):
            self.ledger.seconds[name] += seconds
        self.n_compiled += traces().total() - n_traced
        self.refined = self._refined_fields(found, tools.leave) if found is not None else None

    def spare(self, error):
        """Keep a converged nested run although its refine phase raised an error; resuming tries the phase again.

        The processes of a team can't know of an error in another one, unless all of them see the same likelihood values.
        """
        if self.team.size > 1 and not isinstance(error, LikelihoodError):
            raise error
        self.cut = True
        if self.signals.received is None:  # else JAX has replaced the exception of a signal
            text = str(error) if isinstance(error, LikelihoodError) else f"{type(error).__name__}: {error}"
            again = " Mend it and make the same call again, which tries the refine phase once more." if self.folder is not None else ""
            self.failure = f"The refine phase failed; ln Z is that of the nested run. {text}{again}"
            warnings.warn(self.failure, stacklevel=4)

    def _budget(self, limits):
        """Return the likelihood calls that the refine phase may spend."""
        return min(max(self.mark.n_calls, refinement.LEAST_BUDGET), self._most(limits))

    def _most(self, limits):
        """Return the likelihood calls that are left by `max_calls`."""
        return np.inf if limits.max_calls is None else int(limits.max_calls) - self.mark.n_calls

    def _remembered(self, target):
        """Keep what a likelihood gave for each batch of draws, so that a resumed refine phase need not ask it again."""
        if self.folder is None:
            return target

        def remembered(x):
            name = hashlib.sha256(x.tobytes()).hexdigest()
            if name not in self.values:
                self.values[name] = values = target(x)
                kept = zip(("logL", "blobs", "logprior", "n_calls"), values, strict=True)
                self.unsaved.append({"draws/name": name, **{f"draws/{k}": v for k, v in kept}})
                self._save_if_due()
            return self.values[name]

        return remembered

    def _refined_fields(self, found, leave):
        """Turn what the refine phase found into fields of a Result; where a constraint cuts the prior, its norm adds an error."""
        norm_err, (bridged, bridged_err) = self.problem.constraint_logmass[1], found.bridge
        chains = found.chains
        summary = Refinement(
            importance=(found.importance.logZ, float(np.hypot(found.importance.logZ_err, norm_err))),
            bridge=(bridged, float(np.hypot(bridged_err, norm_err))),
            coverage=found.coverage,
            uncovered=found.uncovered,
            ess=found.importance.ess,
            khat=found.importance.khat,
            n_draws=len(found.draws.x),
            n_calls=self.ledger.n_calls - self.mark.n_calls,
            ode_error=found.ode_error,
            rounds=tuple(Round(*row) for row in found.rounds.tolist()),
            chains=ChainsReport(
                n_moves=chains.n_moves, n_trajectories=chains.n_trajectories, drift=chains.drift, settled=bool(chains.settled)
            ),
            modes=tuple(found.modes.tolist()) if len(found.modes) > 1 else (),
            finds=self._find_reports(found.finds, leave),
            settings=repr(self.refine),
        )
        draws = {"draws": theta_of(self.problem, [leave(found.draws.x)], found.draws.blobs), "draws_logw": found.draws.logw}
        flows = jax.tree.map(np.asarray, found.flows)
        return {"refined": summary, **draws, "flows": flow_arrays(flows), "source": Source(self.problem, self.refine, flows)}

    def _find_reports(self, finds, leave):
        """Turn each `Find` into its report, its place into the values of the parameters."""
        names, theta_rows = self.problem.prior.names, self.problem.prior.theta_rows
        return tuple(
            FindReport(
                name=find.name,
                logZ=find.estimate.logZ,
                logZ_err=find.estimate.logZ_err,
                khat=find.estimate.khat,
                logL=find.logL,
                at=dict(zip(names, theta_rows(leave(find.x[None]))[0].tolist(), strict=True)),
            )
            for find in finds
        )

    # Saving -----------------------------------------------------------------------------------------------

    def resume(self):
        """Go on from what the folder holds, if it is of this run; return whether there was something."""
        saved = self.team.first(self.folder.load)
        if saved is None:
            return False
        meta = saved.meta
        snapshot.refuse_other(self.folder.directory, meta["identity"], self.identity)
        self._settle(meta["cost"])
        snapshot.refuse_coarser(self.folder.directory, meta["passed"], meta["precision"], self.algorithm.precision)
        probe = {name: saved.arrays[f"probe/{name}"] for name in ("x", "logL")}
        chunk = nested.batch_size(self.algorithm)[1]
        snapshot.check_likelihood(self.folder.directory, self.problem, self.engine.evaluator, chunk, probe)
        self.ledger.blocks, self.values = snapshot.unpack_records(saved.records)
        mark = snapshot.unpack_mark(meta, saved.arrays, self.engine, len(self.ledger.blocks))
        self.ledger.n_calls, self.ledger.seconds = mark.n_calls, dict(mark.seconds)
        self.ledger.wind(mark.elapsed)
        self.rate, self.notes, self.final, self.probe = meta["rate"], meta["notes"], meta["final"], probe
        self._tell([f"A newer state of the checkpoint was damaged ({text}); the one before was used." for text in saved.damaged])
        if meta["jax"] != _version("jax"):
            self._tell([f"Resumed with jax {_version('jax')}, begun with {meta['jax']}: the numbers may differ from one run in one go."])
        self.mark, self.n_saved, self.saved_at, self.written = mark, mark.n_blocks, time.perf_counter(), (mark, self.final)
        return True

    def _tell(self, notes):
        """Warn now and in the summary."""
        for note in notes:
            warnings.warn(note, stacklevel=5)
        self.notes += notes

    def _save_if_due(self):
        if self.folder is not None and time.perf_counter() - self.saved_at >= self.every:
            with self.signals.protected():
                self.save()

    def save(self):
        """Save what the next session needs; a failure is told, and does not end the run."""
        mark = self.mark
        written = self.written[0] is mark and self.written[1] == self.final and not self.unsaved
        if self.folder is None or mark is None or written:
            return
        meta, arrays = snapshot.pack_mark(mark)
        meta |= {
            "identity": self.identity, "cost": self.algorithm.cost, "precision": self.algorithm.precision, "rate": self.rate,
            "notes": self.notes, "final": self.final, "jax": _version("jax"), "logZ": mark.nested.running.logZ,
        }  # fmt: skip
        arrays |= {f"probe/{name}": values for name, values in self.probe.items()}
        blocks = self.ledger.blocks[self.n_saved : mark.n_blocks]
        dead = (snapshot.pack_blocks(blocks[i : i + AT_ONCE]) for i in range(0, len(blocks), AT_ONCE))
        try:
            self.folder.save(meta, arrays, itertools.chain(dead, self.unsaved))
        except OSError as error:
            self._failed(error)
        else:
            self.trouble, self.n_saved, self.unsaved, self.written = None, mark.n_blocks, [], (mark, self.final)
        self.saved_at = time.perf_counter()

    def _failed(self, error):
        """Tell once that saving fails; it is tried again."""
        text = (
            f"The checkpoint in {self.folder.directory} could not be written ({error.strerror or error}); what was saved before is intact."
        )
        if self.trouble is None:
            warnings.warn(text, stacklevel=5)
        self.trouble = text

    def _final(self, status, limits):
        """Describe what a final Result of this run depends on, beside the mark."""
        refined = self.refine and status is Status.CONVERGED
        return {
            "refine": repr(self.refine) if refined else None, "budget": self._budget(limits) if refined else None,
            "precision": self.algorithm.precision,
        }  # fmt: skip

    def finished(self, status, limits):
        """Return the Result of an earlier session if it is final, else None."""
        if self.folder is None or self.team.size > 1 or not status.complete or self.final != self._final(status, limits):
            return None
        try:
            result = Result.load(self.folder.directory)
        except FileError as error:
            self._tell([f"The saved result was damaged and is made again from the checkpoint: {error}"])
            return None
        return attach(result, self.problem, self.refine) if result.flows else result

    # The end ------------------------------------------------------------------------------------------------

    def interrupted(self):
        """Return the status of a run that was left in the middle."""
        if self._stop(Limits(None, np.inf)) is not Status.CONVERGED:
            return self._signalled()
        self.cut = True
        return Status.CONVERGED

    def end(self, status, limits):
        """Make the Result, and save it and the state that it was made from."""
        result = self.result(status)
        if self.folder is not None:
            try:
                self.folder.keep(result)
                self.final = self._final(status, limits) if status.complete and not self.cut else None
            except FileError as error:
                self._failed(error.__cause__)
            self.save()
            result.info["warnings"].extend([self.trouble] if self.trouble else [])
        return result

    def result(self, status):
        """Assemble the Result from the ledger and the live points."""
        ledger, state, problem = self.ledger, self.mark.nested, self.problem
        del ledger.blocks[self.mark.n_blocks :]
        logL, logL_birth, blobs = ledger.joined(state, "logL", "logL_birth", "blobs")
        trace, notes = ledger.trace(), list(self.notes)
        if self.cut:
            left = "; ln Z is that of the nested run." if self.refined is None else ": it had fewer rounds than it wanted."
            notes.append(self.failure or f"The refine phase was interrupted{left}")
        idle, n_levels = int(np.sum(trace["skill"] < IDLE)), len(trace["skill"])
        if idle:
            notes.append(
                f"The flow had learned nothing at {idle} of {n_levels} levels; walks were lengthened there and rely on slice moves."
            )
        pool, pool_notes = self.workers()
        info = {
            "seed": self.key, "path": path_of(problem), "fingerprint": problem.fingerprint(), "data": problem.data_digest(),
            "warnings": [*notes, *pool_notes], **pool,
            "settings": repr(self.algorithm), "versions": {name: _version(name) for name in PACKAGES}, "cut": self.cut,
            "signal": self.signals.received if self.cut or not status.complete else None,
        }  # fmt: skip
        return Result(
            names=problem.names,
            n_params=len(problem.prior.names),
            labels=dict(problem.labels),
            theta=theta_of(problem, ledger.parts(state, "x"), blobs),
            logL=logL,
            logL_birth=logL_birth,
            n_live=len(state.logL),
            status=status,
            insertion_uniforms=np.concatenate([block.uniforms for block in ledger.blocks]),
            level_trace=trace,
            n_calls=ledger.n_calls,
            seconds=ledger.clocks(),
            n_compilations=self.engine.traces().total() + self.n_compiled,
            constraint_logmass=problem.constraint_logmass,
            info=info,
            **(self.refined or {}),
        )

    def _snapshot(self):
        """Sum up the run so far."""
        state, trace = self.mark.nested, self.ledger.blocks[-1].trace
        efficiency, logL, running = float(trace["efficiency"][-1]), float(trace["logL"][-1]), state.running
        return Snapshot(
            self.mark.iteration, logL, running.logX, running.logZ, running.remaining(state.logL), self.ledger.n_calls, efficiency,
            self.ledger.elapsed(),
        )  # fmt: skip


def _kernel_report(info):
    """Average acceptance, held-out loss, scale and skill of the first kernel that reports them."""
    reports = jax.tree.leaves(info, is_leaf=lambda leaf: hasattr(leaf, "accepted"))
    first = reports[:: max(len(reports) // 2, 1)]
    return {
        name: float(np.mean([getattr(r, field) for r in first]))
        for name, field in (("acceptance", "accepted"), ("loss", "loss"), ("scale", "scale"), ("skill", "skill"))
    }


@functools.cache
def _version(name):
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"
