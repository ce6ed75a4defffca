"""Shared data types: what crosses module borders."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from fusions.parallel.sharding import ALONE, Layout

Array = jax.Array | np.ndarray


def turned(angle):
    """Bring angles, on the host or inside jit, into [-pi, pi)."""
    return (angle + np.pi) % (2 * np.pi) - np.pi


class Space(NamedTuple):
    """The internal coordinates in which kernels and flows work.

    A non-periodic coordinate is a real number, normally distributed under an icdf prior.
    A periodic coordinate is an angle in [-pi, pi), uniform under its prior.

    Attributes
    ----------
    dim : number of coordinates d.
    periodic : d flags, True for angles.
    logprior : function (n, d) -> (n,), the prior's log density; -inf outside of its support.
    n_blobs : number of derived parameters b.
    layout : where rows are computed.
    """

    dim: int
    periodic: tuple[bool, ...]
    logprior: Callable[[Any], Any]
    n_blobs: int = 0
    layout: Layout = ALONE

    def wrap(self, x: Array) -> Array:
        """Bring the angles of x (..., d) back to [-pi, pi)."""
        if not any(self.periodic):
            return x
        return jax.numpy.where(np.array(self.periodic), turned(x), x)


class Population(NamedTuple):
    """Points from which a kernel learns.

    Attributes
    ----------
    x : (m, d) internal coordinates.
    weights : (m,) non-negative; a row of weight 0 is ignored.
    """

    x: Array
    weights: Array


class Walkers(NamedTuple):
    """Starting points of a batch of c chains.

    Attributes
    ----------
    x : (c, d) internal coordinates.
    logL : (c,) [nats].
    blobs : (c, b) derived parameters.
    active : (c,) False for padding rows, which neither move nor cost calls.
    walk_scale : () factor on the length of the walk.
    """

    x: Array
    logL: Array
    blobs: Array
    active: Array
    walk_scale: Array
