"""Flow-matching regression: loss, whitening, warm-started fit (the only file that knows optax)."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fusions.flows.base import FitInfo
from fusions.flows.path import straight
from fusions.numerics import least_width, normal_from, pick_rows, scattered, uniforms
from fusions.types import Array


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


def unscaled(w, error):
    """Leave errors (n, d) of the velocity at w (n, d) as they are."""
    del w
    return error


class Batch(NamedTuple):
    """Points w (n, d) on their way from the base to the data at times t (n,), and the velocities v (n, d) that take them there."""

    w: Array
    t: Array
    v: Array


def make_batch(keys, w, edges, n, jitter, period, coupling):
    """Choose n data points among rows w (m, d) with cumulated weights `edges` (m,) and pair them with draws from the base.

    Parameters
    ----------
    keys : two random keys, of the draws and of the coupling.
    jitter : standard deviation of the noise on the data points.

    Returns
    -------
    Batch
    """
    shift, times, noise, base = uniforms(keys[0], w.dtype, (), (n,), (2, n, w.shape[1]), (2, n, w.shape[1]))
    data = w[pick_rows(scattered(shift, n), edges)]
    data = data + jitter * normal_from(noise) if jitter else data
    w0, w1 = coupling(keys[1], normal_from(base), data, period)
    t = (jnp.arange(n, dtype=w.dtype) + times) / n
    w_t, v = straight(w0, w1, t, period)
    return Batch(w_t, t, v)


def matching_loss(velocity, batch, local=unscaled):
    """Compute the flow-matching loss |velocity(w, t) - v|^2 per dimension.

    `local` (w, error) -> error expresses the error in the units of its place; the minimum stays where it is.
    """
    return jnp.mean(local(batch.w, velocity(batch.w, batch.t) - batch.v) ** 2)


def fit(key, state, w, weights, period, *, velocity: Callable, coupling: Callable, training: Training, local: Callable = unscaled):
    """Fit the velocity field to whitened points by warm-started Adam.

    Rounds of `training.steps` steps; after each the averaged parameters are judged on held-out points with fixed noise, the best
    are kept, and `training.patience` rounds without improvement end the fit.

    Parameters
    ----------
    key : random key.
    state : (params, ema_params, opt_state).
    w : (n, d) whitened points.
    weights : (n,) weights, 0 = ignored.
    period : (d,) periods, inf on the line.
    velocity : function (params, w, t (n,)) -> (n, d).

    Returns
    -------
    (params, ema_params, opt_state), FitInfo
    """
    keys = jax.random.split(key, (1 + training.rounds * training.steps, 2))
    opt = optimiser(training)
    keep = ~training.held_out(len(weights))
    own = jnp.stack([jnp.where(keep, weights, 0.0), jnp.where(keep, 0.0, weights)])
    edges = jnp.cumsum(jnp.where(jnp.any(own > 0, axis=1, keepdims=True), own, weights), axis=1)
    held = make_batch(keys[0], w, edges[1], 2 * training.batch, 0.0, period, coupling)

    def loss_of(params, batch):
        return matching_loss(lambda w, t: velocity(params, w, t), batch, local)

    def step(i, carry):
        params, ema, opt_state, _ = carry
        batch = make_batch(keys[1 + i], w, edges[0], training.batch, training.jitter, period, coupling)
        loss, grad = jax.value_and_grad(loss_of)(params, batch)
        update, opt_state = opt.update(grad, opt_state, params)
        params = optax.apply_updates(params, update)
        ema = optax.incremental_update(params, ema, 1 - training.ema)
        return params, ema, opt_state, loss

    def judged(carry):
        i, since, state, best, best_loss, loss = carry
        last = i * training.steps  # none before the first look, so that all looks are compiled once
        *state, loss = jax.lax.fori_loop(jnp.maximum(last - training.steps, 0), last, step, (*state, loss))
        now = loss_of(state[1], held)
        better = now < best_loss
        best = jnp.where(better, state[1], best)
        return i + 1, jnp.where(better, 0, since + 1), tuple(state), best, jnp.minimum(now, best_loss), loss

    at_rest = matching_loss(lambda w, t: jnp.zeros_like(w), held, local)
    carry = (jnp.int32(0), jnp.int32(0), state, state[1], jnp.full_like(at_rest, jnp.inf), at_rest)
    unfinished = lambda c: (c[0] <= training.rounds) & (c[1] < training.patience)  # noqa: E731
    _, _, (params, _, opt_state), best, held_loss, loss = jax.lax.while_loop(unfinished, judged, carry)
    return (params, best, opt_state), FitInfo(loss, held_loss, at_rest)
