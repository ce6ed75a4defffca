"""Checks of the final draws: bridge sampling, what chains see that draws miss, and what each stage by itself says of ln Z."""

from typing import Any, NamedTuple

import numpy as np

from fusions.algorithms.refine.chains import Chains
from fusions.algorithms.refine.draws import Draws, Ensemble, Evaluate, RefineFunctions, logq
from fusions.algorithms.refine.known import Known
from fusions.algorithms.refine.mode_draws import Drawn, Search
from fusions.algorithms.refine.modes import follow
from fusions.algorithms.refine.settings import BATCH
from fusions.evidence.importance import Importance, bridge, importance
from fusions.numerics import generator_of
from fusions.types import Array

N_BOOTSTRAP = 64
THIN = 3.0  # ln of the ratio of posterior and draws above which draws are too thin
HIGHER = 1.0  # nats above all points before, from which on the highest draw is followed
FOLLOWED = 200  # likelihood calls per dimension, and d^2 and a batch, that this may take


class Find(NamedTuple):
    """An estimate of ln Z from draws of a known density, and its heaviest draw.

    Attributes
    ----------
    name : where the draws are from; estimate : Importance.
    u : (d,), logL : of the draw of the largest weight.
    """

    name: str
    estimate: Importance
    u: np.ndarray
    logL: float


class Bridged(NamedTuple):
    """Bridge sampling between chains and draws.

    Attributes
    ----------
    bridge : (ln Z, error).
    coverage : ln(Z_importance / Z_bridge), ln of the posterior mass that the flows cover, and its error.
    missed_mass : part of the posterior that chains see where draws are too thin, beyond what these draws hold there.
    """

    bridge: tuple
    coverage: tuple
    missed_mass: float


def bridged(key: Array, functions: RefineFunctions, flows: Ensemble, chains: Chains, final: Any):
    """Bridge the chains of each fold with the flows of the other; errors by resampling chains and draws.

    Chains share ancestors, so that resampling them misses an error of mode masses; the difference of the folds, which share none, is
    added in quadrature.

    Parameters
    ----------
    key : random key.
    functions : RefineFunctions; flows : Ensemble; chains : Chains; final : Round.

    Returns
    -------
    Bridged
    """
    folds, draws, rng = [], final.draws, generator_of(key)
    for fold in (0, 1):
        u, logL, chain = chains.of_fold(fold)
        logw = functions.logprior(u) + logL - logq(functions, flows, 1 - fold, u)
        folds.append((chain, logw, draws.logw_own[draws.fold == 1 - fold]))
    parts = [bridge(logw, np.ones(len(logw)), theirs) for _, logw, theirs in folds]
    logZ, scatter = np.mean(parts), abs(parts[1] - parts[0]) / 2
    replicas = np.array([_replica(rng, folds, draws) for _ in range(N_BOOTSTRAP)])
    spread = replicas[:, 0].std(ddof=1)
    gap = (replicas[:, 1] - replicas[:, 0]).std(ddof=1)
    return Bridged(
        (float(logZ), float(np.hypot(spread, scatter))),
        (float(final.estimate.logZ - logZ), float(np.hypot(gap, scatter))),
        missed_mass([(logw, theirs) for _, logw, theirs in folds], final.estimate.logZ),
    )


def _replica(rng, folds, draws):
    """Return ln Z by bridge and by importance sampling with resampled chains and draws."""
    noise, top = rng.standard_exponential(len(draws.logw)), draws.logw.max()
    values = [
        bridge(logw, rng.standard_exponential(chain.max() + 1)[chain], theirs, noise[draws.fold == 1 - fold])
        for fold, (chain, logw, theirs) in enumerate(folds)
    ]
    return np.mean(values), np.log(noise @ np.exp(draws.logw - top) / noise.sum()) + top


def missed_mass(pairs: list, logZ: float):
    """Compute the part of the posterior that chains see where draws are too thin, beyond what the draws hold there.

    Parameters
    ----------
    pairs : for each fold log(prior L / q) of its chains, and of draws of the density q.
    logZ : ln of the evidence by importance sampling.

    Returns
    -------
    float, at least 0
    """
    seen = [np.mean(chains - logZ > THIN) for chains, _ in pairs]
    held = [np.sum(np.exp(draws[draws - logZ > THIN] - logZ)) / len(draws) for _, draws in pairs]
    return float(max(np.mean(seen) - np.mean(held), 0.0))


def finds_of(surveyed: Drawn, rounds: list[Draws], draws: Draws):
    """List what the survey of modes, each of the rounds and the final draws say of ln Z by themselves; not those that hold nothing.

    The laws of the survey were fitted to the draws that they weigh, so that the error of its estimate is not to be trusted.

    Parameters
    ----------
    surveyed : Drawn; rounds : list of Draws; draws : the final Draws.
    """
    first = [find._replace(estimate=find.estimate._replace(khat=np.inf)) for find in _find("the survey of modes", surveyed)]
    named = [*((f"round {i}", made) for i, made in enumerate(rounds, start=1)), ("the final draws", draws)]
    return first + [find for name, made in named for find in _find(name, made)]


def _find(name, draws):
    """Return a list of the `Find` of draws, empty if they hold nothing."""
    if not np.any(np.isfinite(draws.logw)):
        return []
    i = int(np.argmax(draws.logw))
    return [Find(name, importance(draws.logw), draws.u[i], float(draws.logL[i]))]


def search_around_highest(key: Array, known: Known, evaluate: Evaluate, made: list[Draws], left: float):
    """Follow the highest of the places of chains and of all draws if it is higher than what was known before.

    Flows need not have learned from a draw that is alone on a narrow peak, and its weight says little of the peak's mass.

    Parameters
    ----------
    key : random key; known : Known; evaluate : Evaluate.
    made : list of all Draws; left : likelihood calls that may be spent.

    Returns
    -------
    list of the `Find`, empty if there was nothing to follow.
    """
    chains, points = known.chains, known.points
    u, logL = np.concatenate([chains.u.reshape(-1, chains.u.shape[-1]), *(draws.u for draws in made)]), chains.logL.ravel()
    logL = np.concatenate([logL, *(np.where(np.isfinite(draws.logw), draws.logL, -np.inf) for draws in made)])
    top, d = int(np.argmax(logL)), u.shape[1]
    beyond = logL[top] >= max(evaluate.highest, points.logL.max()) + HIGHER
    if not beyond or left < FOLLOWED * d + d**2 + BATCH or known.budget.expired():
        return []
    spread = np.asarray(points.x, np.float64).std(axis=0)
    search = Search(evaluate, known.functions.space, left, known.budget.expired)
    around = follow(key, BATCH, np.asarray(u[top], np.float64), spread, search)
    return _find("a search around the highest point", around)
