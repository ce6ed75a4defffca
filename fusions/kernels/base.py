"""The protocol of a kernel: a Markov move on a batch of c chains that leaves the constrained prior invariant.

A kernel proposes and accepts; it never calls a likelihood. The target is the prior restricted to log L > threshold, in the internal
coordinates of a `Space`. What a kernel has learned (flow, covariance, ensemble of points, step sizes) are its `params`; they are tuned
on a `Population` between walks, never inside one, and must not depend on the chains they then move.
"""

from collections.abc import Callable
from numbers import Integral
from typing import Any, NamedTuple

import jax.numpy as jnp

from fusions.errors import OptionError
from fusions.types import Array


def check_counts(settings, *names):
    """Raise an error unless the named settings are positive integers."""
    for name in names:
        value = getattr(settings, name)
        if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
            what = type(settings).__name__
            raise OptionError(f"Expected {name} of {what} to be a positive integer, got {value!r}. Type kernels.{what}({name}=1).")


def is_settings(value):
    """Tell whether a value is settings of a kernel or a flow, not their class."""
    return hasattr(value, "build") and not isinstance(value, type)


def check_kernels(kernels):
    """Raise an error unless all of a sequence are kernels' settings."""
    if not kernels or not all(map(is_settings, kernels)):
        raise OptionError(f"Expected a non-empty sequence of kernels, got {kernels!r}. Type kernels.Cycle((kernels.HitAndRun(),)).")


class KernelInfo(NamedTuple):
    """What a walk reports.

    Attributes
    ----------
    accepted : () share of moves accepted.
    passed : () share of moves that passed the tests before the likelihood call.
    loss : () held-out loss of the flow in use, nan without one.
    scale : () tuned step size.
    skill : () number between 0 and 1, skill of the velocity field, from 1 - loss / loss without one; nan for a kernel without a flow.
    """

    accepted: Array
    passed: Array
    loss: Array
    scale: Array
    skill: Array


class Kernel(NamedTuple):
    """Pure functions of one kernel.

    Attributes
    ----------
    init_params : (key, population) -> params, which are tuned before the first walk.
    tune : (key, population, params, info) -> params; info is the `KernelInfo` of the last walk made with these params.
    init : (key, params, walkers) -> state.
    propose : (key, state) -> (state, x (c, d), wanted (c,)); only rows wanted cost a likelihood call.
    accept : (state, above (c,)) -> (state, accepted (c,)); above = wanted and log L > threshold.
    done : state -> (c,) whether each chain has finished its walk.
    finish : state -> (x (c, d), info); info is a `KernelInfo` (a tuple of them for a combined kernel).
    """

    init_params: Callable[..., Any]
    tune: Callable[..., Any]
    init: Callable[..., Any]
    propose: Callable[..., tuple[Any, Array, Array]]
    accept: Callable[..., tuple[Any, Array]]
    done: Callable[..., Array]
    finish: Callable[..., tuple[Array, Any]]


def walk_length(n_moves, walk_scale):
    """Return the number of moves () of a walk: `n_moves` times the scale, at least one."""
    return jnp.maximum(jnp.round(n_moves * walk_scale), 1).astype(jnp.int32)
