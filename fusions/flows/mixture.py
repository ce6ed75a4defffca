"""A flow from a Gaussian mixture, for posteriors: each component carries its own mode, the velocity field bends them into shape."""

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fusions.flows import matching, network
from fusions.flows.base import FitInfo
from fusions.flows.cnf import coordinates, features
from fusions.flows.path import wrap
from fusions.flows.transport import transport

EM_ITERATIONS = 20
SOFT = 4.0  # squared widening of components where their units are blended, so that the velocity stays smooth between neighbours
EM_ROWS = 4096  # rows that the components are fitted to
MOST_TURN = 1 / (2 * np.pi)  # standard deviation of a component along an angle, in turns; wider ones would wind more than once
LOG_2PI = float(np.log(2 * np.pi))


class Components(NamedTuple):
    """A Gaussian mixture: ln weights (k,), means (k, d), lower triangular factors (k, d, d)."""

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
    """A normalised density that one can draw from.

    Attributes
    ----------
    init : key -> state.
    fit : (key, state, x (n, d)) -> (state, FitInfo).
    sample : (key, state, n) -> x (n, d).
    logq : (state, x (n, d)) -> (n,).
    roundtrip : (key, state, n) -> (n,) log q of draws of the flow along the solve that made them, minus log q computed back from them.
    """

    init: Callable[..., MixtureState]
    fit: Callable[..., tuple[MixtureState, FitInfo]]
    sample: Callable[..., Any]
    logq: Callable[..., Any]
    roundtrip: Callable[..., Any]


def inverse_factors(base):
    """Invert the factors (k, d, d)."""
    eye = jnp.broadcast_to(jnp.eye(base.factors.shape[-1], dtype=base.factors.dtype), base.factors.shape)
    return jax.scipy.linalg.solve_triangular(base.factors, eye, lower=True)


def log_volume(base):
    """Return ln of the determinant of each factor."""
    return jnp.sum(jnp.log(jnp.diagonal(base.factors, axis1=1, axis2=2)), axis=1)


def standardised(inverse, base, y, period):
    """Express y (n, d) in the units of each component: (n, k, d)."""
    return jnp.einsum("kij,nkj->nki", inverse, wrap(y[:, None] - base.means, period))


def windings(periodic):
    """List the turns (s, d) of angles that a wrapped component sums over: none, one angle by one, two angles by one each."""
    angles, rows = np.flatnonzero(periodic), [np.zeros(len(periodic))]
    for turned in itertools.chain(*(itertools.combinations(angles, m) for m in (1, 2))):
        for signs in itertools.product((-1.0, 1.0), repeat=len(turned)):
            rows.append(np.zeros(len(periodic)))
            rows[-1][list(turned)] = signs
    return np.array(rows)


def mixture_logprob(base, y, period, periodic):
    """Compute ln of the density of a mixture at y (n, d); its components are normal on the line, wrapped normal with angles."""
    inverse, d = inverse_factors(base), y.shape[1]
    turns = jnp.asarray(windings(periodic), y.dtype) * jnp.where(jnp.isfinite(period), period, 0.0)
    z = standardised(inverse, base, y, period)[:, :, None] + jnp.einsum("kij,sj->ksi", inverse, turns)
    logp = -0.5 * jnp.sum(z**2, axis=-1) + (base.logweights - log_volume(base) - 0.5 * d * LOG_2PI)[:, None]
    return jax.nn.logsumexp(logp, axis=(1, 2))


def draw_mixture(key, base, n):
    """Draw n points (n, d) of a mixture; angles are not wrapped."""
    k_component, k_normal = jax.random.split(key)
    k = jax.random.categorical(k_component, base.logweights, shape=(n,))
    return spread_out(base, k, jax.random.normal(k_normal, (n, base.means.shape[1]), base.means.dtype))


def spread_out(base, k, z):
    """Turn standard normals z (n, d) into points of components k (n,)."""
    return base.means[k] + jnp.einsum("nij,nj->ni", base.factors[k], z)


def responsibility(base, z, soft=1.0):
    """Return the share (n, k) of each component at points expressed in their units, nearest turn of angles only."""
    return jax.nn.softmax(base.logweights - 0.5 * jnp.sum(z**2, axis=-1) / soft - log_volume(base), axis=1)


