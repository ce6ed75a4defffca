"""Coordinates in which a prior with edges ends where its parameter does.

An internal coordinate is normal under the prior, so that a posterior cut by an edge of a uniform prior has a thin tail there, out to
infinity and along another direction than the rest: densities fitted to it miss its end. In u = Phi(x) - 1/2, which is uniform under the
prior, it just stops, and what a density has outside of the prior costs draws, but no likelihood calls. Around 0 numbers are finest: a
posterior many orders narrower than its prior can lie there.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.scipy.special import erfinv
from scipy.special import erf
from scipy.special import erfinv as host_erfinv

from fusions.numerics import least_width
from fusions.types import Space

LOG_2PI, ROOT = float(np.log(2 * np.pi)), float(np.sqrt(2))


@dataclasses.dataclass(frozen=True)
class EdgedDensity:
    """ln of the density in coordinates u (n, d) that are uniform in (-1/2, 1/2) where `bounded`: (n, d) -> (n,).

    Attributes
    ----------
    logprior : that in internal coordinates.
    bounded : d flags.
    """

    logprior: Callable
    bounded: tuple

    def __call__(self, u):
        """Return the log density at u (n, d) [nats]."""
        bounded, x = np.array(self.bounded), _latent(u, np.array(self.bounded))
        log_jacobian = jnp.sum(jnp.where(bounded, 0.5 * (x**2 + LOG_2PI), 0.0), axis=-1)
        allowed = jnp.all(~bounded | (jnp.abs(u) < 0.5), axis=-1)
        return jnp.where(allowed, self.logprior(x) + log_jacobian, -jnp.inf)


class Coordinates(NamedTuple):
    """Other coordinates u of a `Space`.

    Attributes
    ----------
    space : the `Space` in these coordinates.
    enter : internal coordinates x (n, d) -> u (n, d), on the host.
    leave : u -> x, on the host; what is outside of the prior comes to its edge.
    latent : the same inside jit.
    bounds : (2, d) lowest and highest u, as far inside of the prior as numbers tell, infinite where there is no edge.
    """

    space: Space
    enter: Callable
    leave: Callable
    latent: Callable
    bounds: np.ndarray


def with_edges(space, bounded):
    """Make the `Coordinates` that are uniform in (-1/2, 1/2) under the prior where it is `Prior.bounded`, and internal ones elsewhere."""
    flags, bounded = tuple(bounded), np.array(bounded)

    def enter(x):
        u = (0.5 * erf(x.astype(np.float64) / ROOT)).astype(x.dtype)
        return np.where(bounded, _inside(u, bounded, np), x)

    def leave(u):
        x = (ROOT * host_erfinv(2 * _inside(u, bounded, np).astype(np.float64))).astype(u.dtype)
        return np.where(bounded, x, u)

    bounds = np.where(bounded, 0.5 - least_width(jnp.result_type(float)), np.inf) * np.array([[-1], [1]])
    density = EdgedDensity(space.logprior, flags)
    return Coordinates(space._replace(logprior=density), enter, leave, partial(_latent, bounded=bounded), bounds)


def _inside(u, bounded, xp):
    """Keep u (n, d) so far from its edges that its latent is finite; 0 where there are none."""
    last = 0.5 - xp.finfo(u.dtype).epsneg
    return xp.clip(xp.where(bounded, u, 0.0), -last, last)


def _latent(u, bounded):
    """Return internal coordinates at u (n, d), inside jit."""
    return jnp.where(bounded, ROOT * erfinv(2 * _inside(u, bounded, jnp)), u)
