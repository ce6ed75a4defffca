"""Interpolants between base and data, on the line and on the circle."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from fusions.numerics import pick_columns, uniforms
from fusions.types import Array

WINDINGS = 4
LOG_2PI = float(np.log(2 * np.pi))


def wrap(w: Array, period: Array) -> Array:
    """Bring w (..., d) into [-period/2, period/2); an infinite period leaves it."""
    finite = jnp.isfinite(period)
    safe = jnp.where(finite, period, 1.0)
    return jnp.where(finite, w - safe * jnp.floor(w / safe + 0.5), w)


def straight(w0: Array, w1: Array, t: Array, period: Array) -> tuple[Array, Array]:
    """Compute the straight (geodesic) path of flow matching.

    w_t = w0 + t (w1 - w0), velocity w1 - w0 (Lipman et al. 2023, arXiv:2210.02747); the difference is the shorter arc where a
    coordinate is an angle.

    Parameters
    ----------
    w0, w1 : (n, d) ends of the path, at the base and at the data.
    t : (n,) times in [0, 1].
    period : (d,) period of each coordinate, inf on the line.

    Returns
    -------
    (w_t, velocity), both (n, d).
    """
    velocity = wrap(w1 - w0, period)
    return wrap(w0 + t[:, None] * velocity, period), velocity


def _winding_terms(w, period):
    """Return log N(w + k period) for k = -4..4, shape (9, n, d); only k = 0 counts on the line."""
    k = jnp.arange(-WINDINGS, WINDINGS + 1, dtype=w.dtype).reshape(-1, 1, 1)
    finite = jnp.isfinite(period)
    turned = w + k * jnp.where(finite, period, 0.0)
    terms = -0.5 * turned**2 - 0.5 * LOG_2PI
    return jnp.where(finite | (k == 0), terms, -jnp.inf)


def base_logprob(w: Array, period: Array, periodic: Sequence[bool]) -> Array:
    """Compute the base log density (n,) [nats]: normal on the line, wrapped normal on the circle.

    Parameters
    ----------
    w : (n, d) points.
    period : (d,) period of each coordinate, inf on the line.
    periodic : d flags, True for angles.
    """
    if not any(periodic):
        return jnp.sum(-0.5 * w**2 - 0.5 * LOG_2PI, axis=-1)
    return jnp.sum(jax.nn.logsumexp(_winding_terms(w, period), axis=0), axis=-1)


def unwind(key: Array, w: Array, period: Array, periodic: Sequence[bool]) -> Array:
    """Draw the latent z (n, d) whose wrapped value is w: the winding number has its conditional law under the base.

    Parameters
    ----------
    key : random key.
    w : (n, d) points at the base.
    period : (d,) period of each coordinate, inf on the line.
    periodic : d flags, True for angles.
    """
    if not any(periodic):
        return w
    (u,) = uniforms(key, w.dtype, w.shape)
    k = pick_columns(u, jnp.moveaxis(_winding_terms(w, period), 0, -1)) - WINDINGS
    return w + k.astype(w.dtype) * jnp.where(jnp.isfinite(period), period, 0.0)
