"""Hit-and-run slice sampling along differences of live points and random directions."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fusions.kernels.base import Kernel, KernelInfo, check_counts, walk_length
from fusions.kernels.random_walk import spread
from fusions.numerics import drawn, pick_rows

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
    n_slices : slices per walk (times its effort).
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
                walk_length(self.n_slices, walkers.effort),
                count,
                count,
                jnp.int32(0),
                jnp.int32(0),
                jnp.zeros((), zero.dtype),
            )

        def directions(key, s):
            k_pair, k_kind, k_random = jax.random.split(key, 3)
            n, d = s.x.shape
            first, second = s.params.x[pick_rows(jax.random.uniform(k_pair, (2, n), s.x.dtype), s.params.edges)]
            along_random = jnp.sqrt(2.0).astype(s.x.dtype) * drawn(jax.random.normal, k_random, (n, d), s.x.dtype) @ s.params.factor.T
            delta = space.wrap(first - second)
            use_random = jax.random.bernoulli(k_kind, 0.5, (n, 1)) | jnp.all(delta == 0, axis=1, keepdims=True)
            return jnp.where(use_random, along_random, delta)

        def renew(key, s):
            """Open a slice at every fresh chain: density level, direction, interval."""
            k_level, k_direction, k_wide, k_place = jax.random.split(key, 4)
            n = len(s.level)
            level = space.logprior(s.x) - jax.random.exponential(k_level, (n,), s.x.dtype)
            width = jnp.where(jax.random.bernoulli(k_wide, WIDE_SHARE, (n,)), jnp.maximum(2.0, s.params.width), s.params.width)
            low = -width * jax.random.uniform(k_place, (n,), s.x.dtype)
            new = lambda a, b: jnp.where(s.fresh, a, b)  # noqa: E731
            return s._replace(
                level=new(level, s.level),
                low=new(low, s.low),
                high=new(low + width, s.high),
                tries=new(0, s.tries),
                direction=jnp.where(s.fresh[:, None], directions(k_direction, s), s.direction),
            )

        def propose(key, s):
            k_renew, k_offset = jax.random.split(key)
            s = renew(k_renew, s)
            offset = s.low + (s.high - s.low) * jax.random.uniform(k_offset, s.low.shape, s.x.dtype)
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
