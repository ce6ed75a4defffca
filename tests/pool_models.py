"""Likelihoods for pools: importable by workers, without JAX."""

import math
import os
import signal
import sys
import time
from pathlib import Path


def quiet(p):
    return -0.5 * ((p["x"] - 0.5) / 0.2) ** 2 - 0.5 * ((p["y"] - 0.5) / 0.2) ** 2


def box(p):
    """Return `quiet`, in a form that JAX can't trace."""
    return math.fsum([quiet(p)])
