"""Blocks of a prior: parameters that share internal coordinates."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.linalg import solve_triangular

from fusions.errors import PriorError
from fusions.numerics import in_double, on_host
from fusions.priors.distributions import (
    Distribution,
    from_scipy,
    is_traceable,
    scalar_shape,
)
from fusions.priors.maps import host_unit_interval, unit_interval

WHITENING_DRAWS = 4096
ENDS = (-8.0, -5.0, 5.0, 8.0)  # of an internal coordinate; a parameter with an edge hardly changes between the last two
STILL = 1e-5  # of its range, by which it may change there; it is 3e-7 for a uniform prior


@dataclass(frozen=True)
class Block:
    """Parameters that share internal coordinates.

    Attributes
    ----------
    names : k parameter names.
    dim : number of internal coordinates d.
    theta : map from x (d,) to (k,); NumPy to NumPy if not `traceable`.
    label : how the block is written, for repr.
    periodic : d flags, True for angles.
    traceable : whether `theta` is a JAX function.
    draw : function (key, n) -> (n, d), or None for the standard normal or uniform angle.
    log_prob : log density in internal coordinates, (d,) -> scalar in JAX; None for the standard one.
    log_prob_traceable : whether `log_prob` runs without calling the host.
    arguments : what a block of one parameter is made of, () for others.
    """

    names: tuple[str, ...]
    dim: int
    theta: Callable[[Any], Any]
    label: str
    periodic: tuple[bool, ...]
    traceable: bool = True
    draw: Callable[[Any, int], Any] | None = None
    log_prob: Callable[[Any], Any] | None = None
    log_prob_traceable: bool = True
    arguments: tuple = ()


def gaussian(names: Sequence[str], mean: Any, cov: Any) -> Block:
    """Make a joint normal prior of several parameters.

    Parameters
    ----------
    names : k parameter names.
    mean : (k,) mean.
    cov : (k, k) covariance, symmetric and positive definite.
    """
    names = check_names(names, "gaussian")
    mean, cov, k = np.asarray(mean, float), np.asarray(cov, float), len(names)
    if mean.shape != (k,) or cov.shape != (k, k):
        msg = f"gaussian: expected mean ({k},) and cov ({k}, {k}) for the names {names}, got mean {mean.shape} and cov {cov.shape}."
        raise PriorError(msg)
    if not (np.isfinite(mean).all() and np.isfinite(cov).all()):
        msg = "gaussian: mean and cov must be finite, got NaN or infinity."
        raise PriorError(msg)
    scale = _cholesky(cov, "gaussian: cov")
    return Block(names, k, partial(_affine, shift=mean, scale=scale), "gaussian", (False,) * k)


@in_double
def joint(names: Sequence[str], sample: Callable, log_prob: Callable) -> Block:
    """Make a prior known only by its draws and its density, without an inverse cdf.

    The internal coordinates are whitened with the mean and covariance of fixed draws.

    Parameters
    ----------
    names : d parameter names.
    sample : function (key, n) -> (n, d), determined by the JAX random key.
    log_prob : function (d,) -> scalar log density [nats], normalised; JAX or plain NumPy.
    """
    names = check_names(names, "joint")
    key, d = jax.random.key(0), len(names)
    draws = _checked_draws(sample, key, WHITENING_DRAWS, d)
    if not np.array_equal(draws[:16], _checked_draws(sample, key, WHITENING_DRAWS, d)[:16]):
        text = "joint: sample(key, n) gave other draws for the same key; seed it by the key, to repeat runs."
        warnings.warn(text, stacklevel=2)
    shift = draws.mean(axis=0)
    scale = _cholesky(np.cov(draws, rowvar=False).reshape(d, d), "joint: the covariance of the draws")
    traced = is_traceable(log_prob, jax.ShapeDtypeStruct((d,), scalar_shape().dtype))
    for point in draws[:8]:
        value = np.asarray(log_prob(jnp.asarray(point) if traced else point))
        if value.shape != () or value.dtype.kind not in "fiu" or not np.isfinite(value):
            msg = f"joint: expected log_prob(x ({d},)) to be one finite number at a draw, got {value!r}."
            raise PriorError(msg)
    theta = partial(_affine, shift=shift, scale=scale)
    log_det = float(np.log(np.diag(scale)).sum())
    density = partial(_joint_density, function=log_prob, theta=theta, log_det=log_det, traced=traced)
    draw = partial(_joint_draw, sample=sample, shift=shift, scale=scale)
    straight = (False,) * d
    return Block(names, d, theta, "joint", straight, draw=draw, log_prob=density, log_prob_traceable=traced)


@in_double
def transform(prior_transform: Callable, names: Sequence[str]) -> Block:
    """Make a prior from a unit-cube transform, as dynesty and UltraNest users have.

    Parameters
    ----------
    prior_transform : function u (d,) in (0, 1) -> theta (d,); JAX, or plain NumPy.
    names : d parameter names.
    """
    names = check_names(names, "transform")
    d = len(names)
    traceable = is_traceable(prior_transform, jax.ShapeDtypeStruct((d,), scalar_shape().dtype))
    u = np.full(d, 0.5)
    try:
        value = np.asarray(prior_transform(jnp.asarray(u) if traceable else u))
    except Exception as error:
        msg = f"transform: the prior transform raised {type(error).__name__}: {error}, at u = 0.5 everywhere."
        raise PriorError(msg) from error
    if value.shape != (d,):
        msg = f"transform: expected the function to return shape ({d},) for {names}, got {value.shape}."
        raise PriorError(msg)
    theta = partial(_cube if traceable else _host_cube, function=prior_transform)
    return Block(names, d, theta, "transform", (False,) * d, traceable)


def has_edges(theta: np.ndarray) -> bool:
    """Tell whether parameters theta (4, k) at the `ENDS` of one internal coordinate come to an edge at both of its ends."""
    low, inner, high = np.abs(np.diff(theta, axis=0))
    return bool(np.any(inner > 0) and np.all(low + high <= STILL * inner))


def check_names(names: Sequence[str], where: str, error: type[Exception] = PriorError) -> tuple[str, ...]:
    """Return the names as a tuple, or raise `error` if one is empty, doubled or not a string.

    Parameters
    ----------
    names : what the user gave.
    where : words that the message begins with.
    error : type of the error.
    """
    if isinstance(names, str) or not isinstance(names, Sequence):
        msg = f"{where}: expected a list of names such as ['a', 'b'], got {names!r}."
        raise error(msg)
    for name in names:
        if not isinstance(name, str) or not name.strip():
            msg = f"{where}: expected every name to be a non-empty string, got {name!r}."
            raise error(msg)
    double = sorted({name for name in names if list(names).count(name) > 1})
    if double:
        msg = f"{where}: duplicate name {double[0]!r} in {list(names)!r}; every name must be unique."
        raise error(msg)
    if not names:
        msg = f"{where}: expected at least one name, got none."
        raise error(msg)
    return tuple(names)


def one_parameter(name: str, value: Any) -> Block:
    """Return the block of one named parameter, from a distribution or a frozen scipy distribution."""
    if isinstance(value, Block):
        msg = f"Prior: a block of parameters takes no name; write Prior({value.label}(...)), not {name}=."
        raise PriorError(msg)
    if not isinstance(value, Distribution) and (hasattr(value, "dist") or hasattr(value, "rvs")):
        value = from_scipy(value)
    if not isinstance(value, Distribution):
        msg = (
            f"Prior: expected a distribution for {name}, got {value!r}; "
            f"write {name}=priors.uniform(lo, hi), or {name}=priors.delta(value) to fix it."
        )
        raise PriorError(msg)
    theta = partial(_single if value.traceable else _host_single, distribution=value)
    periodic = (value.periodic,) * value.dim
    return Block((name,), value.dim, theta, f"{name}={value!r}", periodic, value.traceable, arguments=(value.name, *value.arguments))


def positional(block: Any) -> Block:
    """Return an argument of `Prior` given without a name, if it is a block."""
    if isinstance(block, Block):
        return block
    if isinstance(block, Distribution) or hasattr(block, "dist"):
        msg = f"Prior: a one-dimensional prior needs a name; write Prior(x={block!r})."
    else:
        msg = f"Prior: expected name=distribution, or blocks, got {block!r}; write Prior(**parameters)."
    raise PriorError(msg)


def _single(x: jax.Array, distribution: Distribution) -> jax.Array:
    if distribution.dim == 0:
        return jnp.full((1,), distribution.arguments[0], x.dtype)
    return jnp.reshape(distribution.theta(x[0]), (1,)).astype(x.dtype)


def _host_single(x: np.ndarray, distribution: Distribution) -> np.ndarray:
    return np.asarray(distribution.theta(float(x[0])), float).reshape(1)


def _cube(x: jax.Array, function: Callable) -> jax.Array:
    return jnp.asarray(function(unit_interval(x))).astype(x.dtype)


def _host_cube(x: np.ndarray, function: Callable) -> np.ndarray:
    return np.asarray(function(host_unit_interval(x)), float)


def _affine(x: jax.Array, shift: np.ndarray, scale: np.ndarray) -> jax.Array:
    """Return shift + scale @ x, in full precision on accelerators too."""
    product = jnp.matmul(jnp.asarray(scale, x.dtype), x, precision="highest")
    return jnp.asarray(shift, x.dtype) + product


def _cholesky(cov: np.ndarray, what: str) -> np.ndarray:
    """Return the lower Cholesky factor, or say why there is none."""
    try:
        if not np.allclose(cov, cov.T, rtol=1e-6, atol=0):
            raise np.linalg.LinAlgError
        return np.linalg.cholesky(0.5 * (cov + cov.T))
    except np.linalg.LinAlgError as error:
        msg = f"{what} must be symmetric and positive definite, got {cov.tolist()!r}."
        raise PriorError(msg) from error


def _checked_draws(sample: Callable, key: Any, n: int, d: int) -> np.ndarray:
    """Return the user's draws (n, d) in float64, or say what is wrong with them."""
    draws = np.asarray(sample(key, n))
    if draws.shape != (n, d):
        msg = f"joint: expected sample(key, {n}) to return shape ({n}, {d}), got {draws.shape}."
        raise PriorError(msg)
    if not np.isfinite(draws).all():
        msg = "joint: sample(key, n) returned NaN or infinite values; expected finite draws."
        raise PriorError(msg)
    return draws.astype(float)


def _joint_draw(key: Any, n: int, sample: Callable, shift: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Return whitened draws (n, d)."""
    draws = _checked_draws(sample, key, n, len(shift))
    return solve_triangular(scale, (draws - shift).T, lower=True).T


def _joint_density(x: jax.Array, *, function: Callable, theta: Callable, log_det: float, traced: bool) -> jax.Array:
    """Return log p(x) = log p(theta) + ln |d theta / dx| at one point."""
    point = theta(x)
    if traced:
        value = function(point)
    else:
        value = on_host(partial(_host_density, function=function, dtype=x.dtype), point, x.dtype)
    return jnp.asarray(value).astype(x.dtype) + log_det


def _host_density(points: Any, function: Callable, dtype: Any) -> np.ndarray:
    """Return the user's log density at points (..., d) one by one."""
    points = np.asarray(points, float)
    values = [float(function(point)) for point in points.reshape(-1, points.shape[-1])]
    return np.asarray(values, dtype).reshape(points.shape[:-1])
