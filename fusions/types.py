"""Shared data types: what crosses module borders."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from fusions.numerics import Array
from fusions.parallel.sharding import ALONE, Layout


def turned(angle: Any):
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


@dataclasses.dataclass
class Budget:
    """Likelihood calls and time that a run may take; whoever evaluates the likelihood charges it.

    Attributes
    ----------
    limit : likelihood calls in all.
    deadline : reading of `time.perf_counter` at which to stop.
    used : likelihood calls so far, those of earlier sessions included.
    report : called with `used` when calls have been charged.
    expired : () -> whether time is up or the run is asked to end.
    """

    limit: float = np.inf
    deadline: float = np.inf
    used: int = 0
    report: Callable[[int], None] = lambda used: None
    expired: Callable[[], bool] = lambda: False

    @property
    def left(self) -> float:
        """Likelihood calls that are left."""
        return self.limit - self.used

    def charge(self, n_calls: int) -> None:
        """Count likelihood calls that are made."""
        self.used += int(n_calls)
        self.report(self.used)

    def late(self) -> bool:
        """Return whether the deadline has passed."""
        return time.perf_counter() >= self.deadline


@dataclasses.dataclass(frozen=True)
class Schedule:
    """What the price of a likelihood asks for.

    Attributes
    ----------
    cost : its name in files and summaries.
    kill : share of the live points replaced per level.
    precision : the nested run stops when the live points' volume, at their highest likelihood, holds less than this share of the evidence,
    enough : or when so many posterior points are effective, because the refine phase does the rest.
    max_walk_scale : largest factor on the length of walks that their correlations may ask for.
    max_nominal_scale : the same for few live points, which train worse flows.
    untrained_walk_factor : by how much longer walks are, at most, where the flow has not learned, which leaves them to local moves.
    efficiency : effective fraction of draws with which adaptation of the flows may end.
    chain_budgets : budgets of the refine phase that chains may spend until they have settled.
    early_chain_budgets : the same within which chains that have settled let adaptation end early.
    velocity_after : rounds without progress before flows learn a velocity.
    """

    cost: str
    kill: float
    precision: float
    max_walk_scale: float
    max_nominal_scale: float
    untrained_walk_factor: float
    efficiency: float
    chain_budgets: float
    early_chain_budgets: float
    velocity_after: float
    enough: float = np.inf
