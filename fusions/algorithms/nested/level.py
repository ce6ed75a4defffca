"""Nested sampling with batch deletion and replacements moved by kernels tuned on the complementary half."""

import dataclasses
from typing import Any, NamedTuple

import jax
import numpy as np

from fusions.evidence.volumes import Running, insertion_uniforms
from fusions.types import Population, Walkers

POOL = 4  # visited points kept per live point
TARGET_CORRELATION = 0.22  # rank correlation of parents and replacements
CORRELATION_RATE, WALK_SCALE_RATE = 0.1, 0.5  # per level
FULL_POPULATION = 1000  # live points at which walks have their nominal length; fewer train worse flows and get longer walks
MAX_WALK_SCALE = {"cheap": 10.0, "expensive": 2.0}
UNTRAINED_WALK_FACTOR = 4.0  # walks are longer by up to this where the flow has not learned, which leaves them to local moves
MAX_WALK_FACTOR = 20.0  # longest walks then


@dataclasses.dataclass(frozen=True)
class Nested:
    """Settings of nested sampling.

    Attributes
    ----------
    n_live : live points (even; an odd number is raised by one).
    kernel : settings of the kernel that makes replacements.
    kill : share of the live points replaced per level; None until `schedule.settled`.
    precision : stop when the live points' volume, at their highest likelihood, holds less than this share of the evidence; None likewise.
    cost : "cheap" for long walks and accurate volumes, "expensive" for few likelihood calls.
    """

    n_live: int
    kernel: Any
    kill: float | None
    precision: float | None
    cost: str | None


class NestedState(NamedTuple):
    """Live points and the evidence so far, on the host. Points [0, n/2) are one half, [n/2, n) the other.

    Attributes
    ----------
    x : (n, d); logL, birth : (n,) float64, birth NaN for prior draws; blobs : (n, b).
    pool_x, pool_logL : (2, p, d), (2, p) points that the chains of each half visited lately, to train on; -inf where there is none.
    pool_next : place of the next entry, per half.
    running : evidence so far.
    parent_correlation : running estimate of the correlation between the log L ranks of parents and replacements.
    walk_scale : factor on the length of walks, steered by `parent_correlation`.
    params : parameters of the kernel that moves each half, learned from the other half.
    info : that kernel's last report, per half.
    """

    x: np.ndarray
    logL: np.ndarray
    birth: np.ndarray
    blobs: np.ndarray
    pool_x: np.ndarray
    pool_logL: np.ndarray
    pool_next: tuple
    running: Running
    parent_correlation: float
    walk_scale: float
    params: tuple
    info: tuple


class Level(NamedTuple):
    """What one level did: the dead in order of log L and their slots, ranks as uniforms, the contour, unmoved chains, the walks."""

    dead_x: np.ndarray
    dead_logL: np.ndarray
    dead_birth: np.ndarray
    dead_blobs: np.ndarray
    dead_slot: np.ndarray
    uniforms: np.ndarray
    threshold: float
    n_unmoved: int
    walks: list


def batch_size(settings):
    """Return (deaths per level, chains per half): the halves share the deaths unevenly, so there is some slack."""
    deaths = max(1, round(settings.kill * settings.n_live))
    return deaths, int(np.ceil(deaths / 2 + 1.2 * np.sqrt(deaths)))


def least_walk_scale(settings, skill):
    """Return the smallest factor on the length of walks: longer ones where calls are cheap and the flow is bad or has few points."""
    if settings.cost == "expensive":
        return 1.0
    nominal = min(max((FULL_POPULATION / settings.n_live) ** 1.5, 1.0), MAX_WALK_SCALE["cheap"])
    return min(nominal * (1 + UNTRAINED_WALK_FACTOR * (1 - skill)), MAX_WALK_FACTOR)


def skill_of(info):
    """Average how far the kernels' flows have learned; 1 where there is none."""
    skills = [report.skill for report in jax.tree.leaves(info, is_leaf=lambda leaf: hasattr(leaf, "skill"))]
    known = [float(value) for value in skills if not np.isnan(value)]
    return float(np.mean(known)) if known else 1.0


