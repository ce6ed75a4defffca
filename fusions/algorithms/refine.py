"""Refine an evidence: fit flows to the posterior, draw from them, and estimate ln Z by importance and by bridge sampling.

The nested run's points form two folds, after the halves of the live points. Each fold trains one flow, and is the posterior sample that
bridge sampling sets against draws of the *other* flow. Draws come from the equal mixture of both; those of the adaptation rounds join
the training of the next, and the reported figures use fresh draws from frozen flows.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fusions.estimators import Importance, bridge, importance
from fusions.evidence import bootstrap
from fusions.flows.cnf import CNF
from fusions.flows.matching import Training
from fusions.numerics import effective_sample_size, logsumexp, systematic_resample

TRAIN_ROWS = 8192  # rows of a training set
BRIDGE_ROWS = 2048  # posterior points per fold in the bridge
HOLD_EVERY = 8
BATCH = 1024
N_BOOTSTRAP = 64


@dataclasses.dataclass(frozen=True)
class Refine:
    """Settings of the refine phase.

    Attributes
    ----------
    error : wanted standard error of ln Z by importance sampling [nats].
    max_rounds : most adaptation rounds.
    max_draws : most draws of the final estimate.
    wide_share, wide_scale : share of draws whose latent points are this much wider than normal, so that no weight is far above the rest.
    flow : settings of the flows.
    """

    error: float = 0.015
    max_rounds: int = 6
    max_draws: int = 32 * BATCH
    wide_share: float = 0.1
    wide_scale: float = 1.3
    flow: Any = CNF(width=128, ode_steps=8, training=Training(steps=100, rounds=15, patience=2, batch=256, learning_rate=2e-3, ema=0.98, jitter=0.03))


def heavy_ratio(z, share, scale, line):
    """Compute ln of the density of z (n, d) under (1 - share) N(0, 1) + share N(0, scale^2), relative to N(0, 1); on the line only."""
    z = z[:, line]
    wide = 0.5 * (1 - scale**-2) * jnp.sum(z**2, axis=1) - z.shape[1] * jnp.log(scale)
    return jnp.logaddexp(jnp.log1p(-share), jnp.log(share) + wide)


class Tools(NamedTuple):
    """Compiled functions of a refine phase.

    Attributes
    ----------
    init : key -> flow state.
    fit : (key, state, x (TRAIN_ROWS, d), weights) -> state.
    draw : (key, state) -> (x (BATCH, d), logq (BATCH,)).
    logq : (key, state, x (BATCH, d)) -> (BATCH,).
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
    volumes_difference : error of ln Z_importance - ln Z_volumes by bootstrap.
    ode_error : rms difference of log q between the two directions of the ODE.
    fractions : effective fraction of the draws, round by round.
    draws : the final `Draws`.
    states : the flows.
    """

    importance: Importance
    bridge: tuple
    coverage: tuple
    ode_error: float
    fractions: tuple
    draws: Draws
    states: tuple


def refine(key, rng, settings, tools, points, spent):
    """Run the refine phase.

    Parameters
    ----------
    key : random key.
    rng : numpy Generator.
    settings : Refine
    tools : Tools
    points : `Points` of the nested run.
    spent : called with the number of likelihood calls when they are made.

    Returns
    -------
    Refined
    """
    k_init, k_rounds, k_final = jax.random.split(key, 3)
    states = [tools.init(k) for k in jax.random.split(k_init)]
    rounds, fractions = [], []
    for i in range(settings.max_rounds):
        k_fit, k_draw = jax.random.split(jax.random.fold_in(k_rounds, i))
        states = _train(k_fit, rng, tools, states, points, rounds)
        rounds.append(_draw(k_draw, tools, states, 2 * BATCH, spent))
        fractions.append(effective_sample_size(rounds[-1].logw) / len(rounds[-1].logw))
        wanted = (1 / max(fractions[-1], 1e-9) - 1) / settings.error**2
        if wanted <= 2 * BATCH or (i > 1 and fractions[-1] < 1.1 * max(fractions[:-1])):
            break
    k_fit, k_draw = jax.random.split(k_final)
    states = _train(k_fit, rng, tools, states, points, rounds)
    n = 2 * BATCH * int(np.ceil(min(max(wanted, 1), settings.max_draws) / (2 * BATCH)))
    draws = _draw(k_draw, tools, states, n, spent)
    estimate = importance(draws.logw)
    bridged, coverage = _bridge(rng, tools, states, points, draws, estimate.logZ)
    back = tools.logq(k_final, states[0], draws.x[:BATCH])
    first = draws.flow[:BATCH] == 0
    own = (tools.logprior(draws.x[:BATCH]) + draws.logL[:BATCH] - draws.logw_own[:BATCH])[first]
    ode_error = float(np.sqrt(np.nanmean((np.where(np.isfinite(own), own, np.nan) - back[first]) ** 2)))
    return Refined(estimate, bridged, coverage, ode_error, tuple(fractions), draws, tuple(states))


def _train(key, rng, tools, states, points, rounds):
    """Fit each flow to its fold: nested-sampling points and every second draw of the rounds, each set counting by its effective size."""
    out = []
    for fold, k in enumerate(jax.random.split(key)):
        x, logw = [points.x[points.fold == fold]], [_shared(points.logw[points.fold == fold])]
        for r in rounds:
            mine = np.arange(len(r.logw)) % 4 // 2 == fold
            x.append(r.x[mine])
            logw.append(_shared(_truncated(r.logw[mine])))
        x, logw = np.concatenate(x), np.concatenate(logw)
        out.append(tools.fit(k, states[fold], *_training_rows(rng, x, logw)))
    return out


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
        k_draw, k_pull = jax.random.split(jax.random.fold_in(key, i))
        x, logq = tools.draw(k_draw, states[i % 2])
        other = tools.logq(k_pull, states[1 - i % 2], x)
        logL, blobs, logprior, n_calls = tools.target(x)
        spent(n_calls)
        logp = np.where(np.isfinite(logprior), logprior + logL, -np.inf)
        mixture = np.logaddexp(logq, other) - np.log(2)
        parts.append(Draws(x, logL, blobs, logp - logq, logp - mixture, np.full(BATCH, i % 2)))
    return Draws(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _bridge(rng, tools, states, points, draws, logZ_importance):
    """Bridge each fold with the flow of the other; errors by resampling threads of live points, their volumes, and draws."""
    folds = []
    for fold in (0, 1):
        pick = np.flatnonzero((points.fold == fold) & np.isfinite(points.logw))
        pick = pick[systematic_resample(rng, points.logw[pick], BRIDGE_ROWS)]
        x = points.x[pick]
        logq = np.concatenate([tools.logq(jax.random.key(fold), states[1 - fold], x[i : i + BATCH]) for i in range(0, len(x), BATCH)])
        logw = tools.logprior(x) + points.logL[pick] - logq
        folds.append((pick, logw, draws.logw_own[draws.flow == 1 - fold]))
    logZ = np.mean([bridge(logw, np.ones(len(pick)), theirs) for pick, logw, theirs in folds])
    replicas, w = [], np.exp(draws.logw - draws.logw.max())
    for weights in bootstrap(rng, points, N_BOOTSTRAP):
        noise = rng.standard_exponential(len(w))
        values = [bridge(logw, weights[pick] / np.exp(points.logw[pick]) + 1e-300, theirs, noise[draws.flow == 1 - f]) for f, (pick, logw, theirs) in enumerate(folds)]
        replicas.append((np.mean(values), np.log(noise @ w / noise.sum()) + draws.logw.max()))
    replicas = np.array(replicas)
    spread = replicas.std(axis=0, ddof=1)
    gap = (replicas[:, 1] - replicas[:, 0]).std(ddof=1)
    return (float(logZ), float(spread[0])), (float(logZ_importance - logZ), float(gap))
