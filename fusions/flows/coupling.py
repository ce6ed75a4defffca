"""Pairing of base draws with data points for flow matching."""

from fusions.flows.path import wrap


def independent(key, w0, w1, period):
    """Pair normal draws (n, d) and data (n, d) as they come."""
    del key
    return wrap(w0, period), w1
