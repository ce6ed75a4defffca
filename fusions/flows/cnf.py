"""Continuous normalising flow trained by flow matching: network, path, coupling and transport assembled."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fusions.flows import matching, network
from fusions.flows.base import Flow, FlowState
from fusions.flows.coupling import independent
from fusions.flows.path import base_logprob, unwind, wrap
from fusions.flows.transport import transport
from fusions.types import Array, Space


def features(space: Space, w: Array, period: Array) -> Array:
    """Turn whitened points into inputs of the network: sine and cosine of an angle, in units of its width.

    Parameters
    ----------
    space : `Space`
    w : (n, d) points.
    period : (d,) period of each coordinate, inf on the line.
    """
    if not any(space.periodic):
        return w
    circle = jnp.array(space.periodic)
    sigma = jnp.where(circle, 2 * jnp.pi / period, 1.0)
    columns = jnp.where(circle, jnp.sin(sigma * w) / sigma, w)
    return jnp.concatenate([columns, jnp.cos(sigma * w)[:, np.flatnonzero(space.periodic)]], axis=-1)


def coordinates(space: Space) -> tuple[Callable[[Any], Array], Callable[[Any, Array], Array]]:
    """Make the functions that flows on whitened coordinates share.

    Returns
    -------
    period_of : state -> (d,) periods of the whitened coordinates, inf on the line.
    whitened : (state, x (n, d)) -> (n, d).
    """
    circle = np.array(space.periodic)

    def period_of(state):
        return jnp.where(circle, 2 * jnp.pi / jnp.diag(state.scale), jnp.inf)

    def whitened(state, x):
        delta = space.wrap(x - state.shift)
        return jax.scipy.linalg.solve_triangular(state.scale, delta.T, lower=True).T

    return period_of, whitened


@dataclasses.dataclass(frozen=True)
class CNF:
    """Settings of a continuous normalising flow.

    Attributes
    ----------
    width, depth : units per hidden layer, number of hidden layers.
    ode_steps : steps of the ODE solver (6 velocity evaluations each).
    training : settings of the fit.
    """

    width: int = 64
    depth: int = 3
    ode_steps: int = 4
    training: matching.Training = matching.Training()

    def build(self, space: Space) -> Flow:
        """Make the flow's functions for a `Space`."""
        net = network.make_network(space.dim + sum(space.periodic), space.dim, self.width, self.depth)
        period_of, whitened = coordinates(space)

        def init(key):
            dtype, params = jnp.zeros(()).dtype, net.init(key)
            scale = jnp.where(np.array(space.periodic), jnp.pi, 1.0).astype(dtype)
            opt_state = matching.optimiser(self.training).init(params)
            return FlowState(params, params, opt_state, jnp.zeros(space.dim, dtype), jnp.diag(scale))

        def fit(key, state, x, weights):
            shift, scale = matching.whiten(x, weights, space.periodic)
            state = state._replace(shift=shift, scale=scale)
            period, learned = period_of(state), (state.params, state.ema_params, state.opt_state)
            velocity, w = _velocity(net, space, period), whitened(state, x)
            options = {"velocity": velocity, "coupling": independent, "training": self.training}
            learned, info = matching.fit(key, learned, w, weights, period, **options)
            return FlowState(*learned, shift, scale), info

        def move(key, state, points, backward):
            period = period_of(state)
            start = jnp.where(backward, whitened(state, points), wrap(points, period))
            velocity, options = _velocity(net, space, period), {"backward": backward, "most": space.layout.max_batch}

            def rows(w):
                return transport(lambda w, t: velocity(state.ema_params, w, t), w, steps=self.ode_steps, **options)

            end, logdet = space.layout.rowwise(rows, space.dim)(start)
            w0 = jnp.where(backward, wrap(end, period), start)
            logq = base_logprob(w0, period, space.periodic) - logdet - jnp.sum(jnp.log(jnp.diag(state.scale)))
            x = space.wrap(state.shift + end @ state.scale.T)
            return jnp.where(backward, unwind(key, w0, period, space.periodic), x), logq

        def push(state, z):
            return move(jax.random.key(0), state, z, backward=False)  # the key draws winding numbers on the way back alone

        def pull(key, state, x):
            return move(key, state, x, backward=True)

        return Flow(init, fit, push, pull, move)


def _velocity(net, space, period):
    """Make the velocity (params, w (n, d), t) of a network."""
    return lambda params, w, t: net.apply(params, features(space, w, period), jnp.broadcast_to(t, w.shape[:1]))
