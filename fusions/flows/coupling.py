"""Pairing of base draws with data points for flow matching."""

import jax
import jax.numpy as jnp

from fusions.flows.path import wrap


def independent(key, y0, y1, period):
    """Pair normal draws (n, d) and data (n, d) as they come."""
    del key
    return wrap(y0, period), y1


def optimal_transport(key, y0, y1, period, *, regularisation=0.05, iterations=30):
    """Re-pair a minibatch by entropic optimal transport.

    Sinkhorn iterations on squared distances, then each data point draws its base partner from its column of the plan
    (Tong et al. 2024, arXiv:2302.00482).

    Parameters
    ----------
    key : random key.
    y0, y1 : (n, d) normal draws and data.
    period : (d,) period of each coordinate, inf on the line.
    regularisation : in units of the mean cost.
    iterations : number of Sinkhorn iterations.
    """
    y0 = wrap(y0, period)
    cost = jnp.sum(wrap(y0[:, None] - y1[None], period) ** 2, axis=-1)
    logK = -cost / (regularisation * jnp.mean(cost))

    def iterate(_, g):
        f = -jax.nn.logsumexp(logK + g[None, :], axis=1)
        return -jax.nn.logsumexp(logK + f[:, None], axis=0)

    g = jax.lax.fori_loop(0, iterations, iterate, jnp.zeros(len(y1), y1.dtype))
    f = -jax.nn.logsumexp(logK + g[None, :], axis=1)
    partner = jax.random.categorical(key, logK + f[:, None], axis=0)
    return y0[partner], y1