def local_frames(base, period):
    """Make the function y (n, d) -> (u (n, d), factor (n, d, d), inverse (n, d, d)) of the components that share y.

    u is y in the units of its components and the factor takes velocities back, both averaged by responsibility.
    """
    inverse = inverse_factors(base)

    def frame(y):
        z = standardised(inverse, base, y, period)
        share = responsibility(base, z, SOFT)
        matrices = (jnp.einsum("nk,kij->nij", share, part) for part in (base.factors, inverse))
        return jnp.einsum("nk,nki->ni", share, z), *matrices

    return frame


def farthest_points(key, y, k, period):
    """Choose k centres among rows y (n, d), each with probability proportional to its squared distance from those before (k-means++)."""
    first = y[0]

    def choose(distance, key_i):
        row = y[jax.random.categorical(key_i, jnp.log(distance + 1e-30))]
        return jnp.minimum(distance, jnp.sum(wrap(y - row, period) ** 2, axis=1)), row

    distance, rows = jax.lax.scan(choose, jnp.sum(wrap(y - first, period) ** 2, axis=1), jax.random.split(key, k - 1))
    return jnp.concatenate([first[None], rows]), distance


def fit_components(key, y, known, period):
    """Fit Gaussians to rows y (n, d) by expectation maximisation from two starts, far points and `known` components; keep the likelier.

    Covariances shrink to isotropy where rows are few; no component is wider than `MOST_TURN` of a circle.
    """
    d, k = y.shape[1], len(known.logweights)
    means, distance = farthest_points(key, y, k, period)
    factors = jnp.broadcast_to(jnp.sqrt(jnp.mean(distance) / d + 1e-12) * jnp.eye(d, dtype=y.dtype), (k, d, d))

    def step(base, _):
        share = responsibility(base, standardised(inverse_factors(base), base, y, period))
        count = jnp.sum(share, axis=0) + 1e-6
        delta = wrap(y[:, None] - base.means, period)
        move = jnp.einsum("nk,nkd->kd", share, delta) / count[:, None]
        cov = jnp.einsum("nk,nkd,nke->kde", share, delta, delta) / count[:, None, None] - move[:, :, None] * move[:, None, :]
        round_cov = jnp.trace(cov, axis1=1, axis2=2)[:, None, None] / d * jnp.eye(d, dtype=y.dtype)
        prior = d + 2.0
        cov = (count[:, None, None] * cov + prior * round_cov) / (count[:, None, None] + prior) + 1e-8 * jnp.eye(d, dtype=y.dtype)
        narrower = jnp.minimum(MOST_TURN * period / jnp.sqrt(jnp.diagonal(cov, axis1=1, axis2=2)), 1.0)
        cov = narrower[:, :, None] * cov * narrower[:, None]
        means = wrap(base.means + move, period)
        return Components(jnp.log(count / jnp.sum(count)), means, jnp.linalg.cholesky(cov)), None

    def loglikelihood(base):
        z = standardised(inverse_factors(base), base, y, period)
        return jnp.mean(jax.nn.logsumexp(base.logweights - 0.5 * jnp.sum(z**2, axis=-1) - log_volume(base), axis=1))

    starts = Components(jnp.full(k, -jnp.log(k), y.dtype), means, factors), known
    fresh, again = (jax.lax.scan(step, start, None, length=EM_ITERATIONS)[0] for start in starts)
    keep = loglikelihood(again) > loglikelihood(fresh)
    return jax.tree.map(lambda a, b: jnp.where(keep, a, b), again, fresh)


def rescaled(base, shift, scale, old_scale):
    """Express components in new whitened coordinates; shift is the old origin minus the new one."""
    solve = jax.scipy.linalg.solve_triangular
    means = solve(scale, (shift + base.means @ old_scale.T).T, lower=True).T
    factors = solve(jnp.broadcast_to(scale, base.factors.shape), old_scale @ base.factors, lower=True)
    return Components(base.logweights, means, factors)


