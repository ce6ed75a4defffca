"""Nested sampling with batch deletion and replacements moved by kernels tuned on the complementary half."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from fusions.evidence.ledger import Particles
from fusions.evidence.volumes import Running, families, insertion_uniforms
from fusions.numerics import generator_of
from fusions.types import Array, Population, Schedule, Walkers

POOL = 4  # visited points kept per live point
TARGET_CORRELATION = 0.22  # rank correlation of parents and replacements
CORRELATION_RATE, WALK_SCALE_RATE = 0.1, 0.5  # per level
FULL_POPULATION = 1000  # live points at which walks have their nominal length; fewer train worse flows and get longer walks
MAX_WALK_FACTOR = 20.0  # longest walks of kernels whose flow has not learned


@dataclasses.dataclass(frozen=True)
class Nested:
    """Settings of nested sampling.

    Attributes
    ----------
    n_live : live points (even; an odd number is raised by one).
    kernel : settings of the kernel that makes replacements.
    kill : share of the live points replaced per level; None for that of the `Schedule`.
    precision : stop when the live points' volume, at their highest likelihood, holds less than this share of the evidence; None likewise.
    cost : "cheap" for long walks and accurate volumes, "expensive" for few likelihood calls, "auto" to time both; None to go by the path.
    """

    n_live: int
    kernel: Any
    kill: float | None
    precision: float | None
    cost: str | None


class Pool(NamedTuple):
    """Points that the chains of each half visited lately, to train on.

    Attributes
    ----------
    x : (2, p, d); logL : (2, p), -inf where there is none.
    place : of the next entry, per half.
    """

    x: np.ndarray
    logL: np.ndarray
    place: tuple[int, int]

    @classmethod
    def empty(cls, x: np.ndarray):
        """Make the pool of live points x (n, d), with room for `POOL` each."""
        size = POOL * (len(x) // 2)
        return cls(np.repeat(x[None, :1], 2, axis=0).repeat(size, axis=1), np.full((2, size), -np.inf), (0, 0))

    def with_trail(self, half: int, parents_logL: np.ndarray, walk: Any):
        """Write where the chains (m,) of one half stood, except at their ends, from `place` on, round and round.

        Parameters
        ----------
        half : 0 or 1, which moved.
        parents_logL : (m,) log L of the points that the chains started from.
        walk : Walk of these chains.
        """
        x, logL, place = self.x.copy(), self.logL.copy(), list(self.place)
        new = np.isfinite(walk.trail_logL) & (walk.trail_logL != parents_logL) & (walk.trail_logL != walk.logL)
        index = (place[half] + np.arange(new.sum())) % logL.shape[1]
        x[half, index], logL[half, index] = walk.trail_x[new], walk.trail_logL[new]
        place[half] = int(place[half] + new.sum()) % logL.shape[1]
        return Pool(x, logL, (place[0], place[1]))


class Controller(NamedTuple):
    """What steers the length of walks.

    Attributes
    ----------
    parent_correlation : running estimate of the correlation between the log L ranks of parents and replacements.
    walk_scale : factor on the length of walks.
    """

    parent_correlation: float
    walk_scale: float


class NestedState(NamedTuple):
    """Live points and the evidence so far, on the host. Points [0, n/2) are one half, [n/2, n) the other.

    Attributes
    ----------
    live : Particles of the n live points.
    pool : Pool
    running : evidence so far.
    controller : Controller
    params : parameters of the kernel that moves each half, learned from the other half.
    info : that kernel's last report, per half.
    """

    live: Particles
    pool: Pool
    running: Running
    controller: Controller
    params: tuple
    info: tuple


class Level(NamedTuple):
    """What one level did.

    Attributes
    ----------
    dead : Particles that died, the lowest log L first; slot : (m,) their places among the live points.
    uniforms : insertion ranks of the replacements as values in [0, 1).
    threshold : log L of the contour [nats].
    n_unmoved : replacements that never moved.
    walks : `Walk` of each batch of chains.
    """

    dead: Particles
    slot: np.ndarray
    uniforms: np.ndarray
    threshold: float
    n_unmoved: int
    walks: list


def batch_size(n_live: int, kill: float):
    """Return (deaths per level, chains per half): the halves share the deaths unevenly, so there is some slack."""
    deaths = max(1, round(kill * n_live))
    return deaths, int(np.ceil(deaths / 2 + 1.2 * np.sqrt(deaths)))


def least_walk_scale(n_live: int, schedule: Schedule, skill: float):
    """Return the smallest factor on the length of walks: longer ones where calls are cheap and the flow is bad or has few points.

    Parameters
    ----------
    n_live : number of live points; schedule : Schedule.
    skill : of the flow, between 0 and 1.
    """
    nominal = min(max((FULL_POPULATION / n_live) ** 1.5, 1.0), schedule.max_nominal_scale)
    return min(nominal * (1 + schedule.untrained_walk_factor * (1 - skill)), MAX_WALK_FACTOR)


def skill_of(info: Any):
    """Average how far the kernels' flows have learned; 1 where there is none."""
    skills = [report.skill for half in info for report in half.reports()]
    known = [float(value) for value in skills if not np.isnan(value)]
    return float(np.mean(known)) if known else 1.0


