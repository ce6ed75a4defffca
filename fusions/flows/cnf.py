"""Continuous normalising flow trained by flow matching: network, path, coupling and transport assembled."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from fusions.flows import coupling as pairing
from fusions.flows import matching, network
from fusions.flows.base import Flow, FlowState
from fusions.flows.path import base_logprob, unwind, wrap
from fusions.flows.transport import transport


def features(space, y, period):
    """Turn whitened points (n, d) into inputs of the network: sine and cosine of an angle, in units of its width."""
    if not any(space.periodic):
        return y
    circle = jnp.array(space.periodic)
    sigma = jnp.where(circle, 2 * jnp.pi / period, 1.0)
    columns = jnp.where(circle, jnp.sin(sigma * y) / sigma, y)
    return jnp.concatenate([columns, jnp.cos(sigma * y)[:, np.flatnonzero(space.periodic)]], axis=-1)


def coordinates(space):
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
    probes : 0 for the exact divergence, else the number of Hutchinson probes; the density then carries noise, and moves
        corrected with it are no longer exact.
    coupling : pairing of base and data, `coupling.independent` or `coupling.optimal_transport`.
    training : settings of the fit.
    """

    width: int = 64
    depth: int = 3
    ode_steps: int = 4
    probes: int = 0
    coupling: Callable = pairing.independent
    training: matching.Training = matching.Training()

    def build(self, space) -> Flow:
        """Make the flow's functions for a `Space`."""
        net = network.make_network(space.dim + sum(space.periodic), space.dim, self.width, self.depth)
        circle = np.array(space.periodic)
        period_of, whitened = coordinates(space)

        def velocity(params, y, t, period):
            return net.apply(params, features(space, y, period), jnp.broadcast_to(t, y.shape[:1]))

        def logq(state, y0, logdet, period):
            base = base_logprob(y0, period, space.periodic)
            return base - logdet - jnp.sum(jnp.log(jnp.diag(state.scale)))

        def solve(state, y, period, *, backward):
            """Move rows (n, d) along the flow; random probes are drawn for the whole batch, wherever its rows go."""

            def rows(y, *probes):
                random = jnp.moveaxis(probes[0], 1, 0) if probes else None
                field = lambda y, t: velocity(state.ema_params, y, t, period)  # noqa: E731
                return transport(field, y, steps=self.ode_steps, backward=backward, probes=random, most=space.layout.max_batch)

            shape, drawn = (self.probes, *y.shape), ()
            if self.probes:
                drawn = (jnp.moveaxis(jax.random.rademacher(jax.random.key(0), shape, y.dtype), 0, 1),)
            return space.layout.rowwise(rows, self.probes or space.dim)(y, *drawn)

        def init(key):
            dtype = jnp.zeros(()).dtype
            params = net.init(key)
            opt_state = matching.optimiser(self.training).init(params)
            scale = jnp.where(circle, jnp.pi, 1.0).astype(dtype)
            return FlowState(params, params, opt_state, jnp.zeros(space.dim, dtype), jnp.diag(scale))

        def fit(key, state, x, weights):
            shift, scale = matching.whiten(x, weights, space.periodic)
            state = state._replace(shift=shift, scale=scale)
            period = period_of(state)
            learned, info = matching.fit(
                key,
                (state.params, state.ema_params, state.opt_state),
                whitened(state, x),
                weights,
                period,
                velocity=lambda p, y, t: velocity(p, y, t, period),
                coupling=self.coupling,
                training=self.training,
            )
            return FlowState(*learned, shift, scale), info

        def move(key, state, points, backward):
            period = period_of(state)
            start = jnp.where(backward, whitened(state, points), wrap(points, period))
            end, logdet = solve(state, start, period, backward=backward)
            y0 = jnp.where(backward, wrap(end, period), start)
            x = space.wrap(state.shift + end @ state.scale.T)
            return jnp.where(backward, unwind(key, y0, period, space.periodic), x), logq(state, y0, logdet, period)

        def push(state, z):
            return move(jax.random.key(0), state, z, backward=False)

        def pull(key, state, x):
            return move(key, state, x, backward=True)

        return Flow(init, fit, push, pull, move)
