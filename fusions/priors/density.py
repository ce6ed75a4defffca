"""Log densities in internal coordinates, as functions that are equal if they compute the same: programs are shared by them."""

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

LOG_2PI = math.log(2 * math.pi)


@dataclass(frozen=True)
class StandardDensity:
    """ln of the density of coordinates that are standard normal, or uniform on the circle: (..., d) -> (...,).

    Attributes
    ----------
    periodic : d flags, True for angles.
    """

    periodic: tuple[bool, ...]

    def __call__(self, x: Any) -> Any:
        """Return the log density at x (..., d) [nats]; -inf where a coordinate is not finite."""
        return jnp.where(jnp.all(jnp.isfinite(x), axis=-1), jnp.sum(standard_terms(self.periodic, x), axis=-1), -jnp.inf)


@dataclass(frozen=True)
class Density:
    """ln of the density of a prior in its internal coordinates, renormalised on what is allowed: (n, d) -> (n,).

    Attributes
    ----------
    prior : Prior
    log_mass : ln of the part of it that its constraint allows.
    """

    prior: Any
    log_mass: float

    def __call__(self, x: Any) -> Any:
        """Return the log density at x (n, d) [nats]."""
        return jax.vmap(self.prior.log_prob)(x) - self.log_mass


def standard_terms(periodic: tuple[bool, ...], x: jax.Array) -> jax.Array:
    """Return the log density of each coordinate (..., d), standard normal or uniform on the circle."""
    return jnp.where(np.array(periodic), jnp.full_like(x, -LOG_2PI), -0.5 * x * x - 0.5 * LOG_2PI)
