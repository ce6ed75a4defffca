"""Drive a kernel: one compiled loop, or ask and tell for black-box likelihoods. Both make the same numbers."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fusions.kernels.base import Kernel
from fusions.types import Array, Walkers

TRAIL = 8  # places in a walk where its points are kept
WATCHED = 128  # iterations of a walk that the places are drawn from


class Walk(NamedTuple):
    """What a walk of c chains returns, on the host.

    Attributes
    ----------
    x : (c, d); logL : (c,) float64; blobs : (c, b).
    moved : (c,) whether a chain accepted any move.
    trail_x : (TRAIL, c, d) where the chains stood at random iterations; trail_logL : (TRAIL, c), -inf where there is none.
    n_calls : likelihood evaluations that were asked for; n_rows : rows computed, masked ones of a compiled batch included.
    seconds : time in a black-box likelihood, nan where it is compiled into the walk.
    info : the kernel's report.
    invalid : x (1, d) and log L (1,) of a point with a NaN or +inf likelihood, or None.
    """

    x: np.ndarray
    logL: np.ndarray
    blobs: np.ndarray
    moved: np.ndarray
    trail_x: np.ndarray
    trail_logL: np.ndarray
    n_calls: int
    n_rows: int
    seconds: float
    info: Any
    invalid: tuple[np.ndarray, np.ndarray] | None


def trail_slots(key: Array):
    """Draw where each of the first `WATCHED` iterations is kept, so that at any length a walk has a uniform sample (a reservoir)."""
    i = jnp.arange(WATCHED)
    drawn = jnp.floor(jax.random.uniform(key, (WATCHED,)) * (i + 1)).astype(jnp.int32)
    return jnp.where(i < TRAIL, i, drawn)


class Carry(NamedTuple):
    """What the compiled loop carries from move to move.

    Attributes
    ----------
    i : moves so far; state : of the kernel.
    logL, blobs, moved : of the chains, as in `Walk`.
    trail : (TRAIL, c, d), (TRAIL, c) places and log L that are kept.
    n_calls : likelihood calls; failed : whether a likelihood was NaN or +inf; example : x (1, d), log L (1,) of one that was.
    """

    i: Array
    state: Any
    logL: Array
    blobs: Array
    moved: Array
    trail: tuple[Array, Array]
    n_calls: Array
    failed: Array
    example: tuple[Array, Array]


def fused(kernel: Kernel, inside: Callable, compiled: Callable) -> Callable:
    """Make a walk (key, params, walkers, threshold, spent, arrays) -> Walk that runs inside one jit.

    Parameters
    ----------
    kernel : Kernel
    inside : x (n, d), arrays of the data -> (logL (n,), blobs (n, b)), traceable.
    compiled : (name, function) -> the function under jit.

    The walk's `spent` is called with the number of likelihood calls when they are made.
    """

    def loop(key, params, walkers, threshold, arrays):
        k_init, k_walk, k_trail = jax.random.split(key, 3)
        slots = trail_slots(k_trail)

        def going(carry):
            return ~jnp.all(kernel.done(carry.state)) & ~carry.failed

        def move(carry):
            return _moved(kernel, jax.random.fold_in(k_walk, carry.i), carry, slots, threshold, lambda x: inside(x, arrays))

        end = jax.lax.while_loop(going, move, _started(kernel, k_init, params, walkers))
        return end._replace(state=None), *kernel.finish(end.state)

    loop = compiled("walk", loop)

    def walk(key, params, walkers, threshold, spent=lambda n_calls: None, arrays=()):
        end, x, info = loop(key, params, walkers, jnp.asarray(threshold, walkers.x.dtype), arrays)
        spent(int(end.n_calls))
        return Walk(
            x=np.asarray(x),
            logL=np.asarray(end.logL, np.float64),
            blobs=np.asarray(end.blobs, np.float64),
            moved=np.asarray(end.moved),
            trail_x=np.asarray(end.trail[0]),
            trail_logL=np.asarray(end.trail[1], np.float64),
            n_calls=int(end.n_calls),
            n_rows=int(end.i) * len(walkers.x),
            seconds=np.nan,
            info=info,
            invalid=tuple(np.asarray(a) for a in end.example) if end.failed else None,
        )

    return walk


def _started(kernel, key, params, walkers):
    """Make the `Carry` of a walk that has not moved."""
    zero = jnp.zeros_like(walkers.active)
    return Carry(
        i=jnp.int32(0),
        state=kernel.init(key, params, walkers),
        logL=walkers.logL,
        blobs=walkers.blobs,
        moved=zero,
        trail=(jnp.broadcast_to(walkers.x, (TRAIL, *walkers.x.shape)), jnp.full((TRAIL, len(zero)), -jnp.inf, walkers.x.dtype)),
        n_calls=jnp.int32(0),
        failed=jnp.zeros((), bool),
        example=(walkers.x[:1], walkers.logL[:1]),
    )


def _moved(kernel, key, carry, slots, threshold, likelihood):
    """Propose, evaluate and accept once.

    Parameters
    ----------
    kernel : Kernel; key : random key of this move.
    carry : Carry
    slots : (WATCHED,) places in the trail.
    threshold : log L of the contour [nats].
    likelihood : x (n, d) -> (logL (n,), blobs (n, b)).

    Returns
    -------
    Carry
    """
    s, x, wanted = kernel.propose(key, carry.state)
    logL, blobs = likelihood(x)
    bad = wanted & (jnp.isnan(logL) | (logL == jnp.inf))
    s, accepted = kernel.accept(s, wanted & ~bad & (logL > threshold))
    now, slot, row = jnp.where(accepted, logL, carry.logL), jnp.where(carry.i < WATCHED, slots[carry.i], TRAIL), jnp.argmax(bad)[None]
    places, heights = carry.trail
    return Carry(
        i=carry.i + 1,
        state=s,
        logL=now,
        blobs=jnp.where(accepted[:, None], blobs, carry.blobs),
        moved=carry.moved | accepted,
        trail=(places.at[slot].set(kernel.finish(s)[0], mode="drop"), heights.at[slot].set(now, mode="drop")),
        n_calls=carry.n_calls + jnp.sum(wanted, dtype=jnp.int32),
        failed=carry.failed | jnp.any(bad),
        example=jax.tree.map(lambda old, new: jnp.where(carry.failed, old, new[row]), carry.example, (x, logL)),
    )


class Steps(NamedTuple):
    """The functions of a kernel that an ask-and-tell walk calls, under jit.

    Attributes
    ----------
    init : (key, key of the trail, params, walkers) -> state, the `trail_slots`.
    accept, finish : as in `Kernel`.
    propose : (key, i, state) -> state, x (c, d), wanted (c,) at iteration i.
    done : state -> whether all chains have finished.
    """

    init: Callable
    propose: Callable
    accept: Callable
    done: Callable
    finish: Callable


def steps_of(kernel: Kernel, compiled: Callable) -> Steps:
    """Compile what an ask-and-tell walk calls; it knows no likelihood.

    Parameters
    ----------
    kernel : Kernel
    compiled : (name, function) -> the function under jit.
    """
    return Steps(
        compiled("init_walk", lambda key, k_trail, params, walkers: (kernel.init(key, params, walkers), trail_slots(k_trail))),
        compiled("walk", lambda key, i, s: kernel.propose(jax.random.fold_in(key, i), s)),
        compiled("accept", kernel.accept),
        compiled("done", lambda s: jnp.all(kernel.done(s))),
        compiled("finish", kernel.finish),
    )


def hosted(steps: Steps, rows: Callable) -> Callable:
    """Make a walk (key, params, walkers, threshold, spent) -> Walk around a black-box likelihood.

    Only the rows that pass the tests before the likelihood are evaluated; contours are compared in float64.

    Parameters
    ----------
    steps : Steps
    rows : x (n, d) -> (logL (n,), blobs (n, b)), on the host.
    """

    def walk(key, params, walkers, threshold, spent=lambda n_calls: None):
        k_init, k_walk, k_trail = jax.random.split(key, 3)
        s, slots = steps.init(k_init, k_trail, params, walkers)
        chains, i = _HostedChains(walkers, np.asarray(slots)), 0
        while chains.invalid is None and not steps.done(s):
            s, x, wanted = steps.propose(k_walk, i, s)
            x, wanted = np.asarray(x), np.asarray(wanted)
            spent(int(wanted.sum()))
            logL, blobs = chains.evaluated(rows, x, wanted)
            s, accepted = steps.accept(s, wanted & np.isfinite(logL) & (logL > threshold))
            chains.move(np.asarray(accepted), logL, blobs)
            chains.note(i, lambda s=s: np.asarray(steps.finish(s)[0]))
            i += 1
        return chains.walk(*steps.finish(s))

    return walk


class _HostedChains:
    """What a walk around a black-box likelihood has found so far; the fields are those of `Walk`."""

    def __init__(self, walkers: Walkers, slots: Any):
        """Begin with the walkers; slots (WATCHED,) are the places in the trail."""
        self.logL, self.blobs = np.array(walkers.logL, np.float64), np.array(walkers.blobs, np.float64)
        self.moved, self.slots = np.zeros(self.logL.shape, bool), slots
        self.trail_x = np.repeat(np.asarray(walkers.x)[None], TRAIL, axis=0)
        self.trail_logL = np.full((TRAIL, len(self.logL)), -np.inf)
        self.n_calls, self.seconds = 0, 0.0
        self.invalid: tuple | None = None

    def evaluated(self, rows: Callable, x: Array, wanted: Any):
        """Return log L (c,), -inf where it is not wanted, and blobs (c, b) at proposals x (c, d)."""
        logL, blobs = np.full(self.logL.shape, -np.inf), np.zeros(self.blobs.shape)
        clock = time.perf_counter()
        if wanted.any():
            logL[wanted], blobs[wanted] = rows(x[wanted])
        self.seconds += time.perf_counter() - clock
        self.n_calls += int(wanted.sum())
        bad = np.isnan(logL) | (logL == np.inf)
        if bad.any():
            self.invalid = x[bad][:1], logL[bad][:1]
        return logL, blobs

    def move(self, accepted: Any, logL: Array, blobs: Any):
        """Take over the log L and blobs of the chains (c,) that moved."""
        self.logL[accepted], self.blobs[accepted] = logL[accepted], blobs[accepted]
        self.moved |= accepted

    def note(self, i: int, places: Callable):
        """Keep where the chains are after move i, if the trail has a place for it."""
        if i < WATCHED and self.slots[i] < TRAIL:
            self.trail_x[self.slots[i]], self.trail_logL[self.slots[i]] = places(), self.logL

    def walk(self, x: Array, info: Any):
        """Return the `Walk` that has ended at x (c, d)."""
        return Walk(
            x=np.asarray(x),
            logL=self.logL,
            blobs=self.blobs,
            moved=self.moved,
            trail_x=self.trail_x,
            trail_logL=self.trail_logL,
            n_calls=self.n_calls,
            n_rows=self.n_calls,
            seconds=self.seconds,
            info=info,
            invalid=self.invalid,
        )
