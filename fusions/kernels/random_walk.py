"""Random-walk Metropolis with the covariance of the live points."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fusions.kernels.base import Kernel, KernelInfo, check_counts, walk_length

TARGET_ACCEPTANCE = 0.25


class WalkParams(NamedTuple):
    """Covariance factor (d, d) of the population and the step size in its units."""

    factor: Any
    scale: Any


class WalkMoves(NamedTuple):
    """Chains of a random walk."""

    params: WalkParams
    x: Any
    logprior: Any
    x_new: Any
    logprior_new: Any
    active: Any
    length: Any
    step: Any
    n_passed: Any
    n_accepted: Any


def spread(population, space):
    """Compute a Cholesky factor (d, d) of the population's covariance about its (circular) mean, with a small floor."""
    p = population.weights / jnp.sum(population.weights)
    mean = p @ population.x
    if any(space.periodic):
        direction = jnp.arctan2(p @ jnp.sin(population.x), p @ jnp.cos(population.x))
        mean = jnp.where(jnp.array(space.periodic), direction, mean)
    delta = space.wrap(population.x - mean)
    cov = (delta * p[:, None]).T @ delta
    return jnp.linalg.cholesky(cov + jnp.diag(1e-4 * jnp.diag(cov) + 1e-10))


@dataclasses.dataclass(frozen=True)
class RandomWalk:
    """Gaussian random walk x' = x + s A xi, with A A^T the covariance of the population.

    Attributes
    ----------
    n_moves : moves per walk (times its effort).
    """

    n_moves: int = 20

    def __post_init__(self):
        """Check the numbers."""
        check_counts(self, "n_moves")

    def build(self, space) -> Kernel:
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
            logprior = space.logprior(walkers.x)
            zero = jnp.zeros((), jnp.int32)
            return WalkMoves(
                params,
                walkers.x,
                logprior,
                walkers.x,
                logprior,
                walkers.active,
                walk_length(self.n_moves, walkers.effort),
                zero,
                zero,
                zero,
            )

        def propose(key, s):
            k_noise, k_accept = jax.random.split(key)
            step = jax.random.normal(k_noise, s.x.shape, s.x.dtype) @ s.params.factor.T
            x = space.wrap(s.x + s.params.scale * step)
            logprior = space.logprior(x)
            log_u = jnp.log(jax.random.uniform(k_accept, logprior.shape, s.x.dtype))
            wanted = s.active & (s.step < s.length) & (log_u < logprior - s.logprior)
            return s._replace(x_new=x, logprior_new=logprior, n_passed=s.n_passed + jnp.sum(wanted, dtype=jnp.int32)), x, wanted

        def accept(s, above):
            return s._replace(
                x=jnp.where(above[:, None], s.x_new, s.x),
                logprior=jnp.where(above, s.logprior_new, s.logprior),
                step=s.step + 1,
                n_accepted=s.n_accepted + jnp.sum(above, dtype=jnp.int32),
            ), above

        def done(s):
            return (s.step >= s.length) | ~s.active

        def finish(s):
            moves = jnp.sum(s.active) * s.step
            nan = jnp.full((), jnp.nan, s.x.dtype)
            return s.x, KernelInfo(s.n_accepted / moves, s.n_passed / moves, nan, s.params.scale, nan)

        return Kernel(init_params, tune, init, propose, accept, done, finish)
