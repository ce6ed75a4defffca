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
    params : parameters of the kernel that moves each half, learned from the other half.
    info : that kernel's last report, per half.
    """

    x: np.ndarray
    logL: np.ndarray
    birth: np.ndarray
    blobs: np.ndarray
    running: Running
    params: tuple
    info: tuple


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


def half_slots(n, half):
    """Return the slots of one half of the live points."""
    return slice(0, n // 2) if half == 0 else slice(n // 2, n)


def doomed(logL, deaths):
    """Mark the points that die: the lowest `deaths` and all that tie with the highest of them."""
    threshold = np.partition(logL, deaths - 1)[deaths - 1]
    return logL <= threshold, float(threshold)


def population(x, alive, half):
    """Make the population that a kernel learns from: the points of one half that are alive, or all of it if they are too few."""
    slots = half_slots(len(x), half)
    weights = alive[slots].astype(x.dtype)
    if weights.sum() < 2 * x.shape[1] + 2:
        weights[:] = 1.0
    return Population(jnp.asarray(x[slots]), jnp.asarray(weights))


def choose_parents(rng, dead, half):
    """Choose a surviving parent in the same half for every dead slot of that half; distinct ones as far as they go.

    Returns
    -------
    slots, parents : indices (m,) of the dead and of the points that their replacements start from.
    """
    mine = np.zeros(len(dead), bool)
    mine[half_slots(len(dead), half)] = True
    slots, survivors = np.flatnonzero(dead & mine), np.flatnonzero(~dead & mine)
    if len(survivors) == 0:
        survivors = np.flatnonzero(~dead)
    rounds = -(-len(slots) // len(survivors))
    return slots, np.concatenate([np.empty(0, int), *(rng.permutation(survivors) for _ in range(rounds))])[: len(slots)]


def step(key, rng, state, settings, tune, walk):
    """Kill the lowest points and replace them: each half in turn by walks of a kernel tuned on the other half as it then is.

    Parameters
    ----------
    key : random key of this level.
    rng : numpy Generator of the run.
    state : NestedState
    settings : Nested
    tune : (key, population, params, info) -> params.
    walk : a driver's walk (key, params, walkers, threshold) -> Walk.

    Returns
    -------
    NestedState, Level
    """
    deaths, chains = batch_size(settings)
    dead, threshold = doomed(state.logL, deaths)
    x, logL, blobs = state.x.copy(), state.logL.copy(), state.blobs.copy()
    params, info, alive, walks, n_unmoved = list(state.params), list(state.info), ~dead, [], 0
    for half, k_half in enumerate(jax.random.split(key)):
        k_tune, k_walk = jax.random.split(k_half)
        params[half] = tune(k_tune, population(x, alive, 1 - half), params[half], info[half])
        slots, parents = choose_parents(rng, dead, half)
        for i in range(0, len(slots), chains):
            rows = slots[i : i + chains]
            start = _walkers(state, parents[i : i + chains], chains)
            out = walk(jax.random.fold_in(k_walk, i), params[half], start, threshold)
            x[rows], logL[rows], blobs[rows] = out.x[: len(rows)], out.loglikelihood[: len(rows)], out.blobs[: len(rows)]
            info[half] = out.info
            walks.append(out)
            n_unmoved += int((~out.moved[: len(rows)]).sum())
        alive[slots] = True
    order = np.flatnonzero(dead)[np.argsort(state.logL[dead], kind="stable")]
    uniforms = insertion_uniforms(rng, state.logL[~dead], logL[dead])
    level = Level(state.x[order], state.logL[order], state.birth[order], state.blobs[order], uniforms, threshold, n_unmoved, walks)
    birth = np.where(dead, threshold, state.birth)
    running = state.running.kill(state.logL[order], len(dead))
    return NestedState(x, logL, birth, blobs, running, tuple(params), tuple(info)), level


def _walkers(state, parents, chains):
    """Pack parents into a batch of fixed size; padding rows are inactive."""
    index = np.full(chains, parents[0])
    index[: len(parents)] = parents
    dtype = state.x.dtype
    return Walkers(jnp.asarray(state.x[index]), jnp.asarray(state.logL[index], dtype), jnp.asarray(state.blobs[index], dtype),
                   jnp.arange(chains) < len(parents))
