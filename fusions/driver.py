"""run(): the only outer loop."""

import difflib
import time
import warnings
from importlib.metadata import version

import jax
import numpy as np

from fusions.algorithms import nested
from fusions.engine import make_engine
from fusions.errors import LikelihoodError, OptionError, ProblemError, Status
from fusions.evaluate import describe, reject_invalid
from fusions.evidence import Running
from fusions.kernels import Cycle, FlowKernel, HitAndRun
from fusions.problem import Problem
from fusions.progress import Bar, Snapshot
from fusions.result import Result

MAX_PRIOR_DRAWS = 20  # per live point, while looking for points of non-zero likelihood
N_REPEATS = 4  # points evaluated twice to see whether a black-box likelihood is deterministic


class Ledger:
    """Grows level by level on the host: dead points, insertion ranks, history, cost."""

    def __init__(self):
        """Start empty."""
        self.x, self.logL, self.birth, self.blobs, self.uniforms = [], [], [], [], []
        self.trace = {k: [] for k in ("logL", "logX", "n_calls", "acceptance", "efficiency", "unmoved", "loss", "scale")}
        self.n_calls = 0
        self.seconds = dict.fromkeys(("likelihood", "training", "ode"), 0.0)
        self.start = time.perf_counter()

    def bury(self, x, logL, birth, blobs):
        """Append dead points."""
        for store, rows in ((self.x, x), (self.logL, logL), (self.birth, birth), (self.blobs, blobs)):
            store.append(rows)

    def elapsed(self):
        """Return the seconds since the start."""
        return time.perf_counter() - self.start


def default_kernel():
    """Make the default kernel: global and local flow moves, then a slice that does not trust the flow."""
    return Cycle((FlowKernel(n_moves=4), HitAndRun(n_slices=1)))


def nested_sampling(n_live=500, *, kernel=None, kill=0.1, precision=1e-2, **unknown):
    """Set up nested sampling with flow-matched replacements.

    Parameters
    ----------
    n_live : live points; the error of ln Z is about sqrt(D_KL / n_live).
    kernel : settings of the kernel, for example `kernels.FlowKernel(n_moves=8)`; None for the default cycle.
    kill : share of the live points replaced between two trainings.
    precision : stop when the live points hold less than this share of the evidence.

    Returns
    -------
    Settings for `run`.
    """
    if unknown:
        name = next(iter(unknown))
        known = ("n_live", "kernel", "kill", "precision")
        close = difflib.get_close_matches(name.replace("nlive", "n_live"), known, 1)
        hint = f"Did you mean {close[0]}?" if close else f"Options are {', '.join(known)}."
        raise OptionError(f"Unknown option {name!r} of nested. {hint}")
    if not isinstance(n_live, int) or n_live < 20:
        raise OptionError(f"Expected n_live to be an integer >= 20, got {n_live!r}. Type n_live=500 for a first run.")
    if not 0 < kill <= 0.5:
        raise OptionError(f"Expected 0 < kill <= 0.5, the share of live points replaced per level, got {kill!r}.")
    if not 0 < precision < 1:
        raise OptionError(f"Expected 0 < precision < 1, the evidence share at which to stop, got {precision!r}.")
    if kernel is not None and not hasattr(kernel, "build"):
        raise OptionError(f"Expected kernel settings such as FlowKernel() or Cycle((...)), got {kernel!r}.")
    return nested.Nested(n_live + n_live % 2, kernel or default_kernel(), float(kill), float(precision))


