"""Draws from the flows of a refine phase and their weights, and the functions and coordinates that the phase is given."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from fusions.algorithms.refine.settings import BATCH, UNIT
from fusions.kernels.base import Kernel
from fusions.numerics import logsumexp
from fusions.types import Array


class RefineSpace(NamedTuple):
    """Coordinates u in which flows and chains work: uniform between the edges of a bounded prior, else the internal ones, x.

    Attributes
    ----------
    periodic : d flags.
    bounds : (2, d) edges of the prior, infinite where it has none.
    enter, leave : x (n, d) -> u (n, d), and back.
    """

    periodic: tuple
    bounds: np.ndarray
    enter: Callable
    leave: Callable


class RefineFunctions(NamedTuple):
    """Compiled functions of a refine phase.

    Attributes
    ----------
    space : RefineSpace
    init : key -> flow state.
    fit : (key, state, u (training.ROWS, d), *, with_velocity) -> state; the velocity field is trained only `with_velocity`.
    held_out : n -> flags (n,) of the rows that a fit does not train on.
    draw : (key, state) -> u (BATCH, d).
    roundtrip : (key, state) -> (BATCH,) error of log q that the ODE solver makes.
    logq : (state, u (BATCH, d)) -> (BATCH,).
    target : u (BATCH or number of chains, d) -> (logL, blobs, logprior); whoever made it counts the calls.
    logprior : u (n, d) -> (n,), of any length.
    kernel : of the chains.
    trajectory : what `hamiltonian.make_trajectory` makes; None if the likelihood has no gradient.
    """

    space: RefineSpace
    init: Callable
    fit: Callable
    held_out: Callable
    draw: Callable
    roundtrip: Callable
    logq: Callable
    target: Callable
    logprior: Callable
    kernel: Kernel
    trajectory: Callable | None


class Ensemble(NamedTuple):
    """Flows of a refine phase.

    Attributes
    ----------
    fits : for each fit a pair of flow states, one of each fold.
    """

    fits: tuple

    @classmethod
    def of(cls, pair: Sequence, n: int):
        """Start n fits from the same pair of states."""
        return cls((tuple(pair),) * n)

    def members(self):
        """List (state, fold) of all flows."""
        return [(state, fold) for pair in self.fits for fold, state in enumerate(pair)]


class Draws(NamedTuple):
    """Draws, each round from the equal mixture of its flows.

    Attributes
    ----------
    u : (n, d); logL : (n,); blobs : (n, b).
    logw_own : (n,) log(prior L / q), q the mixture of the flows of the fold that a draw is from.
    logw : (n,) log(prior L / q), q the mixture of all.
    fold : (n,) whose flow it was drawn from; -1 for one that has been given up since.
    """

    u: np.ndarray
    logL: np.ndarray
    blobs: np.ndarray
    logw_own: np.ndarray
    logw: np.ndarray
    fold: np.ndarray


class Evaluate:
    """The target at any number of points.

    Attributes
    ----------
    highest : log L so far, inside of the prior.
    """

    def __init__(self, target: Callable, dtype: Any):
        """Take the target of a refine phase, and the type of its points."""
        self.target, self.dtype, self.highest = target, dtype, -np.inf

    def __call__(self, u: np.ndarray):
        """Return logL (n,), logprior (n,) at u (n, d)."""
        logL, logprior = np.empty((2, len(u)))
        for i, n, rows in _batches(u.astype(self.dtype)):
            values, _, inside = self.target(rows)
            logL[i : i + n], logprior[i : i + n] = values[:n], inside[:n]
        self.highest = np.max(logL, where=np.isfinite(logprior), initial=self.highest)
        return logL, logprior


def whole_units(n: float):
    """Round a number of draws up to a batch from each flow."""
    return UNIT * max(int(np.ceil(n / UNIT)), 1)


def draw(key: Array, functions: RefineFunctions, flows: Ensemble, n: int):
    """Draw points, batch by batch from each of the flows, with their weights under the mixture.

    Parameters
    ----------
    key : random key.
    functions : RefineFunctions
    flows : Ensemble
    n : number of draws, a multiple of BATCH.

    Returns
    -------
    Draws
    """
    sources, parts = flows.members(), []
    for i in range(n // BATCH):
        state, fold = sources[i % len(sources)]
        u = functions.draw(jax.random.fold_in(key, i), state)
        logL, blobs, logprior = functions.target(u)
        logp = np.where(np.isfinite(logprior), logprior + logL, -np.inf)
        both = np.array([logq(functions, flows, f, u) for f in (0, 1)])
        mixture = np.logaddexp(*both) - np.log(2)
        parts.append(Draws(u, logL, blobs, logp - both[fold], logp - mixture, np.full(BATCH, fold)))
    return together(parts)


def together(parts: list[Draws]):
    """Join `Draws`."""
    return Draws(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def logq(functions: RefineFunctions, flows: Ensemble, fold: int, u: np.ndarray):
    """Compute ln of the density at u (n, d) of the equal mixture of one fold's flows.

    Parameters
    ----------
    functions : RefineFunctions; flows : Ensemble; fold : 0 or 1.
    u : (n, d)
    """
    parts = [np.concatenate([functions.logq(pair[fold], rows)[:n] for _, n, rows in _batches(u)]) for pair in flows.fits]
    return logsumexp(np.array(parts), axis=0) - np.log(len(parts))


def _batches(u):
    """Cut u (n, d) into batches of one shape, the last one filled with nan; yields the first row, how many there are, (BATCH, d)."""
    for i in range(0, len(u), BATCH):
        n = min(BATCH, len(u) - i)
        yield i, n, np.pad(u[i : i + n], ((0, BATCH - n), (0, 0)), constant_values=np.nan)
