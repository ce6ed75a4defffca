"""Problems with exact evidences for the honesty test; none was used to tune the warnings of `fusions.headline`.

`PROBLEMS` maps a name to a constructor without arguments. Densities are normalised on the whole space, so that ln Z is minus the log volume
of the prior's box, plus the log of the mass inside of it where that is not one.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.integrate import quad
from scipy.stats import chi2, norm
from scipy.stats import t as student

from fusions import priors as pr
from fusions.model.problem import Problem
from fusions.priors import Prior

LOG_2PI = math.log(2 * math.pi)
CORE = 0.9999  # mass of a mode inside of the ball in which a point has visited it


class Known(NamedTuple):
    """A problem, its exact evidence, and its modes.

    Attributes
    ----------
    name : key of the `PROBLEMS` table.
    problem : the `Problem`.
    logZ : exact natural logarithm of the evidence [nats].
    masses : (k,) posterior masses of separate modes; empty if there is one.
    inside : theta (n, d) -> (n, k), whether a point lies in the core of each mode.
    """

    name: str
    problem: Problem
    logZ: float
    masses: np.ndarray = np.empty(0)
    inside: Callable = lambda theta: np.empty((len(theta), 0), bool)


def boxed(loglikelihood, low, high) -> Problem:
    """Build a problem with a uniform prior between the corners `low` and `high`, both (d,)."""
    prior = Prior(**{f"x{i + 1}": pr.uniform(float(a), float(b)) for i, (a, b) in enumerate(zip(low, high, strict=True))})
    return Problem(prior, loglikelihood, array=True)


def log_normal(x, width):
    """Evaluate the log density of N(0, width^2) at each x."""
    return -0.5 * (x / width) ** 2 - math.log(width) - 0.5 * LOG_2PI


def modes(name, weights, centres, widths, side=10.0) -> Known:
    """Build a sum of round Gaussians of weights (k,), centres (k, d) and widths (k,), prior U(-side, side)^d."""
    weights, centres, widths = np.asarray(weights, float), np.asarray(centres, float), np.asarray(widths, float)
    k, dim = centres.shape
    norms = np.log(weights) - dim * (0.5 * LOG_2PI + np.log(widths))

    def logL(x):
        distance2 = jnp.sum((x - jnp.asarray(centres)) ** 2, axis=1)
        return jax.scipy.special.logsumexp(jnp.asarray(norms) - 0.5 * distance2 / jnp.asarray(widths) ** 2)

    def inside(theta):
        distance2 = np.sum((theta[:, None] - centres) ** 2, axis=2)
        return distance2 < chi2.ppf(CORE, dim) * widths**2

    scale = widths[:, None]
    kept = weights * np.prod(norm.cdf((side - centres) / scale) - norm.cdf((-side - centres) / scale), axis=1)
    corner = np.full(dim, side)
    return Known(name, boxed(logL, -corner, corner), float(np.log(kept.sum())) - dim * math.log(2 * side), kept / kept.sum(), inside)


def minor(dim) -> Known:
    """Build a mode of mass 0.9 with ten of 1 % at random places on a sphere around it."""
    around = np.random.default_rng(dim).standard_normal((10, dim))
    around *= 5 / np.linalg.norm(around, axis=1, keepdims=True)
    return modes(f"minor{dim}", [0.9] + [0.01] * 10, np.vstack([np.zeros(dim), around]), [1.0] + [0.45] * 10, side=7.0)


def trio(dim) -> Known:
    """Build three modes of masses 0.6, 0.3 and 0.1 that grow narrower with their mass."""
    centres = 2.5 * np.stack([np.ones(dim), (-1.0) ** np.arange(dim), -np.ones(dim)])
    return modes(f"trio{dim}", [0.6, 0.3, 0.1], centres, [0.5, 0.7, 0.9], side=5.0)


def grid(n, side) -> Known:
    """Build n x n equal modes in the plane between -6 and 6; the outer ones are cut by the prior if its side is not wider."""
    line = np.linspace(-6, 6, n)
    centres = np.stack(np.meshgrid(line, line), -1).reshape(-1, 2)
    return modes(f"grid{n}", np.full(n * n, 1 / n**2), centres, np.full(n * n, 0.4), side)


def spike(dim) -> Known:
    """Build a spike of mass 0.3 in a slab; the spike has a hundredth of the slab's width at 2 dimensions, a tenth at 4."""
    width = 2.0 * 10 ** (-4 / dim)
    return modes(f"spike{dim}", [0.7, 0.3], np.stack([np.zeros(dim), np.full(dim, 1.0)]), [2.0, width], side=15.0)


