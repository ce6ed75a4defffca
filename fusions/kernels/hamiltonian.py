"""Hamiltonian trajectories at the posterior of a likelihood that JAX differentiates (Duane et al. 1987, doi:10.1016/0370-2693(87)91197-X).

They run along a ridge where other moves diffuse. Leapfrog steps reflect where a prior has an edge; each trajectory has a step of its own
within a range, so that it comes through narrow places and returns nowhere (Neal 2011, arXiv:1206.1901).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from fusions.numerics import normal_from, uniforms
from fusions.types import Space

RANGE = (-1.2, 0.3)  # ln of the steps that trajectories take, relative to the one tuned


def differentiable(likelihood: Callable, dim: int, arrays: tuple):
    """Decide whether JAX can differentiate a likelihood x (n, d), arrays of the data -> (n,) in x.

    Parameters
    ----------
    likelihood : the function, for use inside jit.
    dim : number of coordinates d; arrays : those of the data.
    """
    try:
        jax.eval_shape(
            jax.grad(lambda x, arrays: jnp.sum(likelihood(x, arrays))), jax.ShapeDtypeStruct((1, dim), jnp.result_type(float)), arrays
        )
    except Exception:  # whatever a user's function raises: a callback without a derivative, a loop that can't be run back
        return False
    return True


def make_trajectory(space: Space, likelihood: Callable, bounds: np.ndarray):
    """Make the function that moves chains along trajectories, for use inside of a `compiled` one.

    Parameters
    ----------
    space : `Space`
    likelihood : x (n, d), arrays of the data -> logL (n,), for use inside jit.
    bounds : (2, d) edges of the prior, infinite where it has none.

    Returns
    -------
    (key, x (c, d), widths (d,), step, n_steps, arrays of the data) -> x (c, d), logL (c,), chance of acceptance (c,), gradient of the log
    density (c, d) where it started; steps are in units of the widths.
    """
    low, high = bounds

    def density(x, arrays):
        logL = likelihood(x, arrays)
        logp = space.logprior(x) + logL
        return jnp.sum(logp), (logL, logp)

    pull = jax.value_and_grad(density, has_aux=True)

    def drift(x, momentum, h, widths):
        x = space.wrap(x + h * widths * momentum)
        beyond = (x < low) | (x > high)
        return jnp.where(x > high, 2 * high - x, jnp.where(x < low, 2 * low - x, x)), jnp.where(beyond, -momentum, momentum)

    def followed(x, momentum, h, widths, n_steps, arrays):
        def leap(i, state):
            (x, momentum, force, _), first = state
            step = jnp.where(i == 0, 0.0, h)  # the first only finds the force, so that the gradient is compiled once
            x, momentum = drift(x, momentum + 0.5 * step * widths * force, step, widths)
            (_, heights), force = pull(x, arrays)
            now = force, heights
            first = jax.tree.map(lambda new, old: jnp.where(i == 0, new, old), now, first)
            return (x, momentum + 0.5 * step * widths * force, *now), first

        nothing = jnp.zeros_like(x), (jnp.zeros_like(x[:, 0]),) * 2
        start = (x, momentum, *nothing), nothing
        (end, last, _, (new_logL, after)), (force, (logL, before)) = jax.lax.fori_loop(0, n_steps + 1, leap, start)
        gain = after - before - 0.5 * jnp.sum(last**2 - momentum**2, axis=1)
        return end, new_logL, logL, jnp.where(jnp.isnan(gain), 0.0, jnp.exp(jnp.minimum(gain, 0.0))), force

    def trajectory(key, x, widths, step, n_steps, arrays=()):
        noise, place, u = uniforms(key, x.dtype, (2, *x.shape), (len(x), 1), (len(x),))
        low, high = RANGE
        momentum, h = normal_from(noise), step * jnp.exp(low + (high - low) * place)
        rows = space.layout.rowwise(lambda x, momentum, h: followed(x, momentum, h, widths, n_steps, arrays))
        end, new_logL, logL, chance, force = rows(x, momentum, h)
        moved = u < chance
        return jnp.where(moved[:, None], end, x), jnp.where(moved, new_logL, logL), chance, force

    return trajectory