@dataclasses.dataclass(frozen=True)
class MixtureCNF:
    """Settings of a continuous normalising flow whose base is a Gaussian mixture.

    Each data point is paired with a draw from its own component (by responsibility), so modes far apart need no long paths. A share of
    each component is wider, which keeps importance weights bounded where the flow is too narrow.

    Attributes
    ----------
    components : number of Gaussians of the base.
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
    ode_steps: int = 8
    training: matching.Training = matching.Training(steps=100, rounds=15, patience=2, batch=256, learning_rate=2e-3, ema=0.98, jitter=0.0)

    def build(self, space) -> MixtureFlow:
        """Make the flow's functions for a `Space`."""
        net, dim = network.VelocityField(space.dim, self.width, self.depth), space.dim
        circle = jnp.array(space.periodic)
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

        def widened(base):
            logs = jnp.log(jnp.array([1 - self.wide_share, self.wide_share], base.means.dtype))
            return Components(
                jnp.concatenate([base.logweights + logs[0], base.logweights + logs[1]]),
                jnp.tile(base.means, (2, 1)),
                jnp.concatenate([base.factors, self.wide_scale * base.factors]),
            )

        def init(key):
            dtype = jnp.zeros(()).dtype
            x, k = jnp.zeros((1, dim), dtype), self.components
            params = net.init(key, inputs(x, x, jnp.where(circle, 2.0, jnp.inf).astype(dtype)), x[:, 0])
            scale = jnp.diag(jnp.where(circle, jnp.pi, 1.0).astype(dtype))
            base = Components(jnp.full(k, -jnp.log(k), dtype), jnp.zeros((k, dim), dtype), jnp.tile(jnp.eye(dim, dtype=dtype), (k, 1, 1)))
            return MixtureState(params, params, matching.optimiser(self.training).init(params), jnp.zeros(dim, dtype), scale, base)

        def fit(key, state, x):
            k_base, k_fit = jax.random.split(key)
            weights = jnp.ones(len(x), x.dtype)
            shift, scale = matching.whiten(x, weights, space.periodic)
            known = rescaled(state.base, space.wrap(state.shift - shift), scale, state.scale)
            state = state._replace(shift=shift, scale=scale)
            period, y = period_of(state), whitened(state, x)
            base = fit_components(k_base, y[:EM_ROWS], known, period)
            inverse = inverse_factors(base)

            def from_component(key, z, y1, period):
                k = jax.random.categorical(key, jnp.log(responsibility(base, standardised(inverse, base, y1, period))))
                return wrap(spread_out(base, k, z), period), y1

            velocity, local = local_velocity(base, period)
            learned, info = matching.fit(
                k_fit, (state.params, state.ema_params, state.opt_state), y, weights, period,
                velocity=velocity, coupling=from_component, training=self.training, local=local,
            )  # fmt: skip
            return MixtureState(*learned, shift, scale, base), info

        def mover(state, period, *, backward=False, divergence=True):
            velocity = local_velocity(state.base, period)[0]
            field = lambda y, t: velocity(state.ema_params, y, t)  # noqa: E731
            return lambda y: transport(field, y, steps=self.ode_steps, backward=backward, divergence=divergence)

        def sample(key, state, n):
            period = period_of(state)
            y0 = wrap(draw_mixture(key, widened(state.base), n), period)
            y1, _ = mover(state, period, divergence=False)(y0)
            return space.wrap(state.shift + y1 @ state.scale.T)

        def base_logq(state, y0, logdet, period):
            return mixture_logprob(widened(state.base), y0, period, space.periodic) - logdet - jnp.sum(jnp.log(jnp.diag(state.scale)))

        def logq(state, x):
            period = period_of(state)
            y0, logdet = mover(state, period, backward=True)(whitened(state, x))
            return base_logq(state, wrap(y0, period), logdet, period)

        def roundtrip(key, state, n):
            period = period_of(state)
            y0 = wrap(draw_mixture(key, widened(state.base), n), period)
            y1, logdet = mover(state, period)(y0)
            return base_logq(state, y0, logdet, period) - logq(state, space.wrap(state.shift + y1 @ state.scale.T))

        return MixtureFlow(init, fit, sample, logq, roundtrip)
