"""Coordinates in which a prior with edges ends where its parameter does.

An internal coordinate is normal under the prior, so that a posterior cut by an edge of a uniform prior has a thin tail there, out to
infinity and along another direction than the rest: densities fitted to it miss its end. In u = Phi(x) - 1/2, which is uniform under the
prior, it just stops, and what a density has outside of the prior costs draws, but no likelihood calls. Around 0 numbers are finest: a
posterior many orders narrower than its prior can lie there.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.scipy.special import erfinv
from scipy.special import erf
from scipy.special import erfinv as host_erfinv

from fusions.numerics import least_width
from fusions.types import Space

LOG_2PI, ROOT = float(np.log(2 * np.pi)), float(np.sqrt(2))


class Coordinates(NamedTuple):
    """Other coordinates y of a `Space`.

    Attributes
    ----------
    space : the `Space` in these coordinates.
    enter : internal coordinates x (n, d) -> y (n, d), on the host.
    leave : y -> x, on the host; what is outside of the prior comes to its edge.
    latent : the same inside jit.
    bounds : (2, d) lowest and highest y, as far inside of the prior as numbers tell, infinite where there is no edge.
    """

    space: Space
    enter: Callable
    leave: Callable
    latent: Callable
    bounds: np.ndarray


def with_edges(space, bounded):
    """Make the `Coordinates` that are uniform in (-1/2, 1/2) under the prior where it is `Prior.bounded`, and internal ones elsewhere."""
    bounded = np.array(bounded)

    def inside(u, xp):
        """Keep u so far from its edges that its latent is finite; 0 where there are none."""
        last = 0.5 - xp.finfo(u.dtype).epsneg
        return xp.clip(xp.where(bounded, u, 0.0), -last, last)

    def enter(x):
        u = (0.5 * erf(x.astype(np.float64) / ROOT)).astype(x.dtype)
        return np.where(bounded, inside(u, np), x)

    def leave(y):
        x = (ROOT * host_erfinv(2 * inside(y, np).astype(np.float64))).astype(y.dtype)
        return np.where(bounded, x, y)

    def latent(y):
        return jnp.where(bounded, ROOT * erfinv(2 * inside(y, jnp)), y)

    def logprior(y):
        x = latent(y)
        log_jacobian = jnp.sum(jnp.where(bounded, 0.5 * (x**2 + LOG_2PI), 0.0), axis=-1)
        allowed = jnp.all(~bounded | (jnp.abs(y) < 0.5), axis=-1)
        return jnp.where(allowed, space.logprior(x) + log_jacobian, -jnp.inf)

    bounds = np.where(bounded, 0.5 - least_width(jnp.result_type(float)), np.inf) * np.array([[-1], [1]])
    return Coordinates(space._replace(logprior=logprior), enter, leave, latent, bounds)
