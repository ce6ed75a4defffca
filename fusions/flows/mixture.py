"""A flow from a Gaussian mixture, for posteriors: each component carries its own mode, the velocity field bends them into shape."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fusions.flows import matching, network
from fusions.flows.base import FitInfo
from fusions.flows.cnf import coordinates, first_params
from fusions.flows.path import base_logprob, wrap
from fusions.flows.transport import transport

EM_ITERATIONS = 20
EM_ROWS = 2048  # rows that the components are fitted to
LOG_2PI = float(np.log(2 * np.pi))


class Components(NamedTuple):
    """A Gaussian mixture: ln weights (k,), means (k, d), lower triangular factors (k, d, d), diagonal in the rows of angles."""

    logweights: Any
    means: Any
    factors: Any


class MixtureState(NamedTuple):
    """What the flow has learned: network parameters, their moving average, optimiser state, whitening, components of the base."""

    params: Any
    ema_params: Any
    opt_state: Any
    shift: Any
    scale: Any
    base: Components


class MixtureFlow(NamedTuple):
    """A normalised density.

    Attributes
    ----------
    init : key -> state.
    fit : (key, state, x (n, d), weights (n,)) -> (state, FitInfo).
    sample : (key, state, n) -> (x (n, d), logq (n,)).
    logq : (state, x (n, d)) -> (n,).
    """

    init: Callable[..., MixtureState]
    fit: Callable[..., tuple[MixtureState, FitInfo]]
    sample: Callable[..., tuple[Any, Any]]
    logq: Callable[..., Any]


def component_logprob(base, y, period, periodic):
    """Compute ln of weight times density of each component at y (n, d): (n, k); angles have wrapped normal densities."""
    delta = wrap(y[:, None] - base.means, period)
    z = jax.vmap(lambda f, r: jax.scipy.linalg.solve_triangular(f, r.T, lower=True).T, (0, 1), 1)(base.factors, delta)
    width = jnp.diagonal(base.factors, axis1=1, axis2=2)
    logdet = jnp.sum(jnp.log(width), axis=1)
    if not any(periodic):
        return base.logweights - 0.5 * jnp.sum(z**2, axis=-1) - logdet - 0.5 * y.shape[1] * LOG_2PI
    density = jax.vmap(lambda z_k, w_k: base_logprob(z_k, period / w_k, periodic), (1, 0), 1)(z, width)
    return base.logweights + density - logdet


def farthest_points(key, y, k, period):
    """Choose k centres among rows y (n, d), each with probability proportional to its squared distance from those before (k-means++)."""
    first = y[0]

    def choose(distance, key_i):
        row = y[jax.random.categorical(key_i, jnp.log(distance + 1e-30))]
        return jnp.minimum(distance, jnp.sum(wrap(y - row, period) ** 2, axis=1)), row

    distance, rows = jax.lax.scan(choose, jnp.sum(wrap(y - first, period) ** 2, axis=1), jax.random.split(key, k - 1))
    return jnp.concatenate([first[None], rows]), distance


def fit_components(key, y, k, period, periodic):
    """Fit k Gaussians to rows y (n, d) by expectation maximisation; covariances shrink to isotropy where rows are few."""
    n, d = y.shape
    circle = jnp.array(periodic)
    means, distance = farthest_points(key, y, k, period)
    factors = jnp.broadcast_to(jnp.sqrt(jnp.mean(distance) / d + 1e-12) * jnp.eye(d, dtype=y.dtype), (k, d, d))
    coupled = ~(circle[:, None] | circle[None]) | jnp.eye(d, dtype=bool)

    def step(base, _):
        logp = component_logprob(base, y, period, periodic)
        share = jax.nn.softmax(logp, axis=1)
        count = jnp.sum(share, axis=0) + 1e-6
        delta = wrap(y[:, None] - base.means, period)
        move = jnp.einsum("nk,nkd->kd", share, delta) / count[:, None]
        cov = jnp.einsum("nk,nkd,nke->kde", share, delta, delta) / count[:, None, None] - move[:, :, None] * move[:, None, :]
        cov = jnp.where(coupled, cov, 0.0)
        round_cov = jnp.trace(cov, axis1=1, axis2=2)[:, None, None] / d * jnp.eye(d, dtype=y.dtype)
        prior = d + 2.0
        cov = (count[:, None, None] * cov + prior * round_cov) / (count[:, None, None] + prior) + 1e-8 * jnp.eye(d, dtype=y.dtype)
        means = wrap(base.means + move, period)
        return Components(jnp.log(count / jnp.sum(count)), means, jnp.linalg.cholesky(cov)), None

    start = Components(jnp.full(k, -jnp.log(k), y.dtype), means, factors)
    return jax.lax.scan(step, start, None, length=EM_ITERATIONS)[0]


@dataclasses.dataclass(frozen=True)
class MixtureCNF:
    """Settings of a continuous normalising flow whose base is a Gaussian mixture.

    Each data point is paired with a draw from its own component (by responsibility), so modes far apart need no long paths. A share of
    each component is wider, which keeps importance weights bounded where the flow is too narrow.

    Attributes
    ----------
    components : number of Gaussians.
    wide_share, wide_scale : share of draws from widened components, and how much wider they are.
    width, depth : units per hidden layer, number of hidden layers.
    ode_steps : steps of the ODE solver.
    training : settings of the fit.
    """

    components: int = 24
    wide_share: float = 0.15
    wide_scale: float = 1.5
    width: int = 128
    depth: int = 3
    ode_steps: int = 4
    training: matching.Training = matching.Training(steps=100, rounds=15, patience=2, batch=256, learning_rate=2e-3, ema=0.98, jitter=0.0)

    def build(self, space) -> MixtureFlow:
        """Make the flow's functions for a `Space`."""
        net = network.VelocityField(space.dim, self.width, self.depth)
        circle = jnp.array(space.periodic)
        period_of, velocity, whitened = coordinates(net, space)

        def widened(base):
            logs = jnp.log(jnp.array([1 - self.wide_share, self.wide_share], base.means.dtype))
            return Components(
                jnp.concatenate([base.logweights + logs[0], base.logweights + logs[1]]),
                jnp.tile(base.means, (2, 1)),
                jnp.concatenate([base.factors, self.wide_scale * base.factors]),
            )

        def spread_out(base, k, z):
            return base.means[k] + jnp.einsum("nij,nj->ni", base.factors[k], z)

        def init(key):
            dtype = jnp.zeros(()).dtype
            params = first_params(key, net, space)
            scale = jnp.diag(jnp.where(circle, jnp.pi, 1.0).astype(dtype))
            k = self.components
            base = Components(
                jnp.full(k, -jnp.log(k), dtype), jnp.zeros((k, space.dim), dtype), jnp.tile(jnp.eye(space.dim, dtype=dtype), (k, 1, 1))
            )
            opt_state = matching.optimiser(self.training).init(params)
            return MixtureState(params, params, opt_state, jnp.zeros(space.dim, dtype), scale, base)

        def fit(key, state, x, weights):
            k_base, k_fit = jax.random.split(key)
            shift, scale = matching.whiten(x, weights, space.periodic)
            state = state._replace(shift=shift, scale=scale)
            period, y = period_of(state), whitened(state, x)
            base = fit_components(k_base, y[:EM_ROWS], self.components, period, space.periodic)

            def from_component(key, z, y1, period):
                k = jax.random.categorical(key, component_logprob(base, y1, period, space.periodic))
                return wrap(spread_out(base, k, z), period), y1

            learned, info = matching.fit(
                k_fit, (state.params, state.ema_params, state.opt_state), y, weights, period,
                velocity=lambda p, y, t: velocity(p, y, t, period), coupling=from_component, training=self.training,
            )  # fmt: skip
            return MixtureState(*learned, shift, scale, base), info

        def base_logq(state, y0, logdet, period):
            density = jax.nn.logsumexp(component_logprob(widened(state.base), y0, period, space.periodic), axis=1)
            return density - logdet - jnp.sum(jnp.log(jnp.diag(state.scale)))

        def sample(key, state, n):
            k_component, k_normal = jax.random.split(key)
            period, base = period_of(state), widened(state.base)
            k = jax.random.categorical(k_component, base.logweights, shape=(n,))
            y0 = wrap(spread_out(base, k, jax.random.normal(k_normal, (n, space.dim), base.means.dtype)), period)
            y1, logdet = transport(lambda y, t: velocity(state.ema_params, y, t, period), y0, steps=self.ode_steps)
            return space.wrap(state.shift + y1 @ state.scale.T), base_logq(state, y0, logdet, period)

        def logq(state, x):
            period = period_of(state)
            y0, logdet = transport(
                lambda y, t: velocity(state.ema_params, y, t, period), whitened(state, x), steps=self.ode_steps, backward=True
            )
            return base_logq(state, wrap(y0, period), logdet, period)

        return MixtureFlow(init, fit, sample, logq)
