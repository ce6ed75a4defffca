"""Refine an evidence: fit flows to the posterior, draw from them, and estimate ln Z by importance and by bridge sampling.

The nested run's points form two folds, after the halves of the live points. Each fold trains one flow, and is the posterior sample that
bridge sampling sets against draws of the *other* flow. Draws come from the equal mixture of both; those of the adaptation rounds join
the training of the next, and the reported figures use fresh draws from frozen flows.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from fusions.estimators import Importance, bridge, importance
from fusions.evidence import bootstrap
from fusions.flows.mixture import MixtureCNF
from fusions.numerics import effective_sample_size, logsumexp, systematic_resample

TRAIN_ROWS = 8192  # rows of a training set
BRIDGE_ROWS = 2048  # posterior points per fold in the bridge
HOLD_EVERY = 8
BATCH = 1024
PAIR = 2 * BATCH  # a batch from each flow
LEAST_BUDGET = 10 * PAIR  # likelihood calls that a refine phase may spend after a short nested run
ROUND_SHARE = 0.05  # of the budget, per adaptation round
GOOD_SHARE = 0.5  # effective fraction of draws with which adaptation may end
N_BOOTSTRAP = 64
BROAD_SHARE = 0.15  # of the training set, from contours before the posterior's
BROAD_INFORMATION = 0.3  # their information, relative to that of the posterior
PATIENCE = 5  # rounds without a better effective fraction before adaptation ends


@dataclasses.dataclass(frozen=True)
class Refine:
    """Settings of the refine phase.

    Attributes
    ----------
    error : wanted standard error of ln Z by importance sampling [nats].
    max_rounds : most adaptation rounds.
    max_draws : most draws of the final estimate.
    flow : settings of the flows.
    """

    error: float = 0.015
    max_rounds: int = 12
    max_draws: int = 32 * BATCH
    flow: Any = MixtureCNF()


class Tools(NamedTuple):
    """Compiled functions of a refine phase.

    Attributes
    ----------
    init : key -> flow state.
    fit : (key, state, x (TRAIN_ROWS, d), weights) -> state.
    draw : (key, state) -> (x (BATCH, d), logq (BATCH,)).
    logq : (state, x (BATCH, d)) -> (BATCH,).
    target : x (BATCH, d) -> (logL (BATCH,), blobs, logprior (BATCH,), likelihood calls).
    logprior : x (n, d) -> (n,), of any length.
    """

    init: Callable
    fit: Callable
    draw: Callable
    logq: Callable
    target: Callable
    logprior: Callable


class Draws(NamedTuple):
    """Draws from the mixture of the two flows: x (n, d), logL, blobs, log(prior L / own flow), log(prior L / mixture), flow drawn from."""

    x: np.ndarray
    logL: np.ndarray
    blobs: np.ndarray
    logw_own: np.ndarray
    logw: np.ndarray
    flow: np.ndarray


class Refined(NamedTuple):
    """What the refine phase found.

    Attributes
    ----------
    importance : Importance estimate from the final draws.
    bridge : (ln Z, error).
    coverage : ln(Z_importance / Z_bridge), ln of the posterior mass that the flows cover, and its error.
    ode_error : rms difference of log q between the two directions of the ODE.
    rounds : (rounds, 3) ln Z, its error, and the effective fraction of the draws of each adaptation round.
    draws : the final `Draws`.
    """

    importance: Importance
    bridge: tuple
    coverage: tuple
    ode_error: float
    rounds: np.ndarray
    draws: Draws


def refine(key, rng, settings, tools, points, budget, spent, expired):
    """Run the refine phase.

    Parameters
    ----------
    key : random key.
    rng : numpy Generator.
    settings : Refine
    tools : Tools
    points : `Points` of the nested run.
    budget : likelihood calls that may be spent.
    spent : called with the number of likelihood calls when they are made.
    expired : () -> whether time is up; the final draws are still made.

    Returns
    -------
    Refined, or None if the budget does not allow two rounds.
    """
    per_round = PAIR * int(np.clip(budget * ROUND_SHARE / PAIR, 1, 4))
    if budget < 2 * per_round:
        return None
    k_init, k_rounds, k_final = jax.random.split(key, 3)
    states = [tools.init(k) for k in jax.random.split(k_init)]
    rounds, history = [], []
    for i in range(settings.max_rounds):
        k_fit, k_draw = jax.random.split(jax.random.fold_in(k_rounds, i))
        states = _train(k_fit, rng, tools, states, points, rounds)
        rounds.append(_draw(k_draw, tools, states, per_round, spent))
        now = importance(rounds[-1].logw)
        history.append((now.logZ, now.logZ_err, now.ess / per_round))
        budget -= per_round
        if _settled(history) or budget < 2 * per_round or expired():
            break
    k_fit, k_draw = jax.random.split(k_final)
    states = _train(k_fit, rng, tools, states, points, rounds)
    wanted = (1 / max(history[-1][2], 1e-9) - 1) / settings.error**2
    n = PAIR * max(int(np.ceil(min(wanted, settings.max_draws, budget) / PAIR)), 1)
    draws = _draw(k_draw, tools, states, n, spent)
    estimate = importance(draws.logw)
    bridged, coverage = _bridge(rng, tools, states, points, draws, estimate.logZ)
    return Refined(estimate, bridged, coverage, _ode_error(tools, states[0], draws), np.array(history), draws)


def _settled(history):
    """Decide whether adaptation may end: the last two rounds were good and agree, or there is no progress any more."""
    if len(history) < 2:
        return False
    (a, a_err, a_share), (b, b_err, b_share) = history[-2:]
    if min(a_share, b_share) > GOOD_SHARE and abs(a - b) < 3 * np.hypot(a_err, b_err):
        return True
    shares = [share for *_, share in history]
    return len(shares) > PATIENCE and max(shares[-PATIENCE:]) < 1.1 * max(shares[:-PATIENCE])


def _ode_error(tools, state, draws):
    """Compare log q of draws with log q computed back from where they ended."""
    x = draws.x[:BATCH]
    forward = tools.logprior(x) + draws.logL[:BATCH] - draws.logw_own[:BATCH]
    known = (draws.flow[:BATCH] == 0) & np.isfinite(forward)
    return float(np.sqrt(np.mean((forward - tools.logq(state, x))[known] ** 2))) if known.any() else np.inf


def _train(key, rng, tools, states, points, rounds):
    """Fit each flow to its fold: nested-sampling points and every second draw of the rounds, each set counting by its effective size."""
    out = []
    for fold, k in enumerate(jax.random.split(key)):
        mine = points.fold == fold
        x, logw = [points.x[mine], points.x[mine]], [_shared(points.logw[mine]), _shared(tempered(points)[mine])]
        logw[1] += np.log(BROAD_SHARE / (1 - BROAD_SHARE)) + logsumexp(logw[0]) - logsumexp(logw[1])
        for r in rounds:
            mine = np.arange(len(r.logw)) % 4 // 2 == fold
            x.append(r.x[mine])
            logw.append(_shared(_truncated(r.logw[mine])))
        x, logw = np.concatenate(x), np.concatenate(logw)
        out.append(tools.fit(k, states[fold], *_training_rows(rng, x, logw)))
    return out


def tempered(points):
    """Return the log weights (N,) of prior x L^beta, with the beta whose information is `BROAD_INFORMATION` of the posterior's.

    Regions that live points lost on their way to the posterior are still among the points of earlier contours.
    """
    finite = np.isfinite(points.logw)
    logL = np.where(finite, points.logL, 0.0)
    logmass = points.logw - logL

    def information(beta):
        logw = np.where(finite, logmass + beta * logL, -np.inf)
        logw -= logsumexp(logw)
        p = np.exp(logw)
        base = np.where(finite, logmass, -np.inf)
        return float(np.sum(p * np.where(p > 0, logw - base + logsumexp(base), 0.0))), logw

    low, high, whole = 0.0, 1.0, information(1.0)[0]
    for _ in range(40):
        beta = 0.5 * (low + high)
        low, high = (beta, high) if information(beta)[0] < BROAD_INFORMATION * whole else (low, beta)
    return information(beta)[1]


def _shared(logw):
    """Normalise log weights so that their sum is their effective sample size."""
    return logw - logsumexp(logw) + np.log(effective_sample_size(logw)) if np.any(np.isfinite(logw)) else logw


def _truncated(logw):
    """Truncate weights at sqrt(n) times their mean (Ionides 2008, doi:10.1198/106186008X320456)."""
    n = len(logw)
    return np.minimum(logw, logsumexp(logw) - np.log(n) + 0.5 * np.log(n))


def _training_rows(rng, x, logw):
    """Resample weighted points (n, d) to a fixed number of rows; the slots held out have sources of their own."""
    held = rng.permutation(len(x)) % HOLD_EVERY == 0
    slots = np.arange(TRAIN_ROWS) % HOLD_EVERY == 0
    index = np.empty(TRAIN_ROWS, int)
    for source, slot in ((held, slots), (~held, ~slots)):
        pick = np.flatnonzero(source)
        index[slot] = rng.permutation(pick[systematic_resample(rng, logw[pick], slot.sum())])
    return x[index], np.ones(TRAIN_ROWS, x.dtype)


def _draw(key, tools, states, n, spent):
    """Draw n points, alternate batches from the two flows, with their weights under the mixture."""
    parts = []
    for i in range(n // BATCH):
        x, logq = tools.draw(jax.random.fold_in(key, i), states[i % 2])
        other = tools.logq(states[1 - i % 2], x)
        logL, blobs, logprior, n_calls = tools.target(x)
        spent(n_calls)
        logp = np.where(np.isfinite(logprior), logprior + logL, -np.inf)
        mixture = np.logaddexp(logq, other) - np.log(2)
        parts.append(Draws(x, logL, blobs, logp - logq, logp - mixture, np.full(BATCH, i % 2)))
    return Draws(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _bridge(rng, tools, states, points, draws, logZ_importance):
    """Bridge each fold with the flow of the other; errors by resampling threads of live points, their volumes, and draws.

    Threads share ancestors, so that resampling them misses the drift of mode masses; the difference of the folds, which share none,
    is added in quadrature.
    """
    folds = []
    for fold in (0, 1):
        pick = np.flatnonzero((points.fold == fold) & np.isfinite(points.logw))
        pick = pick[systematic_resample(rng, points.logw[pick], BRIDGE_ROWS)]
        x = points.x[pick]
        logq = np.concatenate([tools.logq(states[1 - fold], x[i : i + BATCH]) for i in range(0, len(x), BATCH)])
        logw = tools.logprior(x) + points.logL[pick] - logq
        folds.append((pick, logw, draws.logw_own[draws.flow == 1 - fold]))
    parts = [bridge(logw, np.ones(len(pick)), theirs) for pick, logw, theirs in folds]
    logZ, scatter = np.mean(parts), abs(parts[1] - parts[0]) / 2
    replicas, w = [], np.exp(draws.logw - draws.logw.max())
    for weights in bootstrap(rng, points, N_BOOTSTRAP):
        noise = rng.standard_exponential(len(w))
        values = [
            bridge(logw, weights[pick] / np.exp(points.logw[pick]) + 1e-300, theirs, noise[draws.flow == 1 - fold])
            for fold, (pick, logw, theirs) in enumerate(folds)
        ]
        replicas.append((np.mean(values), np.log(noise @ w / noise.sum()) + draws.logw.max()))
    replicas = np.array(replicas)
    spread = replicas[:, 0].std(ddof=1)
    gap = (replicas[:, 1] - replicas[:, 0]).std(ddof=1)
    return (float(logZ), float(np.hypot(spread, scatter))), (float(logZ_importance - logZ), float(np.hypot(gap, scatter)))
