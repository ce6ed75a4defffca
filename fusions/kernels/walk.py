"""Drive a kernel: one compiled loop, or ask and tell for black-box likelihoods. Both make the same numbers."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

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

    x: Any
    logL: Any
    blobs: Any
    moved: Any
    trail_x: Any
    trail_logL: Any
    n_calls: int
    n_rows: int
    seconds: float
    info: Any
    invalid: Any


def trail_slots(key):
    """Draw where each of the first `WATCHED` iterations is kept, so that at any length a walk has a uniform sample (a reservoir)."""
    i = jnp.arange(WATCHED)
    drawn = jnp.floor(jax.random.uniform(key, (WATCHED,)) * (i + 1)).astype(jnp.int32)
    return jnp.where(i < TRAIL, i, drawn)


def fused(kernel, inside, compiled) -> Callable:
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
        zero = jnp.zeros_like(walkers.active)
        trail = (jnp.broadcast_to(walkers.x, (TRAIL, *walkers.x.shape)), jnp.full((TRAIL, len(zero)), -jnp.inf, walkers.x.dtype))
        start = (
            jnp.int32(0),
            kernel.init(k_init, params, walkers),
            walkers.logL,
            walkers.blobs,
            zero,
            trail,
            jnp.int32(0),
            jnp.zeros((), bool),
            (walkers.x[:1], walkers.logL[:1]),
        )

        def body(carry):
            i, s, logL, blobs, moved, trail, n_calls, invalid, example = carry
            s, x, wanted = kernel.propose(jax.random.fold_in(k_walk, i), s)
            new_logL, new_blobs = inside(x, arrays)
            bad = wanted & (jnp.isnan(new_logL) | (new_logL == jnp.inf))
            s, accepted = kernel.accept(s, wanted & ~bad & (new_logL > threshold))
            logL, blobs = jnp.where(accepted, new_logL, logL), jnp.where(accepted[:, None], new_blobs, blobs)
            slot = jnp.where(i < WATCHED, slots[i], TRAIL)
            trail = (trail[0].at[slot].set(kernel.finish(s)[0], mode="drop"), trail[1].at[slot].set(logL, mode="drop"))
            row = jnp.argmax(bad)[None]
            example = jax.tree.map(lambda old, new: jnp.where(invalid, old, new[row]), example, (x, new_logL))
            return (
                i + 1,
                s,
                logL,
                blobs,
                moved | accepted,
                trail,
                n_calls + jnp.sum(wanted, dtype=jnp.int32),
                invalid | jnp.any(bad),
                example,
            )

        carry = jax.lax.while_loop(lambda c: ~jnp.all(kernel.done(c[1])) & ~c[-2], body, start)
        i, s, logL, blobs, moved, trail, n_calls, invalid, example = carry
        x, info = kernel.finish(s)
        return x, logL, blobs, moved, trail, n_calls, i * len(logL), info, invalid, example

    loop = compiled("walk", loop)

    def walk(key, params, walkers, threshold, spent=lambda n_calls: None, arrays=()):
        threshold = jnp.asarray(threshold, walkers.x.dtype)
        x, logL, blobs, moved, trail, n_calls, n_rows, info, invalid, example = loop(key, params, walkers, threshold, arrays)
        spent(int(n_calls))
        invalid = tuple(np.asarray(a) for a in example) if invalid else None
        return Walk(
            np.asarray(x),
            np.asarray(logL, np.float64),
            np.asarray(blobs, np.float64),
            np.asarray(moved),
            np.asarray(trail[0]),
            np.asarray(trail[1], np.float64),
            int(n_calls),
            int(n_rows),
            np.nan,
            info,
            invalid,
        )

    return walk


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


def steps_of(kernel, compiled) -> Steps:
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


def hosted(steps, rows) -> Callable:
    """Make a walk (key, params, walkers, threshold, spent) -> Walk around a black-box likelihood.

    Only the rows that pass the tests before the likelihood are evaluated; contours are compared in float64.
    """
    init, propose, accept, done, finish = steps

    def walk(key, params, walkers, threshold, spent=lambda n_calls: None):
        k_init, k_walk, k_trail = jax.random.split(key, 3)
        s, slots = init(k_init, k_trail, params, walkers)
        slots = np.asarray(slots)
        logL, blobs = np.array(walkers.logL, np.float64), np.array(walkers.blobs, np.float64)
        moved = np.zeros(logL.shape, bool)
        trail_x = np.repeat(np.asarray(walkers.x)[None], TRAIL, axis=0)
        trail_logL = np.full((TRAIL, len(logL)), -np.inf)
        n_calls, i, seconds, invalid = 0, 0, 0.0, None
        while invalid is None and not done(s):
            s, x, wanted = propose(k_walk, i, s)
            x, wanted = np.asarray(x), np.asarray(wanted)
            new_logL, new_blobs = np.full(logL.shape, -np.inf), np.zeros(blobs.shape)
            clock = time.perf_counter()
            if wanted.any():
                spent(int(wanted.sum()))
                new_logL[wanted], new_blobs[wanted] = rows(x[wanted])
            seconds += time.perf_counter() - clock
            bad = np.isnan(new_logL) | (new_logL == np.inf)
            if bad.any() and invalid is None:
                invalid = x[bad][:1], new_logL[bad][:1]
            s, accepted = accept(s, wanted & ~bad & (new_logL > threshold))
            accepted = np.asarray(accepted)
            logL[accepted], blobs[accepted] = new_logL[accepted], new_blobs[accepted]
            moved |= accepted
            if i < WATCHED and slots[i] < TRAIL:
                trail_x[slots[i]], trail_logL[slots[i]] = np.asarray(finish(s)[0]), logL
            n_calls, i = n_calls + int(wanted.sum()), i + 1
        x, info = finish(s)
        return Walk(np.asarray(x), logL, blobs, moved, trail_x, trail_logL, n_calls, n_calls, seconds, info, invalid)

    return walk
