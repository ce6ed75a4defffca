"""What kernels share whose walk is a number of Metropolis-Hastings moves."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fusions.kernels.base import KernelInfo, walk_length
from fusions.types import Array, Walkers


class Moves(NamedTuple):
    """Chains on a walk.

    Attributes
    ----------
    params : what the kernel has learned.
    place : dict of arrays (c, ...), where the chains are; "x" (c, d) are the internal coordinates.
    logw : (c,) ln of the prior, over the density of proposals if these are independent draws.
    new, new_logw : the same of the proposals.
    active : (c,) whether a chain moves at all.
    length, step : () moves of the walk and those done.
    n_passed, n_accepted : () proposals that passed the tests before the likelihood call, and those accepted.
    """

    params: Any
    place: dict
    logw: Array
    new: dict
    new_logw: Array
    active: Array
    length: Array
    step: Array
    n_passed: Array
    n_accepted: Array


def start(params: Any, place: dict, logw: Array, walkers: Walkers, n_moves: Any) -> Moves:
    """Begin a walk.

    Parameters
    ----------
    params, place, logw : of the `Moves`.
    walkers : where chains start, and the scale of the walk's length.
    n_moves : () moves at a scale of 1.
    """
    zero = jnp.zeros((), jnp.int32)
    return Moves(
        params=params,
        place=place,
        logw=logw,
        new=place,
        new_logw=logw,
        active=walkers.active,
        length=walk_length(n_moves, walkers.walk_scale),
        step=zero,
        n_passed=zero,
        n_accepted=zero,
    )


def offer(u: Array, s: Moves, place: dict, logw: Array, log_ratio: Array) -> tuple[Moves, Array, Array]:
    """Test proposals by the Metropolis-Hastings ratio, all but the likelihood; return (state, x, wanted) as `Kernel.propose` does.

    Parameters
    ----------
    u : (c,) numbers uniform between 0 and 1.
    s : the chains.
    place, logw : of the proposals, as in `Moves`.
    log_ratio : (c,) ln of the ratio.
    """
    wanted = s.active & (s.step < s.length) & (jnp.log(u) < log_ratio)
    return s._replace(new=place, new_logw=logw, n_passed=s.n_passed + jnp.sum(wanted, dtype=jnp.int32)), place["x"], wanted


def accept(s: Moves, above: Array) -> tuple[Moves, Array]:
    """Move the chains whose proposal is above the contour."""

    def moved(new, old):
        return jnp.where(above.reshape(-1, *[1] * (new.ndim - 1)), new, old)

    n_accepted = s.n_accepted + jnp.sum(above, dtype=jnp.int32)
    return s._replace(
        place=jax.tree.map(moved, s.new, s.place), logw=moved(s.new_logw, s.logw), step=s.step + 1, n_accepted=n_accepted
    ), above


def done(s: Moves) -> Array:
    """Tell which chains have finished."""
    return (s.step >= s.length) | ~s.active


def report(s: Moves, loss: Any = jnp.nan, scale: Any = jnp.nan, skill: Any = jnp.nan) -> tuple[Array, KernelInfo]:
    """End a walk: return where the chains are, x (c, d), and what it was like.

    Parameters
    ----------
    s : the chains.
    loss, scale, skill : () of the `KernelInfo`.
    """
    moves, dtype = jnp.sum(s.active) * s.step, s.logw.dtype
    return s.place["x"], KernelInfo(s.n_accepted / moves, s.n_passed / moves, *(jnp.asarray(v, dtype) for v in (loss, scale, skill)))
