"""Kernels beside a flow: a normal kernel, of two widths, around each of many points that the flow was fitted to.

What a fit misses, its points still hold; and where points are few, as in many dimensions, the flow is the better of the two.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fusions.flows.components import LOG_2PI, Components, inverse_factors, log_volume, spread_out, standardised

WIDE_SHARE, WIDE = 0.25, 2.5  # share of draws from kernels that are so many times wider
ITERATIONS = 20  # of expectation maximisation of the share of the kernels
MOST_TURN = 0.1  # standard deviation of a wide kernel along an angle, in turns: it ends before it has gone round


class Blend(NamedTuple):
    """State of a flow, the centres (k, d) of the kernels beside it, and their share of the draws."""

    flow: Any
    centres: Any
    share: Any


def kernels_at(centres, factors, period):
    """Make kernels at centres (k, d) from lower triangular factors (k, d, d) of the covariance of the points around each.

    The bandwidth is that of Silverman 1986 (Density Estimation for Statistics and Data Analysis, eq. 4.14).
    """
    k, d = centres.shape
    factors = factors * (4 / ((d + 2) * k)) ** (1 / (d + 4))
    widths = jnp.sqrt(jnp.sum(factors**2, axis=2))
    factors = factors * jnp.minimum(MOST_TURN / WIDE * period / widths, 1.0)[:, :, None]
    return Components(jnp.full(k, -jnp.log(k), centres.dtype), centres, factors)


def draw(key, kernels, n):
    """Draw n points (n, d); angles are not wrapped."""
    k_centre, k_wide, k_normal = jax.random.split(key, 3)
    means = kernels.means
    k = jax.random.randint(k_centre, (n,), 0, len(means))
    width = jnp.where(jax.random.bernoulli(k_wide, WIDE_SHARE, (n, 1)), WIDE, 1.0).astype(means.dtype)
    return spread_out(kernels, k, width * jax.random.normal(k_normal, (n, means.shape[1]), means.dtype))


def logprob(kernels, x, period):
    """Compute ln of the density at x (n, d)."""
    d = x.shape[1]
    half = -0.5 * jnp.sum(standardised(inverse_factors(kernels), kernels, x, period) ** 2, axis=-1)
    shapes = jnp.logaddexp(jnp.log1p(-WIDE_SHARE) + half, jnp.log(WIDE_SHARE) - d * jnp.log(WIDE) + half / WIDE**2)
    return jax.nn.logsumexp(shapes + kernels.logweights - log_volume(kernels), axis=1) - 0.5 * d * LOG_2PI


def best_share(logq, log_kernels, least):
    """Find the share of kernels that makes a mixture likeliest, from ln of both densities (n,) at points that neither has seen.

    Both keep the share `least` at least.
    """

    def step(share, _):
        theirs = jax.nn.sigmoid(jnp.log(share) - jnp.log1p(-share) + log_kernels - logq)
        return jnp.clip(jnp.mean(theirs), least, 1 - least), None

    return jax.lax.scan(step, jnp.full((), 0.5, logq.dtype), None, length=ITERATIONS)[0]


def with_kernels(flow, factors_at, space, settings):
    """Give a share of a flow's draws to kernels, as large as points held out from the fit want it.

    Parameters
    ----------
    flow : `MixtureFlow`.
    factors_at : (its state, x (n, d)) -> lower triangular factors (n, d, d) of the covariance of the points around each x.
    space : `Space`
    settings : `MixtureCNF`: number of kernels, least share of the draws that they and the flow get, rows that a fit does not train on.

    Returns
    -------
    MixtureFlow whose state is a `Blend`; the error of its solver is that of the flow alone, and its paths end at the draws of the flow.
    """
    period = jnp.where(jnp.array(space.periodic), 2 * jnp.pi, jnp.inf)

    def kernels_of(state):
        return kernels_at(state.centres, factors_at(state.flow, state.centres), period)

    def log_kernels(state, x):
        kernels = kernels_of(state)
        return space.layout.rowwise(lambda x: logprob(kernels, x, period))(x)

    def init(key):
        dtype = jnp.zeros(()).dtype
        return Blend(flow.init(key), jnp.zeros((settings.kernels, space.dim), dtype), jnp.full((), settings.least_share, dtype))

    def fit(key, state, x):
        learned, info = flow.fit(key, state.flow, x)
        held = np.arange(len(x)) % settings.training.hold_every == 0
        state, unseen = Blend(learned, x[~held][: settings.kernels], state.share), x[held]
        share = best_share(flow.logq(learned, unseen), log_kernels(state, unseen), settings.least_share)
        return state._replace(share=share), info

    def sample(key, state, n):
        k_flow, k_kernels = jax.random.split(key)
        theirs = space.wrap(draw(k_kernels, kernels_of(state), n))
        chosen = jnp.arange(n) < jnp.round(state.share * n)
        return jnp.where(chosen[:, None], theirs, flow.sample(k_flow, state.flow, n))

    def logq(state, x):
        return jnp.logaddexp(jnp.log1p(-state.share) + flow.logq(state.flow, x), jnp.log(state.share) + log_kernels(state, x))

    def roundtrip(key, state, n):
        return flow.roundtrip(key, state.flow, n)

    def path(key, state, n, times):
        return flow.path(jax.random.split(key)[0], state.flow, n, times)

    return flow._replace(init=init, fit=fit, sample=sample, logq=logq, roundtrip=roundtrip, path=path)