def banana(dim) -> Known:
    """Build pairs x ~ N(0, 3^2), y ~ N(0.3 x^2, 0.3^2): a shear keeps the volume."""

    def logL(x):
        a, b = x[0::2], x[1::2]
        return jnp.sum(log_normal(a, 3.0) + log_normal(b - 0.3 * a**2, 0.3))

    return Known(f"banana{dim}", boxed(logL, [-20, -5] * (dim // 2), [20, 125] * (dim // 2)), -dim / 2 * math.log(40 * 130))


def ridge(dim, df=2.0, slope=0.7, width=0.1, end=40.0) -> Known:
    """Build a thin ridge with heavy tails: x1 follows Student's t, the others N(slope x1, width^2)."""
    constant = math.lgamma((df + 1) / 2) - math.lgamma(df / 2) - 0.5 * math.log(df * math.pi)

    def logL(x):
        along = constant - 0.5 * (df + 1) * jnp.log1p(x[0] ** 2 / df)
        return along + jnp.sum(log_normal(x[1:] - slope * x[0], width))

    corner = np.full(dim, end)
    return Known(f"ridge{dim}", boxed(logL, -corner, corner), math.log1p(-2 * student.sf(end, df)) - dim * math.log(2 * end))


def students(dim, df=2.0, end=50.0) -> Known:
    """Build a product of Student's t: heavy tails along every axis, prior U(-end, end)^dim."""
    constant = math.lgamma((df + 1) / 2) - math.lgamma(df / 2) - 0.5 * math.log(df * math.pi)

    def logL(x):
        return jnp.sum(constant - 0.5 * (df + 1) * jnp.log1p(x**2 / df))

    corner = np.full(dim, end)
    return Known(f"students{dim}", boxed(logL, -corner, corner), dim * (math.log1p(-2 * student.sf(end, df)) - math.log(2 * end)))


def ring(radius=4.0, width=0.1, gap=0.4) -> Known:
    """Build a ring in the plane with a gap around the angle 0; radius and angle are integrated by quadrature."""

    def dip(angle):
        return 1 - 0.999 * np.exp(-0.5 * (angle / gap) ** 2)

    def logL(x):
        distance, angle = jnp.sqrt(jnp.sum(x**2)), jnp.arctan2(x[1], x[0])
        return log_normal(distance - radius, width) + jnp.log1p(-0.999 * jnp.exp(-0.5 * (angle / gap) ** 2))

    radial = quad(lambda r: r * math.exp(log_normal(r - radius, width)), radius - 12 * width, radius + 12 * width)[0]
    angular = 2 * quad(dip, 0, math.pi)[0]
    return Known("ring", boxed(logL, [-6, -6], [6, 6]), math.log(radial * angular) - 2 * math.log(12))


def twist(turn=1.0) -> Known:
    """Build a flat Gaussian in x, y that is turned by an angle proportional to z ~ N(0, 1): a rotation keeps the volume."""

    def logL(x):
        c, s = jnp.cos(turn * x[2]), jnp.sin(turn * x[2])
        return log_normal(c * x[0] + s * x[1], 1.5) + log_normal(c * x[1] - s * x[0], 0.1) + log_normal(x[2], 1.0)

    return Known("twist", boxed(logL, [-10] * 3, [10] * 3), -3 * math.log(20))


def corner(dim, scale=0.05) -> Known:
    """Build a posterior in a corner of the prior, exp(-sum x / scale), prior U(0, 1)^dim."""
    return Known(
        f"corner{dim}", boxed(lambda x: -jnp.sum(x) / scale, [0] * dim, [1] * dim), dim * math.log(scale * -math.expm1(-1 / scale))
    )


def chain(dim, rho=0.9) -> Known:
    """Build a Gaussian of unit variances whose neighbours are correlated by rho, prior U(-10, 10)^dim."""

    def logL(x):
        return log_normal(x[0], 1.0) + jnp.sum(log_normal(x[1:] - rho * x[:-1], math.sqrt(1 - rho**2)))

    return Known(f"chain{dim}", boxed(logL, [-10] * dim, [10] * dim), -dim * math.log(20))


PROBLEMS: dict[str, Callable[[], Known]] = {
    "minor2": partial(minor, 2),
    "trio2": partial(trio, 2),
    "trio4": partial(trio, 4),
    "grid3": partial(grid, 3, 10.0),
    "grid5": partial(grid, 5, 6.0),
    "spike2": partial(spike, 2),
    "spike4": partial(spike, 4),
    "banana2": partial(banana, 2),
    "banana4": partial(banana, 4),
    "ridge2": partial(ridge, 2),
    "ridge4": partial(ridge, 4),
    "students2": partial(students, 2),
    "students4": partial(students, 4),
    "ring": ring,
    "twist": twist,
    "corner3": partial(corner, 3),
    "chain4": partial(chain, 4),
}
