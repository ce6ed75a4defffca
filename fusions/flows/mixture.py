"""A flow from a Gaussian mixture, for posteriors: each component carries its own mode, the velocity field bends them into shape."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fusions.flows import matching, network
from fusions.flows.base import FitInfo
from fusions.flows.cnf import coordinates, features
from fusions.flows.defensive import with_others
from fusions.flows.gaussian_mixture import (
    Components,
    choose_components,
    draw_mixture,
    elongated,
    inverse_factors,
    log_shares,
    mixed,
    mixture_logprob,
    spread_out,
    standard_components,
    standardised,
    widened,
)
from fusions.flows.path import wrap
from fusions.flows.transport import trajectory, transport
from fusions.numerics import pick_columns, uniforms

EM_ITERATIONS = 20
SOFT = 4.0  # squared widening of components where their units are blended, so that the velocity stays smooth between neighbours
EM_ROWS = 7168  # rows that the components are fitted to, at most: all of a training set that are not held out
PARTS = (1, 2, 4)  # of their largest number, which are tried
ROWS_EACH = 3  # of them at least for each number in a component's covariance


class MixtureState(NamedTuple):
    """What the flow has learned: network parameters, their moving average, optimiser state, whitening, components of the base."""

    params: Any
    ema_params: Any
    opt_state: Any
    shift: Any
    scale: Any
    base: Components


class MixtureFlow(NamedTuple):
    """A normalised density that one can draw from.

    Attributes
    ----------
    init : key -> state.
    fit : (key, state, x (n, d), *, with_velocity=True) -> (state, FitInfo); `with_velocity` trains the field too, else only the base.
    sample : (key, state, n, *, with_velocity=True) -> x (n, d); `with_velocity` if the state has a trained field.
    logq : (state, x (n, d), *, with_velocity=True) -> (n,).
    roundtrip : (key, state, n) -> (n,) log q of draws of the flow along the solve that made them, minus log q computed back from them.
    path : (key, state, n, times (m,)) -> x (m, n, d) on the way from the base to the draws that `sample` returns.
    """

    init: Callable[..., MixtureState]
    fit: Callable[..., tuple[MixtureState, FitInfo]]
    sample: Callable[..., Any]
    logq: Callable[..., Any]
    roundtrip: Callable[..., Any]
    path: Callable[..., Any]


def local_frames(base, period):
    """Make the function y (n, d) -> (u (n, d), factor (n, d, d), inverse (n, d, d)) of the components that share y.

    u is y in the units of its components and the factor takes velocities back, both averaged by responsibility.
    """
    inverse = inverse_factors(base)

    def frame(y):
        z = standardised(inverse, base, y, period)
        share = jnp.exp(log_shares(base, z, SOFT))
        matrices = (jnp.einsum("nk,kij->nij", share, part) for part in (base.factors, inverse))
        return jnp.einsum("nk,nki->ni", share, z), *matrices

    return frame


@dataclasses.dataclass(frozen=True)
class MixtureCNF:
    """Settings of a continuous normalising flow whose base is a Gaussian mixture.

    Each data point is paired with a draw from its own component (by responsibility), so modes far apart need no long paths. A share of
    each component is wider, and one is longer along its longest axis: this keeps importance weights bounded where the flow is too narrow,
    and reaches on along ridges.

    Attributes
    ----------
    components : number of Gaussians of the base, at most; fewer where `EM_ROWS` would not tell their covariances.
    kernels, least_share : number of kernels beside the flow (`with_others`), and the least share of the draws that they and it get.
    wide_share, wide_scale : share of draws from widened components, and how much wider they are.
    long_share, long_scale : share of draws from components made longer, and how much longer they are.
    width, depth : units per hidden layer, number of hidden layers.
    ode_steps : steps of the ODE solver.
    training : settings of the fit.
    """

    components: int = 24
    kernels: int = 1024
    least_share: float = 0.1
    wide_share: float = 0.1
    wide_scale: float = 1.5
    long_share: float = 0.1
    long_scale: float = 3.0
    width: int = 128
    depth: int = 3
    ode_steps: int = 8
    training: matching.Training = matching.Training(steps=100, rounds=15, patience=2, batch=256, learning_rate=2e-3, ema=0.98, jitter=0.0)

    def build(self, space) -> MixtureFlow:
        """Make the flow's functions for a `Space`."""
        dim = space.dim
        net = network.make_network(2 * dim + sum(space.periodic), dim, self.width, self.depth)
        circle = np.array(space.periodic)
        period_of, whitened = coordinates(space)

        def inputs(y, u, period):
            return jnp.concatenate([features(space, y, period), u], axis=1)

        def local_velocity(base, period):
            """Velocity in the units of the components, so that a narrow mode is learned as well as a wide one."""
            frame = local_frames(base, period)

            def velocity(params, y, t):
                u, factor, _ = frame(y)
                return jnp.einsum("nij,nj->ni", factor, net.apply(params, inputs(y, u, period), jnp.broadcast_to(t, y.shape[:1])))

            def local(y, error):
                return jnp.einsum("nij,nj->ni", frame(y)[2], error)

            return velocity, local

        def spread(base, period):
            wide, long = widened(base, self.wide_scale), elongated(base, self.long_scale, period)
            return mixed((1 - self.wide_share - self.long_share, base), (self.wide_share, wide), (self.long_share, long))

        def draw_base(key, state, n):
            period = period_of(state)
            return wrap(draw_mixture(key, spread(state.base, period), n), period)

        def unwhitened(state, y):
            return space.wrap(state.shift + y @ state.scale.T)

        def init(key):
            dtype = jnp.zeros(()).dtype
            k, params = min(self.components, max(2 * EM_ROWS // (ROWS_EACH * dim * (dim + 1)), 1)), net.init(key)
            scale = jnp.diag(jnp.where(circle, jnp.pi, 1.0).astype(dtype))
            base = standard_components(k, dim, dtype)
            return MixtureState(params, params, matching.optimiser(self.training).init(params), jnp.zeros(dim, dtype), scale, base)

        def fit(key, state, x, *, with_velocity=True):
            k_base, k_fit = jax.random.split(key)
            weights = jnp.ones(len(x), x.dtype)
            shift, scale = matching.whiten(x, weights, space.periodic)
            state = state._replace(shift=shift, scale=scale)
            period, y = period_of(state), whitened(state, x)
            held = self.training.held_out(len(y))
            sizes = list(dict.fromkeys(max(len(state.base.logweights) // part, 1) for part in PARTS))
            base = choose_components(k_base, y[~held][:EM_ROWS], y[held], sizes, period, EM_ITERATIONS)
            inverse = inverse_factors(base)

            def from_component(key, z, y1, period):
                shares = log_shares(base, standardised(inverse, base, y1, period))
                k = pick_columns(*uniforms(key, y1.dtype, shares.shape[:1]), shares)
                return wrap(spread_out(base, k, z), period), y1

            velocity, local = local_velocity(base, period)
            learned, info = (state.params, state.ema_params, state.opt_state), FitInfo(*jnp.full(3, jnp.nan, x.dtype))
            if with_velocity:
                learned, info = matching.fit(
                    k_fit, learned, y, weights, period,
                    velocity=velocity, coupling=from_component, training=self.training, local=local,
                )  # fmt: skip
            return MixtureState(*learned, shift, scale, base), info

        def mover(state, period, *, backward=False, divergence=True):
            velocity = local_velocity(state.base, period)[0]
            field = lambda y, t: velocity(state.ema_params, y, t)  # noqa: E731
            options = {"steps": self.ode_steps, "backward": backward, "divergence": divergence, "most": space.layout.max_batch}
            return lambda y: transport(field, y, **options)

        def sample(key, state, n):
            move = mover(state, period_of(state), divergence=False)
            return unwhitened(state, space.layout.rowwise(lambda y: move(y)[0])(draw_base(key, state, n)))

        def base_logq(state, y0, logdet, period):
            log_base = mixture_logprob(spread(state.base, period), y0, period, space.periodic)
            return log_base - logdet - jnp.sum(jnp.log(jnp.diag(state.scale)))

        def logq_rows(state, x):
            period = period_of(state)
            y0, logdet = mover(state, period, backward=True)(whitened(state, x))
            return base_logq(state, wrap(y0, period), logdet, period)

        def logq(state, x):
            return space.layout.rowwise(lambda x: logq_rows(state, x), dim)(x)

        def roundtrip(key, state, n):
            period = period_of(state)

            def rows(y0):
                y1, logdet = mover(state, period)(y0)
                return base_logq(state, y0, logdet, period) - logq_rows(state, unwhitened(state, y1))

            return space.layout.rowwise(rows, dim)(draw_base(key, state, n))

        def path(key, state, n, times):
            velocity = local_velocity(state.base, period_of(state))[0]
            y = trajectory(lambda y, t: velocity(state.ema_params, y, t), draw_base(key, state, n), times, steps=self.ode_steps)
            return unwhitened(state, y)

        def sample_base(key, state, n):
            return unwhitened(state, draw_base(key, state, n))

        def base_alone(state, x):
            period = period_of(state)
            return space.layout.rowwise(lambda y: base_logq(state, y, 0.0, period), dim)(whitened(state, x))

        def factors_at(state, x):
            factors = space.layout.rowwise(lambda y: local_frames(state.base, period_of(state))(y)[1])
            return state.scale @ factors(whitened(state, x))

        flow = MixtureFlow(init, fit, sample, logq, roundtrip, path)
        return with_others(flow, (sample_base, base_alone), factors_at, space, self)