def half_slots(n, half):
    """Return the slots of one half of the live points."""
    return slice(0, n // 2) if half == 0 else slice(n // 2, n)


def select_deaths(logL, deaths):
    """Mark the points that die: the lowest `deaths` and all that tie with the highest of them; those on a top plateau stay."""
    threshold = np.partition(logL, deaths - 1)[deaths - 1]
    if threshold == logL.max():
        threshold = logL[logL < threshold].max()
    return logL <= threshold, float(threshold)


def empty_pool(x):
    """Make pool_x, pool_logL and pool_next for live points x (n, d)."""
    size = POOL * (len(x) // 2)
    return np.repeat(x[None, :1], 2, axis=0).repeat(size, axis=1), np.full((2, size), -np.inf), (0, 0)


def population(x, alive, pool_x, pool_logL, threshold, half):
    """Make the population that a kernel learns from: what one half owns above the contour.

    Its live points, and the points that its chains passed through and that are still above the contour: they sample the same
    constrained prior, and a flow needs many. If there are too few of both, the half's dying points are taken along.
    """
    slots = half_slots(len(x), half)
    own, visited = alive[slots].astype(x.dtype), (pool_logL[half] > threshold).astype(x.dtype)
    if own.sum() + visited.sum() < 2 * x.shape[1] + 2:
        own[:] = 1.0
    return Population(np.concatenate([x[slots], pool_x[half]]), np.concatenate([own, visited]))


def remember_trail(pool_x, pool_logL, place, parents_logL, out):
    """Write where chains stood, except at their ends, into a pool (p, d) from `place` on, round and round; returns the next place."""
    n_chains = len(parents_logL)
    x, logL = out.trail_x[:, :n_chains], out.trail_logL[:, :n_chains]
    new = np.isfinite(logL) & (logL != parents_logL) & (logL != out.logL[:n_chains])
    index = (place + np.arange(new.sum())) % len(pool_logL)
    pool_x[index], pool_logL[index] = x[new], logL[new]
    return int(place + new.sum()) % len(pool_logL)


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
    dead, threshold = select_deaths(state.logL, deaths)
    x, logL, blobs = state.x.copy(), state.logL.copy(), state.blobs.copy()
    pool_x, pool_logL, pool_next = state.pool_x.copy(), state.pool_logL.copy(), list(state.pool_next)
    params, info, alive, walks, n_unmoved = list(state.params), list(state.info), ~dead, [], 0
    before, after = [], []
    for half, k_half in enumerate(jax.random.split(key)):
        k_tune, k_walk = jax.random.split(k_half)
        params[half] = tune(k_tune, population(x, alive, pool_x, pool_logL, threshold, 1 - half), params[half], info[half])
        slots, parents = choose_parents(rng, dead, half)
        for i in range(0, len(slots), chains):
            rows = slots[i : i + chains]
            start = _walkers(state, parents[i : i + chains], chains)
            out = walk(jax.random.fold_in(k_walk, i), params[half], start, threshold)
            x[rows], logL[rows], blobs[rows] = out.x[: len(rows)], out.logL[: len(rows)], out.blobs[: len(rows)]
            pool_next[half] = remember_trail(pool_x[half], pool_logL[half], pool_next[half], state.logL[parents[i : i + chains]], out)
            info[half] = out.info
            walks.append(out)
            n_unmoved += int((~out.moved[: len(rows)]).sum())
        alive[slots] = True
        before.append(state.logL[parents])
        after.append(logL[slots])
    order = np.flatnonzero(dead)[np.argsort(state.logL[dead], kind="stable")]
    parent_correlation, walk_scale = steer(state, settings, info, state.logL[~dead], np.concatenate(before), np.concatenate(after))
    uniforms = insertion_uniforms(rng, state.logL[~dead], logL[dead])
    level = Level(state.x[order], state.logL[order], state.birth[order], state.blobs[order], order, uniforms, threshold, n_unmoved, walks)
    birth = np.where(dead, threshold, state.birth)
    running = state.running.kill(state.logL[order], len(dead))
    return NestedState(
        x, logL, birth, blobs, pool_x, pool_logL, tuple(pool_next), running, parent_correlation, walk_scale, tuple(params), tuple(info)
    ), level


def steer(state, settings, info, survivors, parents, children):
    """Update the correlation of replacements with their parents and the length of walks that keeps it near its target.

    Replacements that remember their parents keep the live points' fluctuations alive, which inflates the scatter of ln Z by about
    sqrt((1 + parent_correlation) / (1 - parent_correlation)).

    Parameters
    ----------
    state : NestedState
    settings : Nested
    info : the kernels' reports on the last walks.
    survivors, parents, children : log L of the live points that stay, of those that walks started from, of where they ended.

    Returns
    -------
    parent_correlation, walk_scale
    """
    ranks = [np.searchsorted(np.sort(survivors), logL, side="right") / len(survivors) - 0.5 for logL in (parents, children)]
    now = 12 * float(np.mean(ranks[0] * ranks[1]))
    parent_correlation = (1 - CORRELATION_RATE) * state.parent_correlation + CORRELATION_RATE * now
    walk_scale = min(state.walk_scale * np.exp(WALK_SCALE_RATE * (parent_correlation - TARGET_CORRELATION)), MAX_WALK_SCALE[settings.cost])
    return parent_correlation, max(walk_scale, least_walk_scale(settings, skill_of(info)))


def _walkers(state, parents, chains):
    """Pack parents into a batch of fixed size; padding rows are inactive."""
    index = np.full(chains, parents[0])
    index[: len(parents)] = parents
    dtype = state.x.dtype
    return Walkers(
        state.x[index],
        state.logL[index].astype(dtype),
        state.blobs[index].astype(dtype),
        np.arange(chains) < len(parents),
        np.asarray(state.walk_scale, dtype),
    )
