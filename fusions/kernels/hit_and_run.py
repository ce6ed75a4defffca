"""Hit-and-run slice sampling along differences of live points and random directions."""

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from fusions.kernels.base import Kernel, KernelInfo, check_counts, walk_length
from fusions.kernels.random_walk import spread
from fusions.numerics import normal_from, pick_rows, uniforms
from fusions.types import Array, Space

WIDE_SHARE = 0.1  # of the intervals, long enough to reach another mode


class SliceParams(NamedTuple):
    """Points (m, d) with cumulated weights `edges` (m,), covariance factor (d, d), bracket width in units of the direction."""

    x: Array
    edges: Array
    factor: Array
    width: Array


class SliceMoves(NamedTuple):
    """Chains of slice moves; each chain is at its own place in its own bracket.

    Attributes
    ----------
    params : SliceParams
    x : (c, d); active : (c,) whether a chain moves at all; length : () slices per walk.
    level : (c,) ln of the prior density that the next point must exceed.
    direction : (c, d); low, high : (c,) the bracket, in units of it; offset, x_new : (c,), (c, d) the point proposed.
    fresh : (c,) whether a chain opens a slice with its next proposal; tries : (c,) proposals of this slice; n_done : (c,) slices done.
    n_accepted, n_wanted : () proposals accepted and evaluated; distance : () sum of the accepted |offset|.
    """

    params: SliceParams
    x: Array
    active: Array
    length: Array
    level: Array
    direction: Array
    low: Array
    high: Array
    offset: Array
    x_new: Array
    fresh: Array
    tries: Array
    n_done: Array
    n_accepted: Array
    n_wanted: Array
    distance: Array


def _directions(s, space, noise, pair, kind):
    """Draw a direction (c, d) for each chain: between two points, or at random by their covariance.

    Parameters
    ----------
    s : SliceMoves; space : Space.
    noise : (2, c, d), pair : (2, c), kind : (c,) uniform numbers.
    """
    first, second = s.params.x[pick_rows(pair, s.params.edges)]
    along_random = np.sqrt(2).astype(s.x.dtype) * normal_from(noise) @ s.params.factor.T
    delta = space.wrap(first - second)
    use_random = (kind < 0.5)[:, None] | jnp.all(delta == 0, axis=1, keepdims=True)
    return jnp.where(use_random, along_random, delta)


def _opened(s, space, noise, pair, numbers):
    """Open a slice at every fresh chain: density level, direction, interval.

    Parameters
    ----------
    s : SliceMoves; space : Space.
    noise : (2, c, d), pair : (2, c), numbers : four (c,), all uniform.
    """
    kind, level, wide, place = numbers
    width = jnp.where(wide < WIDE_SHARE, jnp.maximum(2.0, s.params.width), s.params.width)
    low = -width * place
    return s._replace(
        level=jnp.where(s.fresh, space.logprior(s.x) + jnp.log(level), s.level),
        low=jnp.where(s.fresh, low, s.low),
        high=jnp.where(s.fresh, low + width, s.high),
        tries=jnp.where(s.fresh, 0, s.tries),
        direction=jnp.where(s.fresh[:, None], _directions(s, space, noise, pair, kind), s.direction),
    )


def _started(params, walkers, length):
    """Make the state of chains that have not moved.

    Parameters
    ----------
    params : SliceParams; walkers : Walkers; length : () slices per walk.
    """
    zero = jnp.zeros_like(walkers.x[:, 0])
    count, total = jnp.zeros(zero.shape, jnp.int32), jnp.int32(0)
    return SliceMoves(
        params=params,
        x=walkers.x,
        active=walkers.active,
        length=length,
        level=zero,
        direction=walkers.x,
        low=zero,
        high=zero,
        offset=zero,
        x_new=walkers.x,
        fresh=walkers.active,
        tries=count,
        n_done=count,
        n_accepted=total,
        n_wanted=total,
        distance=jnp.zeros((), zero.dtype),
    )


def _done(s):
    """Tell which chains have finished their walk."""
    return (s.n_done >= s.length) | ~s.active


def _narrowed(s, above, max_tries):
    """Move the chains whose proposal was `above`, shrink the brackets of the others.

    Parameters
    ----------
    s : SliceMoves; above : (c,) flags; max_tries : proposals after which a slice ends where it began.
    """
    tries = s.tries + 1
    end = (above | (tries >= max_tries)) & ~_done(s)
    return s._replace(
        x=jnp.where(above[:, None], s.x_new, s.x),
        fresh=end,
        tries=tries,
        n_done=s.n_done + end,
        low=jnp.where(s.offset < 0, s.offset, s.low),
        high=jnp.where(s.offset < 0, s.high, s.offset),
        n_accepted=s.n_accepted + jnp.sum(above, dtype=jnp.int32),
        distance=s.distance + jnp.sum(jnp.where(above, jnp.abs(s.offset), 0.0)),
    )


def _report(s):
    """Return where the chains are, and the `KernelInfo`."""
    nan = jnp.full((), jnp.nan, s.x.dtype)
    return s.x, KernelInfo(
        accepted=s.n_accepted / jnp.sum(s.n_done),
        passed=s.n_accepted / s.n_wanted.astype(s.x.dtype),
        loss=nan,
        scale=s.distance / s.n_accepted,
        skill=nan,
    )


@dataclasses.dataclass(frozen=True)
class HitAndRun:
    """Slice moves along lines: an interval placed at random around the point shrinks until a draw from it is accepted.

    The interval is not stepped out, which keeps the move valid at any width (Neal 2003, doi:10.1214/aos/1056562461, section 4); the
    width is tuned between walks. A tenth of the intervals span the full distance between two points, so that chains can change mode.

    Attributes
    ----------
    n_slices : slices per walk (times the walk scale).
    max_tries : draws after which a slice gives up and the point stays.
    """

    n_slices: int = 1
    max_tries: int = 30

    def __post_init__(self):
        """Check the numbers."""
        check_counts(self, "n_slices", "max_tries")

    def build(self, space: Space) -> Kernel:
        """Make the kernel's functions for a `Space`."""

        def init_params(key, population):
            del key
            factor = spread(population, space)
            return SliceParams(population.x, jnp.cumsum(population.weights), factor, jnp.ones((), factor.dtype))

        def tune(key, population, params, info):
            del key
            width = jnp.clip(jnp.nan_to_num(4 * info.scale, nan=params.width), 1e-3, 4.0)
            width = jnp.sqrt(width * params.width)
            return SliceParams(population.x, jnp.cumsum(population.weights), spread(population, space), width)

        def init(key, params, walkers):
            del key
            return _started(params, walkers, walk_length(self.n_slices, walkers.walk_scale))

        def propose(key, s):
            n = len(s.level)
            noise, pair, *numbers, u = uniforms(key, s.x.dtype, (2, *s.x.shape), (2, n), *[(n,)] * 5)
            s = _opened(s, space, noise, pair, numbers)
            offset = s.low + (s.high - s.low) * u
            x = space.wrap(s.x + offset[:, None] * s.direction)
            wanted = ~_done(s) & (space.logprior(x) > s.level)
            return s._replace(offset=offset, x_new=x, n_wanted=s.n_wanted + jnp.sum(wanted, dtype=jnp.int32)), x, wanted

        def accept(s, above):
            return _narrowed(s, above, self.max_tries), above

        return Kernel(init_params, tune, init, propose, accept, _done, _report)
