"""Flow-matching regression: loss, whitening, warm-started fit (the only file that knows optax)."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

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

    def held_out(self, n: int) -> np.ndarray:
        """Mark the slots of n that a fit does not train on, as numpy flags (n,)."""
        return np.arange(n) % self.hold_every == 0


def optimiser(training: Training) -> optax.GradientTransformation:
    """Make the optimiser: Adam with clipped gradients."""
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(training.learning_rate))


def whiten(x: Array, weights: Array, periodic: Sequence[bool], *, floor: float = 1e-3) -> tuple[Array, Array]:
    """Compute shift (d,) and lower triangular scale (d, d) of weighted points.

    On the line: mean and Cholesky factor of the covariance, whose correlation matrix is shrunk towards the identity by
    `floor` so that a rank-deficient population stays invertible. On the circle: mean direction and the standard
    deviation sqrt(-2 ln R) of a wrapped normal with the same resultant length R, at most pi.

    Parameters
    ----------
    x : (n, d) points.
    weights : (n,) non-negative weights.
    periodic : d flags, True for angles.
    floor : shrinkage of the correlations.
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


def unscaled(w: Array, error: Array) -> Array:
    """Leave errors (n, d) of the velocity at w (n, d) as they are."""
    del w
    return error


class Batch(NamedTuple):
    """Points w (n, d) on their way from the base to the data at times t (n,), and the velocities v (n, d) that take them there."""

    w: Array
    t: Array
    v: Array


def make_batch(keys: Array, w: Array, edges: Array, n: int, jitter: float, period: Array, coupling: Callable) -> Batch:
    """Choose data points among rows and pair them with draws from the base.

    Parameters
    ----------
    keys : two random keys, of the draws and of the coupling.
    w : (m, d) whitened rows.
    edges : (m,) their cumulated weights.
    n : number of pairs.
    jitter : standard deviation of the noise on the data points.
    period : (d,) period of each coordinate, inf on the line.
    coupling : (key, z (n, d), w1 (n, d), period) -> (w0, w1), which draw belongs to which data point.
    """
    shift, times, noise, base = uniforms(keys[0], w.dtype, (), (n,), (2, n, w.shape[1]), (2, n, w.shape[1]))
    data = w[pick_rows(scattered(shift, n), edges)]
    data = data + jitter * normal_from(noise) if jitter else data
    w0, w1 = coupling(keys[1], normal_from(base), data, period)
    t = (jnp.arange(n, dtype=w.dtype) + times) / n
    w_t, v = straight(w0, w1, t, period)
    return Batch(w_t, t, v)


def matching_loss(velocity: Callable[[Array, Array], Array], batch: Batch, local: Callable[[Array, Array], Array] = unscaled) -> Array:
    """Compute the flow-matching loss () |velocity(w, t) - v|^2 per dimension.

    Parameters
    ----------
    velocity : function (w (n, d), t (n,)) -> (n, d).
    batch : points, times, and the velocities wanted there.
    local : function (w (n, d), error (n, d)) -> error in the units of its place; the minimum stays where it is.
    """
    return jnp.mean(local(batch.w, velocity(batch.w, batch.t) - batch.v) ** 2)


class Learned(NamedTuple):
    """Where the training of a network stands: parameters, their exponential moving average, state of the optimiser."""

    params: Any
    ema_params: Any
    opt_state: Any


class Search(NamedTuple):
    """A fit between two looks.

    Attributes
    ----------
    i, since : () looks at the held-out loss so far, and of them since the best one.
    learned : where the training stands.
    loss : () last training loss.
    best, best_loss : averaged parameters of the best look, and its held-out loss ().
    """

    i: Array
    since: Array
    learned: Learned
    loss: Array
    best: Any
    best_loss: Array


def _begun(learned, at_rest):
    """Return the `Search` before the first look; at_rest () is the loss of no velocity."""
    zero, worst = jnp.int32(0), jnp.full_like(at_rest, jnp.inf)
    return Search(i=zero, since=zero, learned=learned, loss=at_rest, best=learned.ema_params, best_loss=worst)


def _cumulated(weights, training):
    """Return the cumulated weights (2, n) of the points trained on and of those held out; of all, where one of these sets is empty."""
    keep = ~training.held_out(len(weights))
    own = jnp.stack([jnp.where(keep, weights, 0.0), jnp.where(keep, 0.0, weights)])
    return jnp.cumsum(jnp.where(jnp.any(own > 0, axis=1, keepdims=True), own, weights), axis=1)


def fit(
    key: Array,
    learned: tuple[Any, Any, Any],
    w: Array,
    weights: Array,
    period: Array,
    *,
    velocity: Callable[[Any, Array, Array], Array],
    coupling: Callable,
    training: Training,
    local: Callable[[Array, Array], Array] = unscaled,
) -> tuple[Learned, FitInfo]:
    """Fit the velocity field to whitened points by warm-started Adam.

    Rounds of `training.steps` steps; after each the averaged parameters are judged on held-out points with fixed noise, the best
    are kept, and `training.patience` rounds without improvement end the fit.

    Parameters
    ----------
    key : random key.
    learned : where the last fit ended, the fields of `Learned`.
    w : (n, d) whitened points.
    weights : (n,) weights, 0 = ignored.
    period : (d,) periods, inf on the line.
    velocity : function (params, w, t (n,)) -> (n, d).
    coupling, local : as in `make_batch` and `matching_loss`.
    training : settings.

    Returns
    -------
    Learned with the best of the averaged parameters, FitInfo
    """
    keys = jax.random.split(key, (1 + training.rounds * training.steps, 2))
    opt = optimiser(training)
    edges = _cumulated(weights, training)
    held = make_batch(keys[0], w, edges[1], 2 * training.batch, 0.0, period, coupling)

    def loss_of(params, batch):
        return matching_loss(lambda w, t: velocity(params, w, t), batch, local)

    def step(i, carry):
        (params, ema_params, opt_state), _ = carry
        batch = make_batch(keys[1 + i], w, edges[0], training.batch, training.jitter, period, coupling)
        loss, grad = jax.value_and_grad(loss_of)(params, batch)
        update, opt_state = opt.update(grad, opt_state, params)
        params = optax.apply_updates(params, update)
        return Learned(params, optax.incremental_update(params, ema_params, 1 - training.ema), opt_state), loss

    def judged(search):
        last = search.i * training.steps  # none before the first look, so that all looks are compiled once
        learned, loss = jax.lax.fori_loop(jnp.maximum(last - training.steps, 0), last, step, (search.learned, search.loss))
        now = loss_of(learned.ema_params, held)
        better = now < search.best_loss
        return Search(
            i=search.i + 1,
            since=jnp.where(better, 0, search.since + 1),
            learned=learned,
            loss=loss,
            best=jnp.where(better, learned.ema_params, search.best),
            best_loss=jnp.minimum(now, search.best_loss),
        )

    at_rest = matching_loss(lambda w, t: jnp.zeros_like(w), held, local)
    unfinished = lambda s: (s.i <= training.rounds) & (s.since < training.patience)  # noqa: E731
    search = jax.lax.while_loop(unfinished, judged, _begun(Learned(*learned), at_rest))
    return search.learned._replace(ema_params=search.best), FitInfo(search.loss, search.best_loss, at_rest)
