"""Hit-and-run slice sampling along differences of live points and random directions."""

import dataclasses
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from fusions.kernels.base import Kernel, KernelInfo, check_counts, walk_length
from fusions.kernels.random_walk import spread
from fusions.numerics import normal_from, pick_rows, uniforms

WIDE_SHARE = 0.1  # of the intervals, long enough to reach another mode


class SliceParams(NamedTuple):
    """Points (m, d) with cumulated weights `edges` (m,), covariance factor (d, d), bracket width in units of the direction."""

    x: Any
    edges: Any
    factor: Any
    width: Any


class SliceMoves(NamedTuple):
    """Chains of slice moves; each chain is at its own place in its own bracket."""

    params: SliceParams
    x: Any
    level: Any
    direction: Any
    low: Any
    high: Any
    offset: Any
    x_new: Any
    fresh: Any
    active: Any
    length: Any
    n_done: Any
    tries: Any
    n_accepted: Any
    n_wanted: Any
    distance: Any


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

    def build(self, space) -> Kernel:
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
            zero = jnp.zeros_like(walkers.x[:, 0])
            count = jnp.zeros(zero.shape, jnp.int32)
            return SliceMoves(
                params,
                walkers.x,
                zero,
                walkers.x,
                zero,
                zero,
                zero,
                walkers.x,
                walkers.active,
                walkers.active,
                walk_length(self.n_slices, walkers.walk_scale),
                count,
                count,
                jnp.int32(0),
                jnp.int32(0),
                jnp.zeros((), zero.dtype),
            )

        def directions(s, noise, pair, kind):
            first, second = s.params.x[pick_rows(pair, s.params.edges)]
            along_random = np.sqrt(2).astype(s.x.dtype) * normal_from(noise) @ s.params.factor.T
            delta = space.wrap(first - second)
            use_random = (kind < 0.5)[:, None] | jnp.all(delta == 0, axis=1, keepdims=True)
            return jnp.where(use_random, along_random, delta)

        def renew(s, noise, pair, kind, level, wide, place):
            """Open a slice at every fresh chain: density level, direction, interval."""
            width = jnp.where(wide < WIDE_SHARE, jnp.maximum(2.0, s.params.width), s.params.width)
            low = -width * place
            new = lambda a, b: jnp.where(s.fresh, a, b)  # noqa: E731
            return s._replace(
                level=new(space.logprior(s.x) + jnp.log(level), s.level),
                low=new(low, s.low),
                high=new(low + width, s.high),
                tries=new(0, s.tries),
                direction=jnp.where(s.fresh[:, None], directions(s, noise, pair, kind), s.direction),
            )

        def propose(key, s):
            n = len(s.level)
            noise, pair, *numbers, u = uniforms(key, s.x.dtype, (2, *s.x.shape), (2, n), *[(n,)] * 5)
            s = renew(s, noise, pair, *numbers)
            offset = s.low + (s.high - s.low) * u
            x = space.wrap(s.x + offset[:, None] * s.direction)
            wanted = ~done(s) & (space.logprior(x) > s.level)
            return s._replace(offset=offset, x_new=x, n_wanted=s.n_wanted + jnp.sum(wanted, dtype=jnp.int32)), x, wanted

        def accept(s, above):
            tries = s.tries + 1
            end = (above | (tries >= self.max_tries)) & ~done(s)
            return s._replace(
                x=jnp.where(above[:, None], s.x_new, s.x),
                fresh=end,
                tries=tries,
                n_done=s.n_done + end,
                low=jnp.where(s.offset < 0, s.offset, s.low),
                high=jnp.where(s.offset < 0, s.high, s.offset),
                n_accepted=s.n_accepted + jnp.sum(above, dtype=jnp.int32),
                distance=s.distance + jnp.sum(jnp.where(above, jnp.abs(s.offset), 0.0)),
            ), above

        def done(s):
            return (s.n_done >= s.length) | ~s.active

        def finish(s):
            nan = jnp.full((), jnp.nan, s.x.dtype)
            return s.x, KernelInfo(
                s.n_accepted / jnp.sum(s.n_done), s.n_accepted / s.n_wanted.astype(s.x.dtype), nan, s.distance / s.n_accepted, nan
            )

        return Kernel(init_params, tune, init, propose, accept, done, finish)
