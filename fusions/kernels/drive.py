"""Drive kernels over the two halves of a population: one compiled loop, or ask and tell for black-box likelihoods.

Both drivers make the same numbers. Half h is moved with what its complement has taught: params[1 - h].
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Walk(NamedTuple):
    """What a walk returns, on the host; leading axes are (2 halves, c chains).

    Attributes
    ----------
    x : (2, c, d); loglikelihood : (2, c) float64; blobs : (2, c, b).
    moved : (2, c) whether a chain accepted any move.
    n_calls : likelihood evaluations that were asked for; n_rows : rows computed, masked ones of a compiled batch included.
    seconds : time in a black-box likelihood, nan where it is compiled into the walk.
    info : the kernel's report per half.
    invalid_x : (d,) a point with a NaN or +inf likelihood, or None.
    """

    x: Any
    loglikelihood: Any
    blobs: Any
    moved: Any
    n_calls: int
    n_rows: int
    seconds: float
    info: Any
    invalid_x: Any


def complement(tree):
    """Swap the halves along the leading axis of every leaf."""
    return jax.tree.map(lambda a: a[::-1], tree)


def fused(kernel, inside, compiled) -> Callable:
    """Make a walk (key, params, walkers, threshold) -> Walk that runs inside one jit.

    Parameters
    ----------
    kernel : Kernel
    inside : x (n, d) -> (logL (n,), blobs (n, b)), traceable.
    compiled : (name, function) -> the function under jit.
    """

    def one_half(args):
        key, params, walkers, threshold = args
        k_init, k_walk = jax.random.split(key)
        zero = jnp.zeros_like(walkers.active)
        start = (jnp.int32(0), kernel.init(k_init, params, walkers), walkers.loglikelihood, walkers.blobs, zero, jnp.int32(0),
                 jnp.bool_(False), walkers.x[0])

        def body(carry):
            i, s, logL, blobs, moved, n_calls, invalid, invalid_x = carry
            s, x, wanted = kernel.propose(jax.random.fold_in(k_walk, i), s)
            new_logL, new_blobs = inside(x)
            bad = wanted & (jnp.isnan(new_logL) | (new_logL == jnp.inf))
            s, accepted = kernel.accept(s, wanted & ~bad & (new_logL > threshold))
            first = jnp.any(bad) & ~invalid
            return (i + 1, s, jnp.where(accepted, new_logL, logL), jnp.where(accepted[:, None], new_blobs, blobs), moved | accepted,
                    n_calls + jnp.sum(wanted), invalid | first, jnp.where(first, x[jnp.argmax(bad)], invalid_x))

        carry = jax.lax.while_loop(lambda c: ~jnp.all(kernel.done(c[1])), body, start)
        i, s, logL, blobs, moved, n_calls, invalid, invalid_x = carry
        x, info = kernel.finish(s)
        return x, logL, blobs, moved, n_calls, i * len(logL), info, invalid, invalid_x

    def both(key, params, walkers, threshold):
        keys, thresholds = jax.random.split(key), jnp.broadcast_to(threshold, (2,))
        return jax.lax.map(one_half, (keys, complement(params), walkers, thresholds))

    both = compiled("walk", both)

    def walk(key, params, walkers, threshold):
        threshold = jnp.asarray(threshold, walkers.x.dtype)
        x, logL, blobs, moved, n_calls, n_rows, info, invalid, invalid_x = both(key, params, walkers, threshold)
        invalid = np.asarray(invalid)
        wrong = np.asarray(invalid_x)[int(np.argmax(invalid))] if invalid.any() else None
        return Walk(np.asarray(x), np.asarray(logL, np.float64), np.asarray(blobs, np.float64), np.asarray(moved),
                    int(np.sum(n_calls)), int(np.sum(n_rows)), np.nan, info, wrong)

    return walk


def hosted(kernel, rows, compiled) -> Callable:
    """Make a walk (key, params, walkers, threshold) -> Walk around a black-box likelihood.

    Only the rows that pass the tests before the likelihood are evaluated; contours are compared in float64.
    """
    init = compiled("init_walk", lambda k, p, w: jax.lax.map(lambda a: kernel.init(*a), (k, p, w)))
    propose = compiled("walk", lambda k, i, s: jax.lax.map(lambda a: kernel.propose(jax.random.fold_in(a[0], i), a[1]), (k, s)))
    accept = compiled("accept", lambda s, above: jax.lax.map(lambda a: kernel.accept(*a), (s, above)))
    done = compiled("done", lambda s: jnp.all(jax.lax.map(kernel.done, s)))
    finish = compiled("finish", lambda s: jax.lax.map(kernel.finish, s))

    def walk(key, params, walkers, threshold):
        keys = jax.vmap(jax.random.split)(jax.random.split(key))
        s = init(keys[:, 0], complement(params), walkers)
        logL, blobs = np.array(walkers.loglikelihood, np.float64), np.array(walkers.blobs, np.float64)
        moved = np.zeros(logL.shape, bool)
        n_calls, i, seconds, invalid_x = 0, 0, 0.0, None
        while not done(s):
            s, x, wanted = propose(keys[:, 1], i, s)
            x, wanted = np.asarray(x), np.asarray(wanted)
            new_logL, new_blobs = np.full(logL.shape, -np.inf), np.zeros(blobs.shape)
            clock = time.perf_counter()
            if wanted.any():
                new_logL[wanted], new_blobs[wanted] = rows(x[wanted])
            seconds += time.perf_counter() - clock
            bad = np.isnan(new_logL) | (new_logL == np.inf)
            if bad.any() and invalid_x is None:
                invalid_x = x[bad][0]
            s, accepted = accept(s, wanted & ~bad & (new_logL > threshold))
            accepted = np.asarray(accepted)
            logL[accepted], blobs[accepted] = new_logL[accepted], new_blobs[accepted]
            moved |= accepted
            n_calls, i = n_calls + int(wanted.sum()), i + 1
        x, info = finish(s)
        return Walk(np.asarray(x), logL, blobs, moved, n_calls, n_calls, seconds, info, invalid_x)

    return walk
