"""Interpolants between base and data, on the line and on the circle."""

import jax
import jax.numpy as jnp
import numpy as np

from fusions.numerics import pick_columns, uniforms

WINDINGS = 4
LOG_2PI = float(np.log(2 * np.pi))


def wrap(y, period):
    """Bring y (..., d) into [-period/2, period/2); an infinite period leaves it."""
    finite = jnp.isfinite(period)
    safe = jnp.where(finite, period, 1.0)
    return jnp.where(finite, y - safe * jnp.floor(y / safe + 0.5), y)


def straight(y0, y1, t, period):
    """Compute the straight (geodesic) path of flow matching.

    y_t = y0 + t (y1 - y0), velocity y1 - y0 (Lipman et al. 2023, arXiv:2210.02747); the difference is the shorter arc where a
    coordinate is an angle.

    Returns
    -------
    (y_t, velocity), both (n, d).
    """
    velocity = wrap(y1 - y0, period)
    return wrap(y0 + t[:, None] * velocity, period), velocity


def _winding_terms(y, period):
    """Return log N(y + k period) for k = -4..4, shape (9, n, d); only k = 0 counts on the line."""
    k = jnp.arange(-WINDINGS, WINDINGS + 1, dtype=y.dtype).reshape(-1, 1, 1)
    finite = jnp.isfinite(period)
    turned = y + k * jnp.where(finite, period, 0.0)
    terms = -0.5 * turned**2 - 0.5 * LOG_2PI
    return jnp.where(finite | (k == 0), terms, -jnp.inf)


def base_logprob(y, period, periodic):
    """Compute the base log density of y (n, d): normal on the line, wrapped normal on the circle; returns (n,)."""
    if not any(periodic):
        return jnp.sum(-0.5 * y**2 - 0.5 * LOG_2PI, axis=-1)
    return jnp.sum(jax.nn.logsumexp(_winding_terms(y, period), axis=0), axis=-1)


def unwind(key, y, period, periodic):
    """Draw the latent z (n, d) whose wrapped value is y: the winding number has its conditional law under the base."""
    if not any(periodic):
        return y
    k = pick_columns(*uniforms(key, y.dtype, y.shape), jnp.moveaxis(_winding_terms(y, period), 0, -1)) - WINDINGS
    return y + k.astype(y.dtype) * jnp.where(jnp.isfinite(period), period, 0.0)
