"""Flow-matching regression: loss, whitening, warm-started fit (the only file that knows optax)."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fusions.flows.base import FitInfo
from fusions.flows.path import straight
from fusions.numerics import draw_rows, drawn, least_width


class Training(NamedTuple):
    """Settings of a fit.

    Attributes
    ----------
    steps : optimiser steps per round.
    rounds : most rounds per fit; the held-out loss is looked at after each.
    patience : rounds without a better held-out loss before the fit stops.
    batch : minibatch size.
    learning_rate : of Adam.
    ema : decay of the moving average of parameters, per step.
    hold_every : every such slot is kept out of training.
    jitter : standard deviation of the noise on training points, in whitened units; against overfitting.
    """

    steps: int = 16
    rounds: int = 3
    patience: int = 1
    batch: int = 128
    learning_rate: float = 2e-3
    ema: float = 0.95
    hold_every: int = 8
    jitter: float = 0.2

    def held_out(self, n):
        """Mark the slots of n that a fit does not train on, as numpy flags (n,)."""
        return np.arange(n) % self.hold_every == 0


def optimiser(training):
    """Make the optimiser: Adam with clipped gradients."""
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(training.learning_rate))


def whiten(x, weights, periodic, *, floor=1e-3):
    """Compute shift (d,) and lower triangular scale (d, d) of weighted points x (n, d).

    On the line: mean and Cholesky factor of the covariance, whose correlation matrix is shrunk towards the identity by
    `floor` so that a rank-deficient population stays invertible. On the circle: mean direction and the standard
    deviation sqrt(-2 ln R) of a wrapped normal with the same resultant length R, at most pi.
    """
    circle, least = jnp.array(periodic), least_width(x.dtype)
    p = weights / jnp.sum(weights)
    shift = jnp.where(circle, jnp.arctan2(p @ jnp.sin(x), p @ jnp.cos(x)), p @ x)
    delta = jnp.where(circle, 0.0, x - shift)
    cov = (delta * p[:, None]).T @ delta
    width = jnp.sqrt(jnp.diag(cov)) + least * (jnp.abs(shift) + 1e-3)
    corr = cov / (width[:, None] * width[None]) / (1 + floor)
    corr = jnp.where(jnp.eye(len(circle), dtype=bool), 1.0, corr)
    short = jnp.clip(p @ (2 * jnp.sin(0.5 * (x - shift)) ** 2), 0.0, 1 - 1e-9)  # 1 - R, with all digits of narrow angles
    sigma = jnp.clip(jnp.sqrt(-2 * jnp.log1p(-short)), least, jnp.pi)
    scale = jnp.where(circle, jnp.diag(sigma), width[:, None] * jnp.linalg.cholesky(corr))
    return shift, jnp.tril(scale)


def unscaled(y, error):
    """Leave errors (n, d) of the velocity at y (n, d) as they are."""
    del y
    return error


def matching_loss(velocity, key, y1, period, coupling, local=unscaled):
    """Compute the flow-matching loss |v(y_t, t) - (y1 - y0)|^2 per dimension, for data y1 (n, d).

    `local` (y_t, error) -> error expresses the error in the units of its place; the minimum stays where it is.
    """
    k_base, k_time, k_pair = jax.random.split(key, 3)
    y0, y1 = coupling(k_pair, drawn(jax.random.normal, k_base, y1.shape, y1.dtype), y1, period)
    n = len(y1)
    t = (jnp.arange(n, dtype=y1.dtype) + jax.random.uniform(k_time, (n,), y1.dtype)) / n
    y_t, v = straight(y0, y1, t, period)
    return jnp.mean(local(y_t, velocity(y_t, t) - v) ** 2)


def fit(key, state, y, weights, period, *, velocity: Callable, coupling: Callable, training: Training, local: Callable = unscaled):
    """Fit the velocity field to whitened points by warm-started Adam.

    Rounds of `training.steps` steps; after each the averaged parameters are judged on held-out points with fixed noise, the best
    are kept, and `training.patience` rounds without improvement end the fit.

    Parameters
    ----------
    key : random key.
    state : (params, ema_params, opt_state).
    y : (n, d) whitened points.
    weights : (n,) weights, 0 = ignored.
    period : (d,) periods, inf on the line.
    velocity : function (params, y, t (n,)) -> (n, d).

    Returns
    -------
    (params, ema_params, opt_state), FitInfo
    """
    k_held, k_data, k_rounds = jax.random.split(key, 3)
    opt = optimiser(training)
    keep = ~training.held_out(len(weights))
    rest = jnp.where(keep, 0.0, weights)
    held_rows = y[draw_rows(k_data, jnp.where(jnp.any(rest > 0), rest, weights), 2 * training.batch)]
    train = jnp.where(keep, weights, 0.0)
    train = jnp.where(jnp.any(train > 0), train, weights)

    def loss_of(params, k, rows):
        return matching_loss(lambda y, t: velocity(params, y, t), k, rows, period, coupling, local)

    def step(carry, k):
        params, ema, opt_state = carry
        k_rows, k_loss, k_jitter = jax.random.split(k, 3)
        rows = y[draw_rows(k_rows, train, training.batch)]
        rows = rows + training.jitter * drawn(jax.random.normal, k_jitter, rows.shape, rows.dtype)
        loss, grad = jax.value_and_grad(loss_of)(params, k_loss, rows)
        update, opt_state = opt.update(grad, opt_state, params)
        params = optax.apply_updates(params, update)
        ema = optax.incremental_update(params, ema, 1 - training.ema)
        return (params, ema, opt_state), loss

    def body(carry):
        i, since, state, best, best_loss, _ = carry
        state, losses = jax.lax.scan(step, state, jax.random.split(jax.random.fold_in(k_rounds, i), training.steps))
        now = loss_of(state[1], k_held, held_rows)
        better = now < best_loss
        best = jax.tree.map(lambda a, b: jnp.where(better, a, b), state[1], best)
        return i + 1, jnp.where(better, 0, since + 1), state, best, jnp.minimum(now, best_loss), losses[-1]

    start = loss_of(state[1], k_held, held_rows)
    at_rest = matching_loss(lambda y, t: jnp.zeros_like(y), k_held, held_rows, period, coupling, local)
    carry = (jnp.int32(0), jnp.int32(0), state, state[1], start, start)
    unfinished = lambda c: (c[0] < training.rounds) & (c[1] < training.patience)  # noqa: E731
    _, _, (params, _, opt_state), best, held_loss, loss = jax.lax.while_loop(unfinished, body, carry)
    return (params, best, opt_state), FitInfo(loss, held_loss, at_rest)
