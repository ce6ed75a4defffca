"""What stands beside a flow: its base as it is, and a normal kernel, of two widths, around each of many points it was fitted to.

What a fit misses, its points still hold; and where points are few, as in many dimensions, base and flow are better.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fusions.flows.gaussian_mixture import Components, exponent, inverse_factors, log_volume, spread_out
from fusions.flows.path import LOG_2PI
from fusions.numerics import normal_from, uniforms
from fusions.types import Array, Space

WIDE_SHARE, WIDE = 0.25, 2.5  # share of draws from kernels that are so many times wider
GROUP = 256  # kernels whose densities are computed at once: more do not fit into the cache of a core
ITERATIONS = 20  # of expectation maximisation of the shares
MOST_TURN = 0.1  # standard deviation of a wide kernel along an angle, in turns: it ends before it has gone round


class Blend(NamedTuple):
    """State of a flow, the centres (k, d) of the kernels beside it, and the shares (3,) of kernels, base and flow in the draws.

    A flow that has learned no velocity has no share.
    """

    flow: Any
    centres: Array
    shares: Array


def has_velocity(state: Blend) -> bool:
    """Tell whether the flow of a `Blend` has learned a velocity."""
    return bool(np.asarray(state.shares)[2] > 0)


def kernels_at(centres: Array, factors: Array, period: Array) -> Components:
    """Make kernels of the bandwidth of Silverman 1986 (Density Estimation for Statistics and Data Analysis, eq. 4.14).

    Parameters
    ----------
    centres : (k, d) where they are.
    factors : (k, d, d) lower triangular, of the covariance of the points around each.
    period : (d,) period of each coordinate, inf on the line.
    """
    k, d = centres.shape
    factors = factors * (4 / ((d + 2) * k)) ** (1 / (d + 4))
    widths = jnp.sqrt(jnp.sum(factors**2, axis=2))
    factors = factors * jnp.minimum(MOST_TURN / WIDE * period / widths, 1.0)[:, :, None]
    return Components(jnp.full(k, -jnp.log(k), centres.dtype), centres, factors)


def draw(key: Array, kernels: Components, n: int) -> Array:
    """Draw points (n, d) of kernels; angles are not wrapped.

    Parameters
    ----------
    key : random key.
    kernels : from `kernels_at`.
    n : number of points.
    """
    means = kernels.means
    centre, wide, noise = uniforms(key, means.dtype, (n,), (n, 1), (2, n, means.shape[1]))
    width = jnp.where(wide < WIDE_SHARE, WIDE, 1.0).astype(means.dtype)
    return spread_out(kernels, (centre * len(means)).astype(jnp.int32), width * normal_from(noise))


def logprob(kernels: Components, x: Array, period: Array) -> Array:
    """Compute ln of the density (n,) of kernels [nats].

    Parameters
    ----------
    kernels : from `kernels_at`.
    x : (n, d) points.
    period : (d,) period of each coordinate, inf on the line.
    """
    columns, around, d = x.T, period[:, None], x.shape[1]
    narrow, wide = jnp.log1p(-WIDE_SHARE), jnp.log(WIDE_SHARE) - d * jnp.log(WIDE)

    def of_one(kernel):
        mean, inverse, logscale = kernel
        half = exponent(mean, inverse, columns, around)
        return logscale + jnp.stack([narrow + half, wide + half / WIDE**2])

    parts = kernels.means, inverse_factors(kernels), kernels.logweights - log_volume(kernels)
    return jax.nn.logsumexp(jax.lax.map(of_one, parts, batch_size=GROUP), axis=(0, 1)) - 0.5 * d * LOG_2PI


def best_shares(logq: Array, least: Array) -> Array:
    """Find the shares (m,) that make a mixture likeliest, from ln of its densities (m, n) at points that none has seen.

    Each keeps its `least` share (m,).
    """

    def step(shares, _):
        theirs = jnp.mean(jax.nn.softmax(jnp.log(shares)[:, None] + logq, axis=0), axis=1)
        small = theirs < least
        rest = jnp.where(small, 0.0, theirs)
        return jnp.where(small, least, rest * (1 - jnp.sum(jnp.where(small, least, 0.0))) / jnp.sum(rest)), None

    return jax.lax.scan(step, jnp.full(len(logq), 1 / len(logq), logq.dtype), None, length=ITERATIONS)[0]


def with_others(flow: Any, base: tuple[Callable, Callable], factors_at: Callable, space: Space, settings: Any):
    """Give shares of a flow's draws to kernels and to its base as it is, as large as points held out from the fit want them.

    In many dimensions the noise of a velocity field costs more than it mends, if the posterior is nearly a mixture of few Gaussians.

    Parameters
    ----------
    flow : `MixtureFlow`.
    base : (key, its state, n) -> x (n, d), and (its state, x (n, d)) -> ln of the density (n,).
    factors_at : (its state, x (n, d)) -> lower triangular factors (n, d, d) of the covariance of the points around each x.
    space : `Space`
    settings : `MixtureCNF`: number of kernels, least share of the draws that they and the flow get, rows that a fit does not train on.

    Returns
    -------
    MixtureFlow whose state is a `Blend`; the error of its solver is that of the flow alone, and its paths end at the draws of the flow.
    """
    period = jnp.asarray(np.where(space.periodic, 2 * np.pi, np.inf), jnp.result_type(float))
    base_sample, base_logq = base

    def kernels_of(state):
        return kernels_at(state.centres, factors_at(state.flow, state.centres), period)

    def log_parts(state, x, with_velocity):
        kernels = kernels_of(state)
        log_kernels = space.layout.rowwise(lambda x: logprob(kernels, x, period))(x)
        log_flow = flow.logq(state.flow, x) if with_velocity else jnp.full(len(x), -jnp.inf, x.dtype)
        return jnp.stack([log_kernels, base_logq(state.flow, x), log_flow])

    def init(key):
        dtype = jnp.zeros(()).dtype
        return Blend(flow.init(key), jnp.zeros((settings.kernels, space.dim), dtype), jnp.full(3, 1 / 3, dtype))

    def fit(key, state, x, *, with_velocity=True):
        learned, info = flow.fit(key, state.flow, x, with_velocity=with_velocity)
        held = settings.training.held_out(len(x))
        state = Blend(learned, x[~held][: settings.kernels], state.shares)
        least = settings.least_share * jnp.array([1.0, 0.0, with_velocity], x.dtype)
        return state._replace(shares=best_shares(log_parts(state, x[held], with_velocity), least)), info

    def sample(key, state, n, *, with_velocity=True):
        k_flow, k_kernels, k_base = jax.random.split(key, 3)
        first, second = jnp.round(jnp.cumsum(state.shares)[:2] * n)
        i = jnp.arange(n)[:, None]
        theirs = jnp.where(i < first, space.wrap(draw(k_kernels, kernels_of(state), n)), base_sample(k_base, state.flow, n))
        return jnp.where(i < second, theirs, flow.sample(k_flow, state.flow, n)) if with_velocity else theirs

    def logq(state, x, *, with_velocity=True):
        return jax.nn.logsumexp(jnp.log(state.shares)[:, None] + log_parts(state, x, with_velocity), axis=0)

    def roundtrip(key, state, n):
        return flow.roundtrip(key, state.flow, n)

    def path(key, state, n, times):
        return flow.path(jax.random.split(key, 3)[0], state.flow, n, times)

    return flow._replace(init=init, fit=fit, sample=sample, logq=logq, roundtrip=roundtrip, path=path)
