"""Maps from a standard normal latent coordinate, or an angle, to the parameter of a one-dimensional prior.

Every map is accurate in both tails, in float32 as well: the probability of the nearer tail,
never 1 - u, enters the formula. Where this probability would underflow, or a power overflow, the
coordinate is cut (`quantiles.cut`), so that parameters are finite and inside of the prior for every
x. The prior beyond holds 1e-299. A normal prior is not cut: mu + sigma x is exact everywhere, and a
likelihood may well sit far out in its tail.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import erf, erfinv, log_ndtr, ndtr, ndtri
from scipy.special import ndtr as host_ndtr

from fusions.priors.quantiles import cut


def _nearer(x: jax.Array) -> jax.Array:
    """Return -|x|, cut, with the right gradient of its Phi at x = 0."""
    x = cut(x)
    return jnp.where(x < 0, x, -x)


def _tail(x: jax.Array) -> jax.Array:
    """Return Phi(-|x|), the probability of the nearer tail, with the right gradient at x = 0."""
    return ndtr(_nearer(x))


def unit_interval(x: jax.Array) -> jax.Array:
    """Return Phi(x), kept strictly between 0 and 1."""
    tail = _tail(x)
    return jnp.where(x < 0, tail, jnp.minimum(1 - tail, 1 - jnp.finfo(x.dtype).epsneg))


def host_tail(x: Any) -> Any:
    """Return Phi(-|x|), the probability of the nearer tail, in float64 NumPy; never 0."""
    return host_ndtr(-np.abs(cut(np.asarray(x, float))))


def host_unit_interval(x: Any) -> Any:
    """Return Phi(x) in float64 NumPy, kept strictly between 0 and 1."""
    x = np.asarray(x, float)
    return np.where(x < 0, host_tail(x), np.minimum(1 - host_tail(x), 1 - np.finfo(float).epsneg))


def turns(angle: jax.Array) -> jax.Array:
    """Return u = angle / (2 pi) + 1/2 wrapped into [0, 1)."""
    u = angle / (2 * math.pi) + 0.5
    u = u - jnp.floor(u)
    return jnp.where(u >= 1, jnp.zeros_like(u), u)


def host_turns(angle: Any) -> Any:
    """Return `turns` in float64 NumPy."""
    return (np.asarray(angle, float) / (2 * math.pi) + 0.5) % 1.0 % 1.0


def uniform_map(x: jax.Array, lo: Any, hi: Any) -> jax.Array:
    """Return U(lo, hi) at a standard normal x.

    Parameters
    ----------
    x : standard normal, of any shape.
    lo, hi : ends.
    """
    p = (hi - lo) * _tail(x)
    return jnp.clip(jnp.where(x < 0, lo + p, hi - p), lo, hi)


def uniform_unit_map(u: jax.Array, lo: float, hi: float) -> jax.Array:
    """Return U(lo, hi) at u in [0, 1).

    Parameters
    ----------
    u : in [0, 1), of any shape.
    lo, hi : ends.
    """
    return jnp.clip(lo + (hi - lo) * u, lo, hi)


def log_uniform_map(x: jax.Array, lo: float, hi: float) -> jax.Array:
    """Return the value of density 1 / theta on [lo, hi] at a standard normal x.

    Parameters
    ----------
    x : standard normal, of any shape.
    lo, hi : ends, 0 < lo < hi.
    """
    p = (math.log(hi) - math.log(lo)) * _tail(x)
    return jnp.clip(jnp.where(x < 0, lo * jnp.exp(p), hi * jnp.exp(-p)), lo, hi)


def normal_map(x: jax.Array, mu: float, sigma: float) -> jax.Array:
    """Return N(mu, sigma^2) at a standard normal x.

    Parameters
    ----------
    x : standard normal, of any shape.
    mu : mean; sigma : standard deviation.
    """
    return mu + sigma * x


def log_normal_map(x: jax.Array, mu: float, sigma: float) -> jax.Array:
    """Return the value whose logarithm is N(mu, sigma^2) at a standard normal x.

    Parameters
    ----------
    x : standard normal, of any shape.
    mu, sigma : mean and standard deviation of the logarithm.
    """
    return jnp.exp(mu + sigma * cut(x))


def half_normal_map(x: jax.Array, sigma: Any) -> jax.Array:
    """Return the half normal of scale sigma at a standard normal x."""
    p = _tail(x)
    return sigma * jnp.where(x < 0, math.sqrt(2) * erfinv(p), -ndtri(p / 2))


def exponential_map(x: jax.Array, scale: Any) -> jax.Array:
    """Return the exponential of mean `scale` at a standard normal x."""
    negative = x < 0
    upper = -log_ndtr(jnp.where(negative, jnp.zeros_like(x), -x))
    return scale * jnp.where(negative, -jnp.log1p(-_tail(x)), upper)


def cotangent(x: jax.Array, k: float = 1.0) -> jax.Array:
    """Return cot(k pi Phi(-|x|)), with a gradient that is finite far out, where the square of the tangent underflows."""
    angle = k * math.pi * _tail(x)
    small = angle < math.sqrt(jnp.finfo(x.dtype).eps)  # where cot(angle) = 1 / angle
    return jnp.where(small, jnp.exp(-log_ndtr(_nearer(x))) / (k * math.pi), 1 / jnp.tan(jnp.where(small, jnp.ones_like(x), angle)))


def cauchy_map(x: jax.Array, mu: Any, gamma: Any) -> jax.Array:
    """Return the Cauchy of centre mu and half width gamma at a standard normal x.

    Parameters
    ----------
    x : standard normal, of any shape.
    mu : centre; gamma : half width at half maximum.
    """
    central = jnp.abs(x) < 1
    near = jnp.tan(0.5 * math.pi * erf(jnp.where(central, x, jnp.zeros_like(x)) / math.sqrt(2)))
    far = jnp.where(x < 0, -1.0, 1.0).astype(x.dtype) * cotangent(x)
    return mu + gamma * jnp.where(central, near, far)


def rayleigh_map(x: jax.Array, sigma: float, upper: float) -> jax.Array:
    """Return the Rayleigh of scale sigma, truncated at `upper`, at a standard normal x.

    Parameters
    ----------
    x : standard normal, of any shape.
    sigma : scale; upper : bound, which may be infinite.
    """
    below = -math.expm1(-0.5 * (upper / sigma) ** 2)  # untruncated probability of theta < upper
    above = math.exp(-0.5 * (upper / sigma) ** 2)
    p = _tail(x)
    u = below * jnp.where(x < 0, p, 1 - p)
    small = u < 0.5
    from_lower = -jnp.log1p(-jnp.where(small, u, jnp.zeros_like(u)))
    from_upper = -jnp.log(jnp.where(small, jnp.ones_like(p), above + below * p))
    half_square = jnp.where(small, from_lower, from_upper)
    return jnp.clip(sigma * jnp.sqrt(2 * half_square), 0.0, upper)


def sine_map(x: jax.Array) -> jax.Array:
    """Return the angle of density sin(theta) / 2 on [0, pi] at a standard normal x."""
    angle = 2 * jnp.arcsin(jnp.sqrt(_tail(x)))
    return jnp.where(x < 0, angle, math.pi - angle)


def cosine_map(x: jax.Array) -> jax.Array:
    """Return the angle of density cos(theta) / 2 on [-pi/2, pi/2] at a standard normal x."""
    angle = 2 * jnp.arcsin(jnp.sqrt(_tail(x))) - 0.5 * math.pi
    return jnp.where(x < 0, angle, -angle)


def delta_map(x: jax.Array, value: float) -> jax.Array:
    """Return the fixed value in the shape of x."""
    return jnp.full_like(x, value)


def icdf_map(x: jax.Array, function: Callable) -> Any:
    """Return the user's quantile function at Phi(x)."""
    return function(unit_interval(x))


def host_icdf_map(x: Any, function: Callable) -> Any:
    """Return the user's quantile function, which takes a plain number, at Phi(x)."""
    return function(float(host_unit_interval(float(x))))
