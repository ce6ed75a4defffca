"""The protocol of a flow and its state."""

from collections.abc import Callable
from typing import Any, NamedTuple

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
    """

    loss: Array
    held_out: Array


class Flow(NamedTuple):
    """A learned density with its transport from latents z (n, l) of a known law.

    Attributes
    ----------
    init : key -> state.
    fit : (key, state, x (n, d), weights (n,)) -> (state, FitInfo).
    draw : (key, state, n) -> z (n, l).
    move : (key, state, z, step (n, 1)) -> z; leaves the law of z invariant and is reversible; step 1 is an independent draw, a small
        step a local move. Steps must not depend on z.
    push : (state, z) -> (x (n, d), logq (n,)); logq is the density of x [nats].
    pull : (key, state, x) -> (z, logq); the key draws what x leaves open, such as the winding number of angles.
    """

    init: Callable[..., Any]
    fit: Callable[..., tuple[Any, FitInfo]]
    draw: Callable[..., Array]
    move: Callable[..., Array]
    push: Callable[..., tuple[Array, Array]]
    pull: Callable[..., tuple[Array, Array]]


def sample(flow, key, state, n):
    """Draw n points from the flow; returns (x (n, d), logq (n,))."""
    return flow.push(state, flow.draw(key, state, n))