def run(problem, algorithm=None, *, key=0, max_calls=None, max_time=None, callback=None, progress=True):
    """Compute evidence and posterior of a problem.

    Parameters
    ----------
    problem : Problem
    algorithm : settings from `nested(...)`; None for its defaults.
    key : seed; the same seed gives the same result, bit for bit on one machine.
    max_calls : stop after this many likelihood evaluations.
    max_time : stop after this many seconds.
    callback : function of a `Snapshot`, called after each level; a true return value ends the run.
    progress : whether to show a progress bar.

    Returns
    -------
    Result; also after Ctrl-C or a limit, with a status that says so.

    Raises
    ------
    LikelihoodError
        If the likelihood fails; `error.result` holds what was computed before.
    """
    algorithm = algorithm if algorithm is not None else nested_sampling()
    _check_arguments(problem, algorithm, key, max_calls, max_time, callback)
    engine = make_engine(problem, algorithm)
    ledger = Ledger()
    rng = np.random.default_rng([key, 1])
    traces = sum(engine.traces.values())
    notes = []

    def finish(state, status):
        return _result(problem, algorithm, engine, ledger, state, status, key, notes, sum(engine.traces.values()) - traces)

    with Bar(shown=progress) as bar:
        bar.note(f"fusions: {problem.prior.dim} dimensions, {'traced (JAX)' if problem.traceable else 'hosted (black box)'} likelihood")
        k_start, k_loop = jax.random.split(jax.random.key(key))
        state, rate = _start(k_start, problem, algorithm, engine, ledger, notes)
        status, iteration = None, 0
        try:
            while status is None:
                status = _stop(state, algorithm, ledger, max_calls, max_time)
                if status is not None:
                    break
                state, level = _level(jax.random.fold_in(k_loop, iteration), rng, state, algorithm, engine, ledger, rate)
                iteration += 1
                _refuse_invalid(problem, engine, level)
                snapshot = _snapshot(iteration, state, level, ledger)
                bar.update(snapshot)
                if callback is not None and callback(snapshot):
                    status = Status.USER_RULE
        except KeyboardInterrupt:
            status = Status.INTERRUPTED
        except LikelihoodError as error:
            error.result = finish(state, Status.FAILED)
            raise
    return finish(state, status)


def _check_arguments(problem, algorithm, key, max_calls, max_time, callback):
    if not isinstance(problem, Problem):
        raise ProblemError(f"Expected a fusions.Problem, got {type(problem).__name__}. Type run(Problem(prior, loglikelihood)).")
    if not isinstance(algorithm, nested.Nested):
        raise OptionError(f"Expected fusions.nested(...), got {algorithm!r}. Type run(problem, fusions.nested(n_live=500)).")
    if algorithm.n_live < 2 * problem.prior.dim:
        raise OptionError(
            f"n_live = {algorithm.n_live} is too few for {problem.prior.dim} dimensions: expected at least twice the dimension. "
            f"Type n_live={max(500, 25 * problem.prior.dim)}.")
    if isinstance(key, bool) or not isinstance(key, int) or key < 0:
        raise OptionError(f"Expected key to be a non-negative integer seed, got {key!r}. Type key=0.")
    for name, value in (("max_calls", max_calls), ("max_time", max_time)):
        if value is not None and not value > 0:
            raise OptionError(f"Expected {name} > 0 or None, got {value!r}.")
    if callback is not None and not callable(callback):
        raise OptionError(f"Expected callback to be a function of a Snapshot, got {callback!r}.")


