"""Random-walk Metropolis with the covariance of the live points."""

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp

from fusions.kernels.base import Kernel, check_counts
from fusions.kernels.metropolis import accept, done, offer, report, start
from fusions.numerics import least_width, normal_from, uniforms
from fusions.types import Array, Population, Space

TARGET_ACCEPTANCE = 0.25


class WalkParams(NamedTuple):
    """Covariance factor (d, d) of the population and the step size in its units."""

    factor: Array
    scale: Array


def spread(population: Population, space: Space) -> Array:
    """Compute a Cholesky factor (d, d) of the population's covariance about its (circular) mean, with a small floor."""
    p = population.weights / jnp.sum(population.weights)
    mean = p @ population.x
    if any(space.periodic):
        direction = jnp.arctan2(p @ jnp.sin(population.x), p @ jnp.cos(population.x))
        mean = jnp.where(jnp.array(space.periodic), direction, mean)
    delta = space.wrap(population.x - mean)
    cov = (delta * p[:, None]).T @ delta
    return jnp.linalg.cholesky(cov + jnp.diag(1e-4 * jnp.diag(cov) + least_width(cov.dtype) ** 2))


@dataclasses.dataclass(frozen=True)
class RandomWalk:
    """Gaussian random walk x' = x + s A xi, with A A^T the covariance of the population.

    Attributes
    ----------
    n_moves : moves per walk (times the walk scale).
    """

    n_moves: int = 20

    def __post_init__(self):
        """Check the numbers."""
        check_counts(self, "n_moves")

    def build(self, space: Space) -> Kernel:
        """Make the kernel's functions for a `Space`."""

        def init_params(key, population):
            del key
            factor = spread(population, space)
            return WalkParams(factor, jnp.asarray(2.4 / jnp.sqrt(space.dim), factor.dtype))

        def tune(key, population, params, info):
            del key
            change = jnp.exp(jnp.nan_to_num(info.accepted, nan=TARGET_ACCEPTANCE) - TARGET_ACCEPTANCE)
            return WalkParams(spread(population, space), jnp.clip(params.scale * change, 1e-3, 10.0))

        def init(key, params, walkers):
            del key
            return start(params, {"x": walkers.x}, space.logprior(walkers.x), walkers, self.n_moves)

        def propose(key, s):
            x = s.place["x"]
            noise, u = uniforms(key, x.dtype, (2, *x.shape), (len(x),))
            step = normal_from(noise) @ s.params.factor.T
            x = space.wrap(x + s.params.scale * step)
            logprior = space.logprior(x)
            return offer(u, s, {"x": x}, logprior, logprior - s.logw)

        def finish(s):
            return report(s, scale=s.params.scale)

        return Kernel(init_params, tune, init, propose, accept, done, finish)
