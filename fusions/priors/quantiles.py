"""Quantile functions without a closed form: tabulated once on the host, interpolated in JAX."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import ndtr

from fusions.errors import PriorError

# Coordinates are cut here where a quantile function follows: the tail probabilities, 2e-33 and 6e-300, are still normal floats
FARTHEST = {np.dtype("float32"): 12.0, np.dtype("float64"): 37.0}
Z_MAX = 8.5
N_NODES = 1025


class Table(NamedTuple):
    """A quantile function theta(z) as cubic Hermite nodes of a stretched coordinate t(z).

    Attributes
    ----------
    start, step : first node and spacing in z, the standard normal latent coordinate.
    t, slope : (n,) stretched coordinate at the nodes, and dt/dz times `step`.
    lower, upper : support of theta; infinite where there is no bound.
    origin : the finite `lower` (or `upper`) for a half line, the median for the whole line.
    scale : unit of theta in the stretched coordinate.
    shape : "lower", "upper", "interval" or "line", see `_unstretch`.
    """

    start: float
    step: float
    t: np.ndarray
    slope: np.ndarray
    lower: float
    upper: float
    origin: float
    scale: float
    shape: str


def cut(z: Any) -> Any:
    """Return standard normal coordinates z, JAX or NumPy, no farther out than their tail probability can be told from 0."""
    farthest = FARTHEST[z.dtype]
    return z.clip(-farthest, farthest)


def tabulate(standard: Any, loc: float, scale: float, bounds: tuple[float, float] | None = None) -> Callable:
    """Build the map z -> loc + scale * q(Phi(z)) of a frozen scipy distribution with quantile function q.

    Parameters
    ----------
    standard : frozen continuous scipy distribution; its ppf, isf, pdf and support are used.
    loc, scale : affine map to theta; scale > 0.
    bounds : support of theta; from the distribution's own support by default.

    Returns
    -------
    latent : function of z ~ N(0, 1), any shape, in the dtype of z. The distribution of theta is
        as accurate as scipy's ppf and isf, or 1e-10, for |z| < 8.5, continues smoothly outside, and stays at its value at `FARTHEST`
        beyond.
    """
    z = np.linspace(-Z_MAX, Z_MAX, N_NODES)
    with np.errstate(all="ignore"):
        q = np.where(z <= 0, standard.ppf(ndtr(z)), standard.isf(ndtr(-z))).astype(float)
        density = np.asarray(standard.pdf(q), float)
        low, high = (float(v) for v in standard.support())
        shape = _shape(q, low, high)
        t, dt_dq, good, median, width = _stretch(q, low, high, shape)
        slope = np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi) / density * dt_dq
    first, last = _longest_run(good & np.isfinite(t))
    if last - first < 8:
        msg = (
            "The quantiles of this distribution are not finite and distinct: "
            f"the median is {q[N_NODES // 2]:g}. Expected a proper distribution; check its parameters."
        )
        raise PriorError(msg)
    z, t, slope = z[first:last], t[first:last], slope[first:last]
    lower, upper = bounds or (loc + scale * low, loc + scale * high)
    origin = {"lower": lower, "upper": upper}.get(shape, loc + scale * median)
    step = float(z[1] - z[0])
    table = Table(float(z[0]), step, t, _monotone(t, slope * step), lower, upper, origin, scale * width, shape)
    return partial(interpolate, table=table)


def _shape(q: np.ndarray, low: float, high: float) -> str:
    """Choose the stretched coordinate: a bound counts if the tail reaches it, else it only clips."""
    middle = q[N_NODES // 2]
    lower = np.isfinite(low) and q[0] - low <= middle - q[0]
    upper = np.isfinite(high) and high - q[-1] <= q[-1] - middle
    return {(True, True): "interval", (True, False): "lower", (False, True): "upper"}.get((bool(lower), bool(upper)), "line")


def _stretch(q: np.ndarray, low: float, high: float, shape: str) -> tuple:
    """Return t(q), dt/dq, where they are well resolved in float64, the median and the unit of q."""
    noise = 64 * np.finfo(float).eps
    above, below = q - low, high - q
    resolved_low = (above > noise * abs(low)) & (above > 1e-300)
    resolved_high = (below > noise * abs(high)) & (below > 1e-300)
    median = q[N_NODES // 2]
    if shape == "lower":
        return np.log(above), 1 / above, resolved_low, median, 1.0
    if shape == "upper":
        return -np.log(below), 1 / below, resolved_high, median, 1.0
    if shape == "interval":
        t = np.log(above) - np.log(below)
        return t, 1 / above + 1 / below, resolved_low & resolved_high, median, high - low
    sixteenth = N_NODES // 16  # about one standard deviation of z from the middle
    width = 0.5 * (q[N_NODES // 2 + sixteenth] - q[N_NODES // 2 - sixteenth])
    u = (q - median) / width
    return np.arcsinh(u), 1 / (width * np.hypot(1, u)), np.isfinite(u), median, width


def _unstretch(t: jax.Array, table: Table) -> jax.Array:
    """Return theta(t), each branch accurate close to the bound that it knows."""
    if table.shape == "lower":
        return table.origin + table.scale * jnp.exp(t)
    if table.shape == "upper":
        return table.origin - table.scale * jnp.exp(-t)
    if table.shape == "interval":
        from_lower = table.lower + table.scale * jax.nn.sigmoid(t)
        return jnp.where(t < 0, from_lower, table.upper - table.scale * jax.nn.sigmoid(-t))
    return table.origin + table.scale * jnp.sinh(t)


def _longest_run(good: np.ndarray) -> tuple[int, int]:
    """Return [first, last) of the run of True around the middle node."""
    middle = len(good) // 2
    if not good[middle]:
        return 0, 0
    bad = np.flatnonzero(~good)
    first = max((i + 1 for i in bad if i < middle), default=0)
    last = min((i for i in bad if i > middle), default=len(good))
    return int(first), int(last)


def _monotone(t: np.ndarray, slope: np.ndarray) -> np.ndarray:
    """Repair missing slopes and limit all of them so that the cubic never turns back.

    References
    ----------
    Fritsch and Carlson (1980), SIAM J. Numer. Anal. 17, 238: slopes at most 3 times both secants.
    """
    secant = np.maximum(np.diff(t), 0.0)
    slope = np.where(np.isfinite(slope), slope, np.gradient(t))
    smallest = np.minimum(np.append(secant, secant[-1]), np.insert(secant, 0, secant[0]))
    return np.clip(slope, 0.0, 3 * smallest)


def interpolate(z: jax.Array, table: Table) -> jax.Array:
    """Return theta at z: cubic inside the table, t linear in z outside, never beyond the support."""
    dtype = z.dtype
    t, slope = jnp.asarray(table.t, dtype), jnp.asarray(table.slope, dtype)
    s = (cut(z) - table.start) / table.step
    inside = jnp.clip(s, 0, len(table.t) - 1)
    i = jnp.clip(inside.astype(jnp.int32), 0, len(table.t) - 2)
    w = inside - i.astype(dtype)
    t0, t1, m0, m1 = t[i], t[i + 1], slope[i], slope[i + 1]
    rise = t1 - t0
    cubic = t0 + w * (m0 + w * (3 * rise - 2 * m0 - m1 + w * (m0 + m1 - 2 * rise)))
    beyond = jnp.where(s < inside, m0, m1) * (s - inside)
    theta = _unstretch(cubic + jnp.where(s == inside, jnp.zeros_like(s), beyond), table)
    return jnp.clip(theta, table.lower, table.upper)
