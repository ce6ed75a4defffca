"""The protocol of a flow and its state."""

from collections.abc import Callable
from typing import Any, NamedTuple

from fusions.numerics import normal_from, uniforms
from fusions.types import Array


class FlowState(NamedTuple):
    """What a flow has learned.

    Attributes
    ----------
    params : network parameters under optimisation.
    ema_params : their exponential moving average, used for transport.
    opt_state : optimiser state, kept for warm starts.
    shift : (d,) centre of the whitening, in internal coordinates.
    scale : (d, d) lower triangular whitening matrix; diagonal in the rows of angles.
    """

    params: Any
    ema_params: Any
    opt_state: Any
    shift: Array
    scale: Array


class FitInfo(NamedTuple):
    """What a fit reports.

    Attributes
    ----------
    loss : () last training loss, per dimension.
    held_out : () best loss on the points kept out of training, per dimension.
    at_rest : () that of a velocity of zero.
    """

    loss: Array
    held_out: Array
    at_rest: Array


class Flow(NamedTuple):
    """A learned density with its transport from a standard normal latent z.

    Attributes
    ----------
    init : key -> FlowState; the untrained flow is the identity on whitened coordinates.
    fit : (key, state, x (n, d), weights (n,)) -> (FlowState, FitInfo).
    push : (state, z (n, d)) -> (x (n, d), logq (n,)); logq is the density of x [nats].
    pull : (key, state, x (n, d)) -> (z (n, d), logq (n,)); the key draws the winding number of angles.
    move : (key, state, x or z (n, d), backward ()) -> what pull gives if backward, else what push gives: one compiled solve for both.
    """

    init: Callable[..., FlowState]
    fit: Callable[..., tuple[FlowState, FitInfo]]
    push: Callable[..., tuple[Array, Array]]
    pull: Callable[..., tuple[Array, Array]]
    move: Callable[..., tuple[Array, Array]]


def sample(flow, key, state, n, dim):
    """Draw n points from the flow; returns (x (n, d), logq (n,))."""
    return flow.push(state, normal_from(*uniforms(key, state.shift.dtype, (2, n, dim))))
