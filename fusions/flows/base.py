"""The protocol of a flow and its state."""

from typing import Any, NamedTuple, Protocol

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


class Init(Protocol):
    """Make the state of a flow that has seen nothing: the identity on whitened coordinates."""

    def __call__(self, key: Array) -> Any:
        """Return the state."""


class Fit(Protocol):
    """Fit a flow to points."""

    def __call__(self, key: Array, state: Any, x: Array, weights: Array) -> tuple[Any, FitInfo]:
        """Return the state fitted to x (n, d) with weights (n,), and a report."""


class Push(Protocol):
    """Take latent points to internal coordinates."""

    def __call__(self, state: Any, z: Array) -> tuple[Array, Array]:
        """Return x (n, d) of z (n, d), and ln of its density (n,) [nats]."""


class Pull(Protocol):
    """Take internal coordinates to latent points."""

    def __call__(self, key: Array, state: Any, x: Array) -> tuple[Array, Array]:
        """Return z (n, d) of x (n, d), and ln of the density of x (n,) [nats]; the key draws the winding numbers of angles."""


class Move(Protocol):
    """Push or pull, in one compiled solve."""

    def __call__(self, key: Array, state: Any, points: Array, backward: Any) -> tuple[Array, Array]:
        """Return what `Pull` gives of points (n, d) if backward (), else what `Push` gives."""


class Flow(NamedTuple):
    """A learned density as a map from a standard normal latent z: what kernels move in.

    A flow of the nested run is one, fitted to live points. The refine phase takes a `MixtureFlow`, whose base is no standard normal.
    """

    init: Init
    fit: Fit
    push: Push
    pull: Pull
    move: Move


class FitRows(Protocol):
    """Fit a flow to points of equal weight, of which its training holds some out."""

    def __call__(self, key: Array, state: Any, x: Array, *, with_velocity: bool = True) -> tuple[Any, FitInfo]:
        """Return the state fitted to x (n, d), with its velocity field or with the base alone, and a report."""


class Sample(Protocol):
    """Draw from a flow."""

    def __call__(self, key: Array, state: Any, n: int) -> Array:
        """Return n draws x (n, d)."""


class LogDensity(Protocol):
    """Compute the density of a flow."""

    def __call__(self, state: Any, x: Array) -> Array:
        """Return ln of the density at x (n, d), (n,) [nats]."""


class Roundtrip(Protocol):
    """Measure the error of the solver."""

    def __call__(self, key: Array, state: Any, n: int) -> Array:
        """Return ln q of n draws along the solve that made them, minus ln q computed back from them (n,) [nats]."""


class Path(Protocol):
    """Follow draws."""

    def __call__(self, key: Array, state: Any, n: int, times: Array) -> Array:
        """Return x (m, n, d) at times (m,) on the way from the base to the draws that `Sample` returns."""


class MixtureFlow(NamedTuple):
    """A normalised density that one can draw from: what the refine phase fits to a posterior.

    It has `init` in common with `Flow`; its latent points are of no use, so that it gives draws and densities alone. `sample` and `logq`
    of a flow with kernels beside it (`defensive.with_others`) take `with_velocity` too: whether the state has a trained field.
    """

    init: Init
    fit: FitRows
    sample: Sample
    logq: LogDensity
    roundtrip: Roundtrip
    path: Path