def _start(key, problem, algorithm, engine, ledger, notes):
    """Draw live points from the prior until enough have a likelihood above zero; zero-likelihood draws beyond go to the ledger.

    Returns
    -------
    NestedState, and seconds per likelihood row.
    """
    k_params, k_draw = jax.random.split(key)
    n = algorithm.n_live
    x, logL, blobs, seconds = [], [], [], []
    for i in range(MAX_PRIOR_DRAWS):
        x.append(np.asarray(problem.prior.sample(jax.random.fold_in(k_draw, i), n)))
        values, extra = _evaluate_chunks(engine, x[-1], nested.batch_size(algorithm)[1] * 2, seconds)
        ledger.n_calls += n
        reject_invalid(problem, engine.evaluator, x[-1], values)
        logL.append(values)
        blobs.append(extra)
        if np.isfinite(np.concatenate(logL)).sum() >= n:
            break
    x, logL, blobs = np.concatenate(x), np.concatenate(logL), np.concatenate(blobs)
    finite = np.isfinite(logL)
    if not finite.any():
        raise LikelihoodError(
            f"No finite log-likelihood in {len(logL):,} draws from the prior; expected some. Likely causes: a likelihood that returns "
            "-inf everywhere, a prior that does not cover the data's region, or a sign or unit error. Try the likelihood at a point "
            "where you know that it is positive.")
    if not problem.traceable and not problem.noisy:
        _check_deterministic(problem, engine, x[finite], logL[finite], ledger)
    notes += _suspicious(logL[finite])
    live = np.sort(np.argsort(~finite, kind="stable")[:n])
    last = live[-1] + 1 if finite.sum() >= n else len(logL)
    zero = np.setdiff1d(np.arange(last), live)
    ledger.bury(x[zero], logL[zero], np.full(len(zero), np.nan), blobs[zero])
    running = Running().kill(logL[zero], last) if len(zero) else Running()
    pick = np.random.default_rng(np.asarray(jax.random.key_data(k_params))).permutation(live)
    keys = jax.random.split(k_params)
    params = engine.init_params(keys, nested.populations(x[pick], np.zeros(n, bool)))
    birth = np.full(n, np.nan)
    return nested.NestedState(x[pick], logL[pick], birth, blobs[pick], running, params, engine.blank_info), np.median(seconds[1:])


def _evaluate_chunks(engine, x, size, seconds):
    """Evaluate rows in chunks of one shape, the last one padded; append the seconds per row of each chunk."""
    logL, blobs = [], []
    for i in range(0, len(x), size):
        rows = x[i : i + size]
        n = len(rows)
        if engine.evaluator.inside is not None:
            rows = np.concatenate([rows, np.repeat(rows[:1], size - n, axis=0)])
        clock = time.perf_counter()
        values, extra = engine.evaluator.rows(rows)
        seconds.append((time.perf_counter() - clock) / len(rows))
        logL.append(values[:n])
        blobs.append(extra[:n])
    return np.concatenate(logL), np.concatenate(blobs)


def _check_deterministic(problem, engine, x, logL, ledger):
    """Evaluate a few points again; a likelihood that gives other values is refused."""
    again, _ = engine.evaluator.rows(x[:N_REPEATS])
    ledger.n_calls += len(again)
    differ = again != logL[: len(again)]
    if differ.any():
        i = int(np.argmax(differ))
        where = describe(problem.prior.names, engine.evaluator.theta(x[i : i + 1])[0])
        raise LikelihoodError(
            f"The likelihood is not deterministic: {logL[i]!r}, then {again[i]!r} at {where}. Fix its random seed, or type "
            "Problem(..., noisy=True) to accept the noise; the evidence is then that of the noisy likelihood.")


def _suspicious(logL):
    """Warn of piles of equal values and of floors that stand in for zero likelihood."""
    values, counts = np.unique(logL, return_counts=True)
    notes = []
    if len(values) > 1 and counts.max() > 0.05 * len(logL):
        pile = values[np.argmax(counts)]
        notes.append(f"{counts.max() / len(logL):.0%} of the prior has log L = {pile:.6g} exactly: a plateau. It is handled, but look whether "
                     "an underflow or an error value of the likelihood makes it.")
    if logL.min() < -1e30:
        notes.append(f"log L as low as {logL.min():.3g}: if this stands for zero likelihood, return -inf instead.")
    for note in notes:
        warnings.warn(note, stacklevel=4)
    return notes


def _stop(state, algorithm, ledger, max_calls, max_time):
    """Return the status with which to stop now, or None."""
    if state.logL.min() == state.logL.max():
        return Status.PLATEAU
    if state.running.remaining(state.logL) < np.log(algorithm.precision):
        return Status.CONVERGED
    if max_calls is not None and ledger.n_calls >= max_calls:
        return Status.MAX_CALLS
    if max_time is not None and ledger.elapsed() >= max_time:
        return Status.MAX_TIME
    return None


