"""Nested sampling with batch deletion and replacements moved by kernels tuned on the complementary half."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fusions.evidence import Running, insertion_uniforms
from fusions.types import Population, Walkers


@dataclasses.dataclass(frozen=True)
class Nested:
    """Settings of nested sampling.

    Attributes
    ----------
    n_live : live points (even; an odd number is raised by one).
    kernel : settings of the kernel that makes replacements.
    kill : share of the live points replaced per level.
    precision : stop when the live points hold less than this share of the evidence.
    """

    n_live: int
    kernel: Any
    kill: float
    precision: float


class NestedState(NamedTuple):
    """Live points and the evidence so far, on the host. Points [0, n/2) are one half, [n/2, n) the other.

    Attributes
    ----------
    x : (n, d); logL, birth : (n,) float64, birth NaN for prior draws; blobs : (n, b).
    running : evidence so far.
    params : the kernel's parameters, one set per half along the leading axis.
    info : the kernel's last report per half of walkers.
    """

    x: np.ndarray
    logL: np.ndarray
    birth: np.ndarray
    blobs: np.ndarray
    running: Running
    params: Any
    info: Any


class Level(NamedTuple):
    """What one level did: the dead in order of log L, the insertion ranks as uniforms, the contour, unmoved chains, the walks."""

    dead_x: np.ndarray
    dead_logL: np.ndarray
    dead_birth: np.ndarray
    dead_blobs: np.ndarray
    uniforms: np.ndarray
    threshold: float
    n_unmoved: int
    walks: list


def batch_size(settings):
    """Return (deaths per level, chains per half): the halves share the deaths unevenly, so there is some slack."""
    deaths = max(1, round(settings.kill * settings.n_live))
    return deaths, int(np.ceil(deaths / 2 + 1.2 * np.sqrt(deaths)))


def halves(array):
    """View the live points' array (n, ...) as (2, n/2, ...)."""
    return array.reshape(2, len(array) // 2, *array.shape[1:])


def doomed(logL, deaths):
    """Mark the points that die: the lowest `deaths` and all that tie with the highest of them."""
    threshold = np.partition(logL, deaths - 1)[deaths - 1]
    return logL <= threshold, float(threshold)


def populations(x, dead):
    """Make the populations that the two kernels learn from: the survivors of each half, or all of it if they are too few."""
    weights = halves(~dead).astype(x.dtype)
    weights[weights.sum(1) < 2 * x.shape[1] + 2] = 1.0
    return Population(jnp.asarray(halves(x)), jnp.asarray(weights))


def starts(rng, dead, half):
    """Choose a surviving parent in the same half for every dead slot of that half; distinct ones as far as they go."""
    n = len(dead)
    mine = np.arange(n) // (n // 2) == half
    slots, parents = np.flatnonzero(dead & mine), np.flatnonzero(~dead & mine)
    if len(parents) == 0:
        parents = np.flatnonzero(~dead)
    rounds = -(-len(slots) // len(parents))
    return slots, np.concatenate([rng.permutation(parents) for _ in range(max(rounds, 1))])[: len(slots)]


def step(key, rng, state, settings, tune, walk):
    """Kill the lowest points, retrain, and replace them by walks from survivors.

    Parameters
    ----------
    key : random key of this level.
    rng : numpy Generator of the run.
    state : NestedState
    settings : Nested
    tune : (keys (2,), population, params, info) -> params, over both halves.
    walk : a driver's walk (key, params, walkers, threshold) -> Walk.

    Returns
    -------
    NestedState, Level
    """
    k_tune, k_walk = jax.random.split(key)
    deaths, chains = batch_size(settings)
    dead, threshold = doomed(state.logL, deaths)
    order = np.flatnonzero(dead)[np.argsort(state.logL[dead], kind="stable")]
    params = tune(jax.random.split(k_tune), populations(state.x, dead), state.params, state.info)
    plan = [starts(rng, dead, half) for half in (0, 1)]
    x, logL, blobs = state.x.copy(), state.logL.copy(), state.blobs.copy()
    walks, n_unmoved = [], 0
    for i in range(0, max(len(slots) for slots, _ in plan), chains):
        out = walk(jax.random.fold_in(k_walk, i), params, _walkers(state, plan, i, chains), threshold)
        walks.append(out)
        for half, (slots, _) in enumerate(plan):
            rows = slots[i : i + chains]
            x[rows], logL[rows] = out.x[half][: len(rows)], out.loglikelihood[half][: len(rows)]
            blobs[rows] = out.blobs[half][: len(rows)]
            n_unmoved += int((~out.moved[half][: len(rows)]).sum())
    uniforms = insertion_uniforms(rng, state.logL[~dead], logL[dead])
    level = Level(state.x[order], state.logL[order], state.birth[order], state.blobs[order], uniforms, threshold, n_unmoved, walks)
    birth = np.where(dead, threshold, state.birth)
    running = state.running.kill(state.logL[order], len(dead))
    return NestedState(x, logL, birth, blobs, running, params, walks[0].info), level


def _walkers(state, plan, i, chains):
    """Pack parents i..i+chains of both halves into fixed shapes; padding rows are inactive."""
    index = np.zeros((2, chains), int)
    active = np.zeros((2, chains), bool)
    for half, (_, parents) in enumerate(plan):
        rows = parents[i : i + chains]
        index[half, : len(rows)], active[half, : len(rows)] = rows, True
        index[half, len(rows) :] = parents[0] if len(parents) else 0
    dtype = state.x.dtype
    return Walkers(jnp.asarray(state.x[index]), jnp.asarray(state.logL[index], dtype), jnp.asarray(state.blobs[index], dtype),
                   jnp.asarray(active))
