"""Begin a run: draw live points from the prior and look whether the likelihood can be used."""

import time
import warnings

import jax
import numpy as np

from fusions.algorithms import nested
from fusions.errors import LikelihoodError
from fusions.evaluate import describe, evaluate_in_chunks, reject_invalid, reject_undefined
from fusions.evidence import Running

MAX_PRIOR_DRAWS = 20  # per live point, while looking for points of non-zero likelihood
N_REPEATS = 4  # points evaluated twice to see whether a black-box likelihood is deterministic
PILE = 0.05  # share of equal log L values that is worth a warning
FLOOR = -1e30  # log L below this looks like a stand-in for zero likelihood


def begin(key, problem, settings, engine, ledger):
    """Draw live points until enough have a likelihood above zero; draws of zero likelihood before the last of them die at once.

    Parameters
    ----------
    key : random key.
    problem, settings, engine, ledger : of the run.

    Returns
    -------
    NestedState; seconds per likelihood row; list of warnings.
    """
    k_params, k_draw, k_order = jax.random.split(key, 3)
    x, logL, blobs, seconds_per_row = _prior_draws(k_draw, problem, settings, engine, ledger)
    finite = np.isfinite(logL)
    if not finite.any():
        raise LikelihoodError(
            f"No finite log-likelihood in {len(logL):,} draws from the prior; expected some. Likely causes: a likelihood that returns "
            "-inf everywhere, a prior that does not cover the data's region, or a sign or unit error. Try the likelihood at a point "
            "where you know that it is positive."
        )
    if not (problem.traceable or problem.noisy):
        _check_deterministic(problem, engine, x[finite], logL[finite], ledger)
    n = settings.n_live
    live = np.sort(np.argsort(~finite, kind="stable")[:n])
    n_drawn = live[-1] + 1 if finite.sum() >= n else len(logL)
    zero = np.setdiff1d(np.arange(n_drawn), live)
    ledger.bury(x[zero], logL[zero], np.full(len(zero), np.nan), blobs[zero], np.full(len(zero), -1))
    running = Running().kill(logL[zero], n_drawn) if len(zero) else Running()
    live = live[np.asarray(jax.random.permutation(k_order, n))]
    pool, alive = nested.empty_pool(x[live]), np.ones(n, bool)
    params = tuple(
        engine.init_params(k, nested.population(x[live], alive, *pool[:2], np.inf, 1 - half))
        for half, k in enumerate(jax.random.split(k_params))
    )
    info = (engine.blank_info,) * 2
    state = nested.NestedState(
        x[live], logL[live], np.full(n, np.nan), blobs[live], *pool, running, 0.0, nested.least_effort(settings, 1.0), params, info
    )
    return state, seconds_per_row, _suspicious(logL[finite])


def _prior_draws(key, problem, settings, engine, ledger):
    """Draw and evaluate batches of n_live points until n_live have a finite log L or the limit is reached."""
    n, chunk = settings.n_live, nested.batch_size(settings)[1]
    x, columns, seconds = [], [], []

    def timed(rows):
        clock = time.perf_counter()
        out = engine.evaluator.rows(rows)
        seconds.append((time.perf_counter() - clock) / len(rows))
        return out

    for i in range(MAX_PRIOR_DRAWS):
        x.append(np.asarray(problem.prior.sample(jax.random.fold_in(key, i), n)))
        ledger.n_calls += n
        columns += evaluate_in_chunks(timed, x[-1], chunk) if problem.traceable else [timed(x[-1])]
        logL, blobs = (np.concatenate(column) for column in zip(*columns, strict=True))
        reject_invalid(problem, np.concatenate(x), logL)
        if np.isneginf(logL[-n:]).any():
            reject_undefined(problem, x[-1])
        if np.isfinite(logL).sum() >= n:
            break
    return np.concatenate(x), logL, blobs, float(np.median(seconds))


def _check_deterministic(problem, engine, x, logL, ledger):
    """Evaluate a few points again; a likelihood that gives other values is refused."""
    again, _ = engine.evaluator.rows(x[:N_REPEATS])
    ledger.n_calls += len(again)
    differ = again != logL[: len(again)]
    if differ.any():
        i = int(np.argmax(differ))
        raise LikelihoodError(
            f"The likelihood is not deterministic: {logL[i]!r}, then {again[i]!r} at {describe(problem, x[i])}. Fix its random seed, or "
            "type Problem(..., noisy=True) to accept the noise; the evidence is then that of the noisy likelihood."
        )


def _suspicious(logL):
    """Warn of piles of equal values and of floors that stand in for zero likelihood; returns the warnings."""
    values, counts = np.unique(logL, return_counts=True)
    notes, share = [], counts.max() / len(logL)
    if len(values) > 1 and share > PILE:
        notes.append(
            f"{share:.0%} of the prior draws have log L = {values[np.argmax(counts)]:.6g} exactly: a plateau. It is handled; see whether "
            "an underflow or an error value in the likelihood makes it."
        )
    if logL.min() < FLOOR:
        notes.append(f"log L is as low as {logL.min():.3g}: if this stands for zero likelihood, return -inf instead.")
    for note in notes:
        warnings.warn(note, stacklevel=6)
    return notes