def _level(key, rng, state, algorithm, engine, ledger, rate):
    """Do one level and enter its dead points, ranks, cost and history into the ledger, all together at its end."""
    training = 0.0

    def tune(*args):
        nonlocal training
        clock = time.perf_counter()
        params = jax.block_until_ready(engine.tune(*args))
        training = time.perf_counter() - clock
        return params

    clock = time.perf_counter()
    state, level = nested.step(key, rng, state, algorithm, tune, engine.walk)
    moving = time.perf_counter() - clock - training
    ledger.bury(level.dead_x, level.dead_logL, level.dead_birth, level.dead_blobs)
    ledger.uniforms.append(level.uniforms)
    likelihood = sum(rate * w.n_rows if np.isnan(w.seconds) else w.seconds for w in level.walks)
    ledger.n_calls += sum(w.n_calls for w in level.walks)
    ledger.seconds["training"] += training
    ledger.seconds["likelihood"] += min(likelihood, moving)
    ledger.seconds["ode"] += moving - min(likelihood, moving)
    return state, level


def _refuse_invalid(problem, engine, level):
    """Raise if a walk met a NaN or +inf likelihood."""
    for walk in level.walks:
        if walk.invalid_x is not None:
            x = walk.invalid_x[None]
            reject_invalid(problem, engine.evaluator, x, np.asarray([np.nan]))


def _snapshot(iteration, state, level, ledger):
    """Record the level's history and sum it up."""
    n_dead = len(level.dead_logL)
    calls = sum(w.n_calls for w in level.walks)
    infos = jax.tree.leaves(state.info, is_leaf=lambda i: hasattr(i, "accepted"))
    mean = lambda field: float(np.nanmean([np.mean(getattr(i, field)) for i in infos])) if infos else np.nan  # noqa: E731
    row = {"logL": level.threshold, "logX": state.running.logX, "n_calls": ledger.n_calls, "acceptance": mean("accepted"),
           "efficiency": n_dead / max(calls, 1), "unmoved": level.n_unmoved / n_dead, "loss": mean("loss"), "scale": float(np.mean(infos[0].scale))}
    for name, value in row.items():
        ledger.trace[name].append(value)
    return Snapshot(iteration, level.threshold, state.running.logX, state.running.logZ, state.running.remaining(state.logL),
                    ledger.n_calls, row["efficiency"], ledger.elapsed())


def _result(problem, algorithm, engine, ledger, state, status, key, notes, n_compilations):
    """Assemble the Result from the ledger and the live points."""
    x = np.concatenate([*ledger.x, state.x])
    blobs = np.concatenate([*ledger.blobs, state.blobs])
    theta = _parameters(engine, x)
    total = ledger.elapsed()
    seconds = {**ledger.seconds, "rest": total - sum(ledger.seconds.values()), "total": total}
    packages = ("fusions", "jax", "flax", "optax", "diffrax", "numpy")
    info = {"seed": key, "path": "traced" if problem.traceable else "hosted", "fingerprint": problem.fingerprint(), "warnings": notes,
            "settings": repr(algorithm), "versions": {name: version(name) for name in packages}}
    return Result(
        problem.names, len(problem.prior.names), dict(problem.labels or {}), np.concatenate([theta, blobs], axis=1),
        np.concatenate([*ledger.logL, state.logL]), np.concatenate([*ledger.birth, state.birth]), len(state.logL), status,
        np.concatenate([np.empty(0), *ledger.uniforms]), ledger.trace, ledger.n_calls, seconds, n_compilations,
        problem.prior.log_mass(jax.random.key(key)), info)


def _parameters(engine, x, size=1024):
    """Map internal coordinates (n, d) to parameters in chunks of one shape."""
    padded = np.concatenate([x, np.repeat(x[:1], -len(x) % size, axis=0)])
    return np.concatenate([engine.evaluator.theta(padded[i : i + size]) for i in range(0, len(padded), size)])[: len(x)]
