"""Gaussian mixtures in whitened coordinates, angles included: fit by expectation maximisation, density, draws."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from fusions.flows.path import LOG_2PI, wrap
from fusions.numerics import normal_from, pick_columns, pick_rows, uniforms
from fusions.types import Array

CANDIDATES = 4  # rows tried for each new centre
MOST_TURN = 1 / (2 * np.pi)  # standard deviation of a component along an angle, in turns; wider ones would wind more than once


class Components(NamedTuple):
    """A Gaussian mixture: ln weights (k,), means (k, d), lower triangular factors (k, d, d)."""

    logweights: Array
    means: Array
    factors: Array


class Axes(NamedTuple):
    """Principal axes of k components, longest last: column a of `directions[k]` (d, d), `widths[k, a]` the standard deviation along it."""

    directions: Array
    widths: Array


def standard_components(k: int, dim: int, dtype: DTypeLike) -> Components:
    """Make equal standard normal components.

    Parameters
    ----------
    k : how many.
    dim : number of coordinates.
    dtype : of the numbers.
    """
    return Components(jnp.full(k, -jnp.log(k), dtype), jnp.zeros((k, dim), dtype), jnp.tile(jnp.eye(dim, dtype=dtype), (k, 1, 1)))


def inverse_factors(base: Components) -> Array:
    """Invert the factors (k, d, d)."""
    eye = jnp.broadcast_to(jnp.eye(base.factors.shape[-1], dtype=base.factors.dtype), base.factors.shape)
    return jax.scipy.linalg.solve_triangular(base.factors, eye, lower=True)


def log_volume(base: Components) -> Array:
    """Return ln of the determinant (k,) of each factor."""
    return jnp.sum(jnp.log(jnp.diagonal(base.factors, axis1=1, axis2=2)), axis=1)


def standardised(inverse: Array, base: Components, w: Array, period: Array) -> Array:
    """Express points in the units of each component, z (n, k, d): it is standard normal in its own.

    Parameters
    ----------
    inverse : (k, d, d) `inverse_factors` of the components.
    base : the components.
    w : (n, d) points.
    period : (d,) period of each coordinate, inf on the line.
    """
    return jnp.einsum("kij,nkj->nki", inverse, wrap(w[:, None] - base.means, period))


def spread_out(base: Components, k: Array, z: Array) -> Array:
    """Turn points in the units of components into points w (n, d); angles are not wrapped.

    Parameters
    ----------
    base : the components.
    k : (n,) the component of each point.
    z : (n, d) the points, in its units.
    """
    return base.means[k] + jnp.einsum("nij,nj->ni", base.factors[k], z)


def exponent(mean: Array, inverse: Array, columns: Array, around: Array) -> Array:
    """Return -1/2 of the squared distance (n,) of points from the mean of a component, in its units; nearest turn of angles only.

    Parameters
    ----------
    mean, inverse : (d,), (d, d) of the component; the latter is the inverse of its factor.
    columns : (d, n) points.
    around : (d, 1) periods.
    """
    return -0.5 * jnp.sum((inverse @ wrap(columns - mean[:, None], around)) ** 2, axis=0)


def log_parts(base: Components, columns: Array, around: Array) -> Array:
    """Return ln of the part (k, n) of each component in the density, but for a constant.

    One component after the other: their differences from all points at once do not fit into the cache of a core.

    Parameters
    ----------
    base : the components.
    columns : (d, n) points.
    around : (d, 1) periods.
    """
    parts = base.means, inverse_factors(base), base.logweights - log_volume(base)

    def of_one(part):
        mean, inverse, logscale = part
        return logscale + exponent(mean, inverse, columns, around)

    return jax.lax.map(of_one, parts)


def log_shares(base: Components, z: Array, soft: float = 1.0) -> Array:
    """Return ln of the share (n, k) of each component at points, nearest turn of angles only.

    Parameters
    ----------
    base : the components.
    z : (n, k, d) the points in their units, from `standardised`.
    soft : factor on the squared distances' unit; above one, shares change slowly from component to component.
    """
    return jax.nn.log_softmax(base.logweights - 0.5 * jnp.sum(z**2, axis=-1) / soft - log_volume(base), axis=1)


def windings(periodic: Sequence[bool]) -> np.ndarray:
    """List the turns (s, d) of angles that a wrapped component sums over: none, one angle by one, two angles by one each."""
    angles, rows = np.flatnonzero(periodic), [np.zeros(len(periodic))]
    for turned in itertools.chain(*(itertools.combinations(angles, m) for m in (1, 2))):
        for signs in itertools.product((-1.0, 1.0), repeat=len(turned)):
            rows.append(np.zeros(len(periodic)))
            rows[-1][list(turned)] = signs
    return np.array(rows)


def mixture_logprob(base: Components, w: Array, period: Array, periodic: Sequence[bool]) -> Array:
    """Compute ln of the density (n,) of a mixture [nats]; its components are normal on the line, wrapped normal with angles.

    Parameters
    ----------
    base : the components.
    w : (n, d) points.
    period : (d,) period of each coordinate, inf on the line.
    periodic : d flags, True for angles.
    """
    inverse, d = inverse_factors(base), w.shape[1]
    turns = jnp.asarray(windings(periodic), w.dtype) * jnp.where(jnp.isfinite(period), period, 0.0)
    z = standardised(inverse, base, w, period)[:, :, None] + jnp.einsum("kij,sj->ksi", inverse, turns)
    logp = -0.5 * jnp.sum(z**2, axis=-1) + (base.logweights - log_volume(base) - 0.5 * d * LOG_2PI)[:, None]
    return jax.nn.logsumexp(logp, axis=(1, 2))


def draw_mixture(key: Array, base: Components, n: int) -> Array:
    """Draw points w (n, d) of a mixture; angles are not wrapped.

    Parameters
    ----------
    key : random key.
    base : the components.
    n : number of points.
    """
    u, noise = uniforms(key, base.means.dtype, (n,), (2, n, base.means.shape[1]))
    return spread_out(base, pick_columns(u, base.logweights), normal_from(noise))


def mixed(*parts: tuple[float, Components]) -> Components:
    """Join mixtures, given as pairs (share, `Components`)."""
    columns = zip(*((base.logweights + jnp.log(share), base.means, base.factors) for share, base in parts), strict=True)
    return Components(*map(jnp.concatenate, columns))


def widened(base: Components, scale: float) -> Components:
    """Make each component so many times wider."""
    return base._replace(factors=scale * base.factors)


def covariances(base: Components) -> Array:
    """Return the covariance (k, d, d) of each component."""
    return base.factors @ jnp.swapaxes(base.factors, 1, 2)


def principal_axes(base: Components) -> Axes:
    """Return the `Axes` of components."""
    variances, directions = jnp.linalg.eigh(covariances(base))
    return Axes(directions, jnp.sqrt(jnp.maximum(variances, jnp.finfo(variances.dtype).tiny)))


def elongated(base: Components, scale: float, period: Array) -> Components:
    """Make each component longer along its longest axis, but no wider than `MOST_TURN` of a circle.

    Parameters
    ----------
    base : the components.
    scale : how many times longer.
    period : (d,) period of each coordinate, inf on the line.
    """
    cov, axes = covariances(base), principal_axes(base)
    long = axes.widths[:, -1:] * axes.directions[:, :, -1]
    room = (MOST_TURN * period) ** 2 - jnp.diagonal(cov, axis1=1, axis2=2)
    more = jnp.clip(jnp.min(room / (long**2 + 1e-12), axis=1), 0.0, scale**2 - 1)
    return base._replace(factors=jnp.linalg.cholesky(cov + more[:, None, None] * long[:, :, None] * long[:, None, :]))


def far_points(key: Array, w: Array, weights: Array, k: int, period: Array) -> tuple[Array, Array]:
    """Choose centres among rows by greedy k-means++ (Arthur & Vassilvitskii 2007, section 5).

    A few rows are drawn with weight times squared distance from the centres before; the one that leaves the least distance is taken.

    Parameters
    ----------
    key : random key.
    w, weights : (n, d), (n,) rows.
    k : number of centres.
    period : (d,) period of each coordinate, inf on the line.

    Returns
    -------
    centres (k, d), and for each the mean squared distance (k,) of the rows from the nearest of it and those before.
    """

    def squared(row):
        return jnp.sum(wrap(w - row, period) ** 2, axis=1)

    def choose(distance, u):
        tried = w[pick_rows(u, jnp.cumsum(weights * distance + 1e-30))]
        left = jnp.minimum(distance, jax.vmap(squared)(tried))
        total = left @ weights
        best = jnp.argmin(total)
        return left[best], (tried[best], total[best])

    u_first, u_more = uniforms(key, w.dtype, (), (k - 1, CANDIDATES))
    first = w[pick_rows(u_first, jnp.cumsum(weights))]
    distance = squared(first)
    rows, totals = jax.lax.scan(choose, distance, u_more)[1]
    return jnp.concatenate([first[None], rows]), jnp.append(distance @ weights, totals) / jnp.sum(weights)


def equal_components(centres: Array, spread: Array) -> Components:
    """Make equal round components at centres (k, d), as wide as rows are from the nearest one, the last of the squared `spread` (k,)."""
    (k, d), dtype = centres.shape, centres.dtype
    width = jnp.sqrt(spread[-1] / d + 1e-12)
    return Components(jnp.full(k, -jnp.log(k), dtype), centres, jnp.tile(width * jnp.eye(d, dtype=dtype), (k, 1, 1)))


def improve(base: Components, w: Array, weights: Array, period: Array, sizes: Sequence[int]) -> Components:
    """Do one step of expectation maximisation on weighted rows, of several mixtures side by side.

    Correlations shrink where rows are few; no component is wider than `MOST_TURN` of a circle.

    Parameters
    ----------
    base : the components of all mixtures.
    w, weights : (n, d), (n,) rows.
    period : (d,) period of each coordinate, inf on the line.
    sizes : number of components of each mixture.
    """
    columns, around, d = w.T, period[:, None], w.shape[1]

    def moments(component):
        mean, share = component
        delta = wrap(columns - mean[:, None], around)
        return jnp.sum(share * delta, axis=1), (share * delta) @ delta.T

    logp = jnp.split(log_parts(base, columns, around), np.cumsum(sizes)[:-1])
    share = weights * jnp.concatenate([jax.nn.softmax(part, axis=0) for part in logp])
    count = jnp.sum(share, axis=1) + 1e-6
    move, cov = jax.lax.map(moments, (base.means, share))
    move = move / count[:, None]
    cov = cov / count[:, None, None] - move[:, :, None] * move[:, None, :]
    variances = jnp.diagonal(cov, axis1=1, axis2=2)[:, :, None] * jnp.eye(d, dtype=w.dtype)
    prior = d + 2.0
    cov = (count[:, None, None] * cov + prior * variances) / (count[:, None, None] + prior) + 1e-8 * jnp.eye(d, dtype=w.dtype)
    narrower = jnp.minimum(MOST_TURN * period / jnp.sqrt(jnp.diagonal(cov, axis1=1, axis2=2)), 1.0)
    cov = narrower[:, :, None] * cov * narrower[:, None]
    return Components(jnp.log(count / jnp.sum(weights)), wrap(base.means + move, period), jnp.linalg.cholesky(cov))


def best_fit(
    starts: Sequence[Components], w: Array, weights: Array, seen: Array, seen_weights: Array, period: Array, iterations: int
) -> Components:
    """Do some steps of expectation maximisation on weighted rows from each of several mixtures, side by side.

    Parameters
    ----------
    starts : the mixtures.
    w, weights : (n, d), (n,) rows that they are fitted to.
    seen, seen_weights : (m, d), (m,) rows that they are judged by.
    period : (d,) period of each coordinate, inf on the line.
    iterations : number of steps.

    Returns
    -------
    The one that makes the rows `seen` (m, d) likeliest, with components of no weight if another has more; never a failed one of nan.
    """
    sizes = [len(start.logweights) for start in starts]
    together = jax.tree.map(lambda *parts: jnp.concatenate(parts), *starts)
    fits = jax.lax.fori_loop(0, iterations, lambda _, base: improve(base, w, weights, period, sizes), together)
    ends = np.cumsum(sizes)
    parts = jnp.split(log_parts(fits, seen.T, period[:, None]), ends[:-1])
    scores = jnp.stack([seen_weights @ jax.nn.logsumexp(part, axis=0) for part in parts])
    best = jnp.argmax(jnp.where(jnp.isnan(scores), -jnp.inf, scores))
    place = np.arange(max(sizes))
    rows, used = jnp.take(ends - sizes, best) + place, place < jnp.take(np.array(sizes), best)
    chosen = jax.tree.map(lambda part: part[jnp.where(used, rows, 0)], fits)
    logweights = jnp.where(used, chosen.logweights, -jnp.inf)
    return chosen._replace(logweights=logweights - jax.nn.logsumexp(logweights))


def fit_components(key: Array, w: Array, weights: Array, known: Components, period: Array, iterations: int) -> Components:
    """Fit Gaussians to weighted rows from two starts, far points and `known` components; keep the likelier.

    Parameters
    ----------
    key : random key.
    w, weights : (n, d), (n,) rows.
    known : components to start from; as many are fitted.
    period : (d,) period of each coordinate, inf on the line.
    iterations : steps of expectation maximisation.
    """
    starts = [equal_components(*far_points(key, w, weights, len(known.logweights), period)), known]
    return best_fit(starts, w, weights, w, weights, period, iterations)


def choose_components(key: Array, w: Array, held: Array, sizes: Sequence[int], period: Array, iterations: int) -> Components:
    """Fit mixtures of several numbers of Gaussians to rows, and keep the one that makes rows held out likeliest.

    Where rows are few for a covariance, its density is noisy: in ten dimensions six components may be better than 24.

    Parameters
    ----------
    key : random key.
    w : (n, d) rows.
    held : (m, d) rows held out of the fit.
    sizes : numbers of Gaussians that are tried, largest first.
    period : (d,) period of each coordinate, inf on the line.
    iterations : steps of expectation maximisation.
    """
    weights = jnp.ones(len(w), w.dtype)
    centres, spread = far_points(key, w, weights, sizes[0], period)
    starts = [equal_components(centres[:k], spread[:k]) for k in sizes]
    return best_fit(starts, w, weights, held, jnp.ones(len(held), w.dtype), period, iterations)


def rescaled(base: Components, shift: Array, scale: Array, old_scale: Array) -> Components:
    """Express components in new whitened coordinates.

    Parameters
    ----------
    base : the components.
    shift : (d,) the old origin minus the new one, in internal coordinates.
    scale, old_scale : (d, d) lower triangular matrices of the new and the old whitening.
    """
    solve = jax.scipy.linalg.solve_triangular
    means = solve(scale, (shift + base.means @ old_scale.T).T, lower=True).T
    factors = solve(jnp.broadcast_to(scale, base.factors.shape), old_scale @ base.factors, lower=True)
    return Components(base.logweights, means, factors)
