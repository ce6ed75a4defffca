"""Begin a run: draw live points from the prior and look whether the likelihood can be used."""

import time
import warnings
from typing import Any

import jax
import numpy as np

from fusions.algorithms.nested import level as nested
from fusions.algorithms.nested.level import Nested
from fusions.errors import LikelihoodError
from fusions.evidence.ledger import Ledger, Particles
from fusions.evidence.volumes import Running
from fusions.model.likelihood import describe, reject_invalid, reject_undefined
from fusions.model.problem import Problem
from fusions.numerics import generator_of, keys_of
from fusions.types import Array, Schedule

MAX_PRIOR_DRAWS = 20  # per live point, while looking for points of non-zero likelihood
N_REPEATS = 4  # points evaluated twice to see whether a black-box likelihood is deterministic
PILE = 0.05  # share of equal log L values that is worth a warning
FLOOR = -1e30  # log L at or below this looks like a stand-in for zero likelihood


def begin(key: Array, problem: Problem, algorithm: Nested, schedule: Schedule, engine: Any, ledger: Ledger):
    """Draw live points until enough have a likelihood above zero; draws of zero likelihood before the last of them die at once.

    Parameters
    ----------
    key : random key.
    problem, algorithm, schedule, engine, ledger : of the run.

    Returns
    -------
    NestedState; seconds per likelihood row; list of warnings.
    """
    k_params, k_draw, k_order = keys_of(key, 3)
    n = algorithm.n_live
    drawn, seconds_per_row = _prior_draws(k_draw, problem, n, nested.batch_size(n, schedule.kill)[1], engine.evaluator)
    logL, finite = drawn.logL, _above_floor(drawn.logL, n)
    if not finite.any():
        raise _nothing_found(logL)
    if not (problem.traceable or problem.noisy):
        _check_deterministic(problem, engine.evaluator, drawn.take(finite))
    live = np.sort(np.argsort(~finite, kind="stable")[:n])
    n_drawn = live[-1] + 1 if finite.sum() >= n else len(logL)
    zero = np.setdiff1d(np.arange(n_drawn), live)
    zero = zero[np.argsort(logL[zero], kind="stable")]
    ledger.append(drawn.take(zero), np.full(len(zero), -1))
    running = Running().kill(logL[zero], n_drawn) if len(zero) else Running()
    live = live[generator_of(k_order).permutation(n)]
    chosen = drawn.take(live)
    pool, alive = nested.Pool.empty(chosen.x), np.ones(n, bool)
    params = tuple(
        engine.init_params(k, nested.population(chosen.x, alive, pool, np.inf, 1 - half))
        for half, k in enumerate(jax.random.split(k_params))
    )
    controller = nested.Controller(0.0, nested.least_walk_scale(n, schedule, 1.0))
    state = nested.NestedState(chosen, pool, running, controller, params, (engine.blank_info,) * 2)
    return state, seconds_per_row, _suspicious(logL[np.isfinite(logL)])


def _prior_draws(key, problem, n, chunk, evaluator):
    """Draw and evaluate batches of n points until n have a log L above the floor or the limit is reached.

    Parameters
    ----------
    key : random key; problem : Problem.
    n : live points; chunk : rows of a traced likelihood that are evaluated at once.
    evaluator : Evaluator

    Returns
    -------
    Particles; seconds per likelihood row.
    """
    x, columns, seconds, at_once = [], [], [], chunk if problem.traceable else n
    for i in range(MAX_PRIOR_DRAWS):
        x.append(problem.prior.sample(jax.random.fold_in(key, i), n))
        clock = time.perf_counter()
        for column in evaluator.batches(x[-1], chunk):
            columns.append(column)
            seconds.append((time.perf_counter() - clock) / at_once)
            clock = time.perf_counter()
        logL, blobs = (np.concatenate(column) for column in zip(*columns, strict=True))
        if not np.isfinite(logL[-n:]).all():
            reject_undefined(problem, x[-1])
        reject_invalid(problem, np.concatenate(x), logL)
        if _above_floor(logL, n).sum() >= n:
            break
    return Particles(np.concatenate(x), logL, np.full(len(logL), np.nan), blobs), float(np.median(seconds))


def _above_floor(logL, n):
    """Mark finite values (m,) above the floor, at or below which draws die at once, as those of zero likelihood do.

    It is the highest value that is repeated and as low as `FLOOR`, or else the lowest value if the first n draws all have it. A likelihood
    that has that one at all draws is constant.
    """
    finite = np.isfinite(logL)
    values, counts = np.unique(logL[finite], return_counts=True)
    floors = values[(values <= FLOOR) & (counts > 1)]
    if len(floors):
        return finite & (logL > floors[-1])
    if len(values) and np.all(logL[:n] == values[0]) and (len(values) > 1 or len(logL) < MAX_PRIOR_DRAWS * n):
        return finite & (logL > values[0])
    return finite


def _nothing_found(logL):
    """Return the error for draws from the prior (n,) of which none has a likelihood above zero."""
    came = "log L = -inf" if not np.any(np.isfinite(logL)) else f"log L = {np.max(logL):.6g}, which looks like a stand-in for -inf,"
    return LikelihoodError(
        f"No finite log-likelihood in {len(logL):,} draws from the prior: {came} at all of them; expected some above that. Likely causes: "
        "a prior that does not cover the data's region or covers so much more that no draw comes near it, a sign or unit error, or an "
        "exception that the likelihood turns into this value. Try the likelihood at a point where you know that it is positive."
    )


def _check_deterministic(problem, evaluator, particles):
    """Evaluate a few particles again; a likelihood that gives other values is refused."""
    x, logL = particles.x, particles.logL
    again = next(evaluator.batches(x[:N_REPEATS], N_REPEATS))[0]
    differ = again != logL[: len(again)]
    if differ.any():
        i = int(np.argmax(differ))
        raise LikelihoodError(
            f"The likelihood is not deterministic: {float(logL[i])!r}, then {float(again[i])!r} at {describe(problem, x[i])}. Fix its "
            "random seed, or type Problem(..., noisy=True) to accept the noise; the evidence is then that of the noisy likelihood."
        )


def _suspicious(logL):
    """Warn of piles of equal values and of floors that stand in for zero likelihood; returns the warnings."""
    values, counts = np.unique(logL, return_counts=True)
    notes, share, pile = [], counts.max() / len(logL), values[np.argmax(counts)]
    if len(values) == 1:
        notes.append(f"The likelihood seems to be constant: log L = {values[0]:.6g} at all {len(logL):,} draws from the prior.")
    elif share > PILE and pile > FLOOR:
        notes.append(
            f"{100 * share:.3g} % of the prior draws have log L = {pile:.6g} exactly: a plateau. It is handled; see "
            "whether an underflow or an error value in the likelihood makes it."
        )
    if logL.min() <= FLOOR:
        notes.append(f"log L is as low as {logL.min():.3g}: if this stands for zero likelihood, return -inf instead.")
    for note in notes:
        warnings.warn(note, stacklevel=6)
    return notes
