"""The protocol of a kernel: a Markov move on a batch of c chains that leaves the constrained prior invariant.

A kernel proposes and accepts; it never calls a likelihood. The target is the prior restricted to log L > threshold, in the internal
coordinates of a `Space`. What a kernel has learned (flow, covariance, ensemble of points, step sizes) are its `params`; they are tuned
on a `Population` between walks, never inside one, and must not depend on the chains they then move.
"""

from collections.abc import Sequence
from numbers import Integral
from typing import Any, NamedTuple, Protocol

import jax.numpy as jnp

from fusions.errors import OptionError
from fusions.types import Array, Population, Walkers


def check_counts(settings: Any, *names: str) -> None:
    """Raise an error unless the named settings are positive integers."""
    for name in names:
        value = getattr(settings, name)
        if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
            what = type(settings).__name__
            raise OptionError(f"Expected {name} of {what} to be a positive integer, got {value!r}. Type kernels.{what}({name}=1).")


def is_settings(value: Any) -> bool:
    """Tell whether a value is settings of a kernel or a flow, not their class."""
    return hasattr(value, "build") and not isinstance(value, type)


def check_kernels(kernels: Sequence[Any]) -> None:
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

    def reports(self) -> list["KernelInfo"]:
        """List the reports of single kernels."""
        return [self]


class CycleInfo(NamedTuple):
    """What a walk of several kernels reports.

    Attributes
    ----------
    parts : the report of each, a `KernelInfo` or a `CycleInfo`.
    """

    parts: tuple

    def reports(self) -> list[KernelInfo]:
        """List the reports of single kernels."""
        return [report for part in self.parts for report in part.reports()]


class InitParams(Protocol):
    """Make what a kernel knows before it has learned."""

    def __call__(self, key: Array, population: Population) -> Any:
        """Return the params, which are tuned before the first walk."""


class Tune(Protocol):
    """Learn from a population."""

    def __call__(self, key: Array, population: Population, params: Any, info: Any) -> Any:
        """Return the params; info is the `KernelInfo` of the last walk made with those before."""


class Start(Protocol):
    """Begin a walk."""

    def __call__(self, key: Array, params: Any, walkers: Walkers) -> Any:
        """Return the state of the chains."""


class Propose(Protocol):
    """Propose a move of each chain."""

    def __call__(self, key: Array, state: Any, /) -> tuple[Any, Array, Array]:
        """Return the state, x (c, d), wanted (c,); only rows wanted cost a likelihood call."""


class Accept(Protocol):
    """Accept the moves to points above the contour."""

    def __call__(self, state: Any, above: Array, /) -> tuple[Any, Array]:
        """Return the state and accepted (c,); above (c,) = wanted and log L > threshold."""


class Done(Protocol):
    """Tell which chains have finished."""

    def __call__(self, state: Any, /) -> Array:
        """Return (c,) flags."""


class Finish(Protocol):
    """End a walk, or look at it on the way."""

    def __call__(self, state: Any, /) -> tuple[Array, Any]:
        """Return x (c, d) and a `KernelInfo`, or a `CycleInfo` of kernels that are combined."""


class Kernel(NamedTuple):
    """Pure functions of one kernel."""

    init_params: InitParams
    tune: Tune
    init: Start
    propose: Propose
    accept: Accept
    done: Done
    finish: Finish


def walk_length(n_moves: Any, walk_scale: Array) -> Array:
    """Return the number of moves () of a walk: `n_moves` times the scale, at least one."""
    return jnp.maximum(jnp.round(n_moves * walk_scale), 1).astype(jnp.int32)