def half_slots(n: int, half: int):
    """Return the slots of one half of the live points."""
    return slice(0, n // 2) if half == 0 else slice(n // 2, n)


def select_deaths(logL: np.ndarray, deaths: int):
    """Mark the points that die: the lowest `deaths` and all that tie with the highest of them; those on a top plateau stay."""
    threshold = np.partition(logL, deaths - 1)[deaths - 1]
    if threshold == logL.max():
        threshold = logL[logL < threshold].max()
    return logL <= threshold, float(threshold)


def population(x: np.ndarray, alive: np.ndarray, pool: Pool, threshold: float, half: int):
    """Make the population that a kernel learns from: what one half owns above the contour.

    Its live points, and the points that its chains passed through and that are still above the contour: they sample the same
    constrained prior, and a flow needs many. If there are too few of both, the half's dying points are taken along.

    Parameters
    ----------
    x : (n, d) live points; alive : (n,) flags.
    pool : Pool
    threshold : log L of the contour [nats].
    half : 0 or 1, which learns.

    Returns
    -------
    Population
    """
    slots = half_slots(len(x), half)
    own, visited = alive[slots].astype(x.dtype), (pool.logL[half] > threshold).astype(x.dtype)
    if own.sum() + visited.sum() < 2 * x.shape[1] + 2:
        own[:] = 1.0
    return Population(np.concatenate([x[slots], pool.x[half]]), np.concatenate([own, visited]))


def choose_parents(key: Array, dead: np.ndarray, half: int):
    """Choose a surviving parent of the same family for every dead slot of a half; distinct ones as far as they go.

    A family that has died out takes parents of its half, or of all.

    Parameters
    ----------
    key : random key.
    dead : (n,) flags; half : 0 or 1.

    Returns
    -------
    slots, parents : indices (m,) of the dead and of the points that their replacements start from.
    """
    mine, family, rng = np.zeros(len(dead), bool), families(len(dead)), generator_of(key)
    mine[half_slots(len(dead), half)] = True
    parents = np.full(len(dead), -1)
    for number in np.unique(family[mine]):
        slots = np.flatnonzero(dead & (family == number))
        pools = (~dead & (family == number), ~dead & mine, ~dead)
        survivors = next(np.flatnonzero(pool) for pool in pools if pool.any())
        rounds = -(-len(slots) // len(survivors))
        parents[slots] = np.concatenate([np.empty(0, int), *(rng.permutation(survivors) for _ in range(rounds))])[: len(slots)]
    slots = np.flatnonzero(dead & mine)
    return slots, parents[slots]


def step(key: Array, state: NestedState, algorithm: Nested, schedule: Schedule, tune: Callable, walk: Callable):
    """Kill the lowest points and replace them: each half in turn by walks of a kernel tuned on the other half as it then is.

    Parameters
    ----------
    key : random key of this level.
    state : NestedState
    algorithm : Nested
    schedule : Schedule
    tune : (key, population, params, info) -> params.
    walk : a driver's walk (key, params, walkers, threshold) -> Walk.

    Returns
    -------
    NestedState, Level
    """
    deaths, n_chains = batch_size(algorithm.n_live, schedule.kill)
    dead, threshold = select_deaths(state.live.logL, deaths)
    live, pool, alive, params, info = state.live, state.pool, ~dead, list(state.params), list(state.info)
    walks, slots, parents = [], [], []
    *k_halves, k_ranks = jax.random.split(key, 3)
    for half, k_half in enumerate(k_halves):
        k_tune, k_walk, k_parents = jax.random.split(k_half, 3)
        params[half] = tune(k_tune, population(live.x, alive, pool, threshold, 1 - half), params[half], info[half])
        mine, starts = choose_parents(k_parents, dead, half)
        slots.append(mine)
        parents.append(state.live.logL[starts])
        for i in range(0, len(mine), n_chains):
            rows = mine[i : i + n_chains]
            walkers = _walkers(state, starts[i : i + n_chains], n_chains)
            walks.append(_first(len(rows), walk(jax.random.fold_in(k_walk, i), params[half], walkers, threshold)))
            live = live.put(rows, Particles(walks[-1].x, walks[-1].logL, np.full(len(rows), threshold), walks[-1].blobs))
            pool, info[half] = pool.with_trail(half, parents[half][i : i + n_chains], walks[-1]), walks[-1].info
        alive[mine] = True
    order, survivors = np.flatnonzero(dead)[np.argsort(state.live.logL[dead], kind="stable")], state.live.logL[~dead]
    r = rank_correlation(survivors, np.concatenate(parents), live.logL[np.concatenate(slots)])
    controller = steer(state.controller, r, schedule, least_walk_scale(algorithm.n_live, schedule, skill_of(info)))
    uniforms = insertion_uniforms(generator_of(k_ranks), survivors, live.logL[dead])
    running = state.running.kill(state.live.logL[order], len(dead))
    level = Level(state.live.take(order), order, uniforms, threshold, sum(int((~walk.moved).sum()) for walk in walks), walks)
    return NestedState(live, pool, running, controller, tuple(params), tuple(info)), level


def rank_correlation(survivors: np.ndarray, parents: np.ndarray, children: np.ndarray):
    """Compute the correlation of the ranks of log L between parents (m,) and their replacements, among the live points that stay.

    Parameters
    ----------
    survivors, parents, children : log L of the live points that stay, of those that walks started from, of where they ended [nats].
    """
    ranks = [np.searchsorted(np.sort(survivors), logL, side="right") / len(survivors) - 0.5 for logL in (parents, children)]
    return 12 * float(np.mean(ranks[0] * ranks[1]))


def steer(controller: Controller, correlation: float, schedule: Schedule, least: float):
    """Update the correlation of replacements with their parents, and the length of walks that keeps it near its target.

    Replacements that remember their parents keep the live points' fluctuations alive, which inflates the scatter of ln Z by about
    sqrt((1 + r) / (1 - r)).

    Parameters
    ----------
    controller : Controller
    correlation : of this level's replacements.
    schedule : Schedule
    least : the smallest factor on the length of walks.

    Returns
    -------
    Controller
    """
    r = (1 - CORRELATION_RATE) * controller.parent_correlation + CORRELATION_RATE * correlation
    scale = min(controller.walk_scale * np.exp(WALK_SCALE_RATE * (r - TARGET_CORRELATION)), schedule.max_walk_scale)
    return Controller(r, max(scale, least))


def _walkers(state, parents, n_chains):
    """Pack parents into a batch of fixed size; padding rows are inactive."""
    index = np.full(n_chains, parents[0])
    index[: len(parents)] = parents
    start, dtype = state.live.take(index), state.live.x.dtype
    active = np.arange(n_chains) < len(parents)
    return Walkers(start.x, start.logL.astype(dtype), start.blobs.astype(dtype), active, np.asarray(state.controller.walk_scale, dtype))


def _first(n, walk):
    """Keep the first n chains of a `Walk`."""
    columns = {name: getattr(walk, name)[:n] for name in ("x", "logL", "blobs", "moved")}
    return walk._replace(**columns, trail_x=walk.trail_x[:, :n], trail_logL=walk.trail_logL[:, :n])
