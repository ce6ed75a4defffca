"""What kernels share whose walk is a number of Metropolis-Hastings moves."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fusions.kernels.base import KernelInfo, walk_length
from fusions.types import Array


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


def start(params, place, logw, walkers, n_moves) -> Moves:
    """Begin a walk of `n_moves` times the walkers' scale."""
    zero = jnp.zeros((), jnp.int32)
    return Moves(params, place, logw, place, logw, walkers.active, walk_length(n_moves, walkers.walk_scale), zero, zero, zero)


def offer(u, s, place, logw, log_ratio):
    """Test proposals by the Metropolis-Hastings ratio (c,), all but the likelihood; return (state, x, wanted) as `Kernel.propose` does.

    The numbers u (c,) are uniform between 0 and 1.
    """
    wanted = s.active & (s.step < s.length) & (jnp.log(u) < log_ratio)
    return s._replace(new=place, new_logw=logw, n_passed=s.n_passed + jnp.sum(wanted, dtype=jnp.int32)), place["x"], wanted


def accept(s, above):
    """Move the chains whose proposal is above the contour."""

    def moved(new, old):
        return jnp.where(above.reshape(-1, *[1] * (new.ndim - 1)), new, old)

    n_accepted = s.n_accepted + jnp.sum(above, dtype=jnp.int32)
    return s._replace(
        place=jax.tree.map(moved, s.new, s.place), logw=moved(s.new_logw, s.logw), step=s.step + 1, n_accepted=n_accepted
    ), above


def done(s):
    """Tell which chains have finished."""
    return (s.step >= s.length) | ~s.active


def report(s, loss=jnp.nan, scale=jnp.nan, skill=jnp.nan):
    """End a walk: return (x, `KernelInfo`)."""
    moves, dtype = jnp.sum(s.active) * s.step, s.logw.dtype
    return s.place["x"], KernelInfo(s.n_accepted / moves, s.n_passed / moves, *(jnp.asarray(v, dtype) for v in (loss, scale, skill)))
