"""Likelihoods for tests of pools: workers import this file, and it needs no JAX."""

import math
import os
import signal
import sys
import time
from pathlib import Path


def quiet(p):
    return -0.5 * ((p["x"] - 0.5) / 0.2) ** 2 - 0.5 * ((p["y"] - 0.5) / 0.2) ** 2


def narrow(p):
    return -0.5 * ((p["x"] - 0.5) / 0.01) ** 2 - 0.5 * ((p["y"] - 0.5) / 0.01) ** 2


def brief(p):
    time.sleep(2e-4)
    return narrow(p)


def slow(p):
    time.sleep(0.01)
    return quiet(p)


def busy(p):
    """Return `quiet` after about 10 ms of work."""
    return quiet(p) + 0 * sum(i * i for i in range(150_000))


def of_jax(p):
    """Compute in JAX, which a worker imports with its first call."""
    import jax.numpy as jnp

    days = jnp.asarray(2457394.0 + p["x"]) - 2457394.5
    return float(-0.5 * (days / 0.2) ** 2) + quiet({"x": 0.5, "y": p["y"]})


def with_blobs(p):
    return quiet(p), {"sum": p["x"] + p["y"], "pid": float(os.getpid())}


def of_array(theta):
    theta *= 1.0  # an array of its own that may be changed
    return quiet({"x": theta[0], "y": theta[1]})


def of_batch(p):
    """Return log L of many points and the size of the batch."""
    return quiet(p), {"size": 0 * p["x"] + len(p["x"])}


def jax_loaded(p):
    return float("jax" in sys.modules)


def nan(p):
    return math.nan


def wrong_shape(p):
    return [1.0, 2.0]


def unpicklable(p):
    return lambda: 0.0


def no_solution(p):
    raise RuntimeError("no solution")


def leave(p):
    sys.exit("good bye")


class Switch:
    """A function that can be changed, so that one compiled problem stands for many likelihoods."""

    def __init__(self, function):
        self.function = function

    def __call__(self, p):
        return self.function(p)


class Fault:
    """Return `quiet`, but do something else between x = 0.5 and 0.6: the first time, if a folder to remember it is given, or always."""

    def __init__(self, action, folder=None):
        self.action, self.folder = action, folder

    def __call__(self, p):
        if 0.5 < p["x"] < 0.6 and self.is_first():
            getattr(self, self.action)()
        return quiet(p)

    def is_first(self):
        if self.folder is None:
            return True
        try:
            Path(self.folder).mkdir(exist_ok=True)
            (Path(self.folder) / "seen").touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    def leave(self):
        os._exit(3)

    def kill(self):
        os.kill(os.getpid(), signal.SIGKILL)

    def hang(self):
        time.sleep(1000)

    def fail(self):
        raise OSError("file server is away")


class Flaky:
    """Raise at one in n points, the first time that any process asks for it; a folder remembers which these were."""

    def __init__(self, n, folder):
        self.n, self.folder = n, folder

    def __call__(self, p):
        if int(1e6 * p["x"]) % self.n == 0 and Fault("fail", self.folder / repr(p["x"])).is_first():
            raise OSError("file server is away")
        return quiet(p)


class Heavy:
    """Count how often it is loaded by a worker, and how often it travels."""

    def __init__(self, folder):
        self.folder = folder

    def __call__(self, p):
        return quiet(p)

    def __setstate__(self, state):
        self.__dict__ = state
        (Path(self.folder) / f"loaded-{os.getpid()}-{time.monotonic_ns()}").touch()


def of_days(p, days):
    """Fit an offset to Julian days, given as an array of JAX."""
    return float(-0.5 * sum((p["x"] + 2459000.5 - float(day)) ** 2 for day in days) / 1e-4 - p["y"] ** 2)
