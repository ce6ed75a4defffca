"""Training sets of the refine phase: what the flows of each fold are fitted to."""

from collections.abc import Callable

import jax
import numpy as np

from fusions.algorithms.refine.draws import Draws
from fusions.algorithms.refine.known import Known
from fusions.evidence.volumes import Points, tempered
from fusions.numerics import effective_sample_size, generator_of, logsumexp, normalised, systematic_resample
from fusions.types import Array

ROWS = 8192  # of a training set
TARGETS = ((0.85, 1.0), (0.15, 0.5))  # shares of the training set, powers of the likelihood: what fits the second bounds the weights
NECK = 2.0  # times the spread of log L under a Gaussian posterior, above which narrow parts hold much of it
NECK_SHARE = 0.25  # of the training set then
NECK_REACH = 1.3  # its power of the likelihood is 1 + this / spread of log L
MODE_SHARE = 0.15  # of all these, and of the starts of chains, in equal parts from the modes found, if they hold the whole posterior
NESTED_TRUST = 0.25  # weight of nested points and of chains relative to their effective size


def train(key: Array, known: Known, states: tuple, rounds: list[Draws], *, with_velocity: bool):
    """Fit each flow to the points and chains of its fold and to the draws of the rounds, at the powers of `targets_of`.

    At each power a set of points counts by its effective size; nested points and chains by less, since masses of modes drift and places
    of a chain depend on each other. Chains count at the posterior alone: few of them would carry a wider target. The modes found count
    alike.

    Parameters
    ----------
    key : random key.
    known : Known; states : a pair of flow states, one of each fold; rounds : list of Draws.
    with_velocity : whether the velocity field is trained too.

    Returns
    -------
    The pair of states, fitted.
    """
    points, found, functions = known.points, known.found, known.functions
    out = []
    for fold, k_fold in enumerate(jax.random.split(key)):
        k_rows, k_fit = jax.random.split(k_fold)
        nested = points.fold == fold
        chain_u = known.chains.thinned().of_fold(fold)[0]
        x = np.concatenate([points.x[nested], chain_u, *(r.u for r in rounds)])
        target = np.full(len(x), -np.inf)
        for share, beta in targets_of(points):
            seen = _shared(tempered(points.logw, points.logL, beta)[nested]) + np.log(NESTED_TRUST)
            sets = [
                np.logaddexp(seen, _shared(tempered(found.logw_mass, points.logL, beta)[nested]) + np.log(found.mode_fraction + 1e-300))
            ]
            sets += [np.full(len(chain_u), np.log(NESTED_TRUST) if beta == 1 else -np.inf)]
            sets += [_shared(_truncated(tempered(r.logw, r.logL, beta))) for r in rounds]
            target = np.logaddexp(target, normalised(np.concatenate(sets)) + np.log(share))
        equal = np.pad(found.logw_equal[nested], (0, len(x) - nested.sum()), constant_values=-np.inf)
        target = blended(target, equal, MODE_SHARE * found.mode_fraction)
        out.append(functions.fit(k_fit, states[fold], training_rows(k_rows, x, target, functions.held_out), with_velocity=with_velocity))
    return tuple(out)


def targets_of(points: Points):
    """Choose the shares of the training set and their powers of the likelihood.

    In a funnel the narrow parts hold the highest likelihoods, too few rows of the posterior for a covariance, and densities that are
    too wide there leave a few draws with huge weights. Points of the nested run are as many there as elsewhere: a power above one shows
    them. log L of a Gaussian posterior in d dimensions has the variance d/2.
    """
    w = np.exp(normalised(points.logw))
    logL = np.where(w > 0, points.logL, 0.0)
    spread = np.sqrt(w @ (logL - w @ logL) ** 2)
    if spread < NECK * np.sqrt(points.x.shape[1] / 2):
        return TARGETS
    return *(((1 - NECK_SHARE) * share, beta) for share, beta in TARGETS), (NECK_SHARE, 1 + NECK_REACH / spread)


def blended(logw: np.ndarray, other: np.ndarray, share: float):
    """Give other log weights (n,) a share of normalised ones.

    Parameters
    ----------
    logw : (n,), normalised; other : (n,).
    share : between 0 and 1, of the other ones.
    """
    return logw if share == 0 else np.logaddexp(logw + np.log(1 - share), normalised(other) + np.log(share))


def _shared(logw):
    """Normalise log weights so that their sum is their effective sample size."""
    return normalised(logw) + np.log(effective_sample_size(logw)) if np.any(np.isfinite(logw)) else logw


def _truncated(logw):
    """Truncate weights at sqrt(n) times their mean (Ionides 2008, doi:10.1198/106186008X320456)."""
    n = len(logw)
    return np.minimum(logw, logsumexp(logw) - np.log(n) + 0.5 * np.log(n))


def training_rows(key: Array, x: np.ndarray, logw: np.ndarray, held_out: Callable):
    """Resample weighted points (n, d) to a fixed number of rows; the slots that a fit holds out have sources of their own.

    Parameters
    ----------
    key : random key.
    x : (n, d); logw : (n,) log weights.
    held_out : n -> flags (n,) of the rows that a fit does not train on.
    """
    rng = generator_of(key)
    held, slots = held_out(len(x))[rng.permutation(len(x))], held_out(ROWS)
    index = np.empty(ROWS, int)
    for source, slot in ((held, slots), (~held, ~slots)):
        pick = np.flatnonzero(source)
        index[slot] = rng.permutation(pick[systematic_resample(rng, logw[pick], slot.sum())])
    return x[index]
