"""Pairing of base draws with data points for flow matching."""

from fusions.flows.path import wrap
from fusions.types import Array


def independent(key: Array, z: Array, w1: Array, period: Array) -> tuple[Array, Array]:
    """Pair draws and data as they come; returns (w0, w1), both (n, d).

    Parameters
    ----------
    key : not used.
    z, w1 : (n, d) normal draws, data points.
    period : (d,) period of each coordinate, inf on the line.
    """
    del key
    return wrap(z, period), w1
