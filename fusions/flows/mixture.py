"""A flow from a Gaussian mixture, for posteriors: each component carries its own mode, the velocity field bends them into shape."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fusions.flows import matching, network
from fusions.flows.base import FitInfo, MixtureFlow
from fusions.flows.cnf import coordinates, features
from fusions.flows.defensive import with_others
from fusions.flows.gaussian_mixture import (
    Components,
    choose_components,
    draw_mixture,
    elongated,
    inverse_factors,
    log_shares,
    mixed,
    mixture_logprob,
    spread_out,
    standard_components,
    standardised,
    widened,
)
from fusions.flows.path import wrap
from fusions.flows.transport import trajectory, transport
from fusions.numerics import pick_columns, uniforms
from fusions.types import Array, Space

EM_ITERATIONS = 20
SOFT = 4.0  # squared widening of components where their units are blended, so that the velocity stays smooth between neighbours
EM_ROWS = 7168  # rows that the components are fitted to, at most: all of a training set that are not held out
PARTS = (1, 2, 4)  # of their largest number, which are tried
ROWS_EACH = 3  # of them at least for each number in a component's covariance


class MixtureState(NamedTuple):
    """What the flow has learned: network parameters, their moving average, optimiser state, whitening, components of the base."""

    params: Any
    ema_params: Any
    opt_state: Any
    shift: Any
    scale: Any
    base: Components


def local_frames(base: Components, period: Array):
    """Make the function w (n, d) -> (units (n, d), factor (n, d, d), inverse (n, d, d)) of the components that share w.

    These are w in the units of its components, and the factor takes velocities back, both averaged by responsibility.
    """
    inverse = inverse_factors(base)

    def frame(w):
        z = standardised(inverse, base, w, period)
        share = jnp.exp(log_shares(base, z, SOFT))
        matrices = (jnp.einsum("nk,kij->nij", share, part) for part in (base.factors, inverse))
        return jnp.einsum("nk,nki->ni", share, z), *matrices

    return frame


@dataclasses.dataclass(frozen=True)
class MixtureCNF:
    """Settings of a continuous normalising flow whose base is a Gaussian mixture.

    Each data point is paired with a draw from its own component (by responsibility), so modes far apart need no long paths. A share of
    each component is wider, and one is longer along its longest axis: this keeps importance weights bounded where the flow is too narrow,
    and reaches on along ridges.

    Attributes
    ----------
    components : number of Gaussians of the base, at most; fewer where `EM_ROWS` would not tell their covariances.
    kernels, least_share : number of kernels beside the flow (`with_others`), and the least share of the draws that they and it get.
    wide_share, wide_scale : share of draws from widened components, and how much wider they are.
    long_share, long_scale : share of draws from components made longer, and how much longer they are.
    width, depth : units per hidden layer, number of hidden layers.
    ode_steps : steps of the ODE solver.
    training : settings of the fit.
    """

    components: int = 24
    kernels: int = 1024
    least_share: float = 0.1
    wide_share: float = 0.1
    wide_scale: float = 1.5
    long_share: float = 0.1
    long_scale: float = 3.0
    width: int = 128
    depth: int = 3
    ode_steps: int = 8
    training: matching.Training = matching.Training(steps=100, rounds=15, patience=2, batch=256, learning_rate=2e-3, ema=0.98, jitter=0.0)

    def build(self, space: Space) -> MixtureFlow:
        """Make the flow's functions for a `Space`."""
        model = _Model(self, space, network.make_network(2 * space.dim + sum(space.periodic), space.dim, self.width, self.depth))

        def init(key):
            return _initial(model, key)

        def fit(key, state, x, *, with_velocity=True):
            return _fitted(model, key, state, x, with_velocity=with_velocity)

        def sample(key, state, n):
            move = model.mover(state, divergence=False)
            return model.unwhitened(state, space.layout.rowwise(lambda w: move(w)[0])(model.draw_base(key, state, n)))

        def logq(state, x):
            return space.layout.rowwise(lambda x: model.logq(state, x), space.dim)(x)

        def roundtrip(key, state, n):
            def rows(w0):
                w1, logdet = model.mover(state)(w0)
                return model.base_logq(state, w0, logdet) - model.logq(state, model.unwhitened(state, w1))

            return space.layout.rowwise(rows, space.dim)(model.draw_base(key, state, n))

        def path(key, state, n, times):
            w = trajectory(model.field(state), model.draw_base(key, state, n), times, steps=self.ode_steps)
            return model.unwhitened(state, w)

        def sample_base(key, state, n):
            return model.unwhitened(state, model.draw_base(key, state, n))

        def base_alone(state, x):
            return space.layout.rowwise(lambda w: model.base_logq(state, w, 0.0), space.dim)(model.whitened(state, x))

        def factors_at(state, x):
            factors = space.layout.rowwise(lambda w: local_frames(state.base, model.period_of(state))(w)[1])
            return state.scale @ factors(model.whitened(state, x))

        flow = MixtureFlow(init, fit, sample, logq, roundtrip, path)
        return with_others(flow, (sample_base, base_alone), factors_at, space, self)


class _Model(NamedTuple):
    """A velocity field in whitened coordinates w over a Gaussian mixture.

    Attributes
    ----------
    settings : MixtureCNF; space : Space; net : the network.
    """

    settings: MixtureCNF
    space: Space
    net: Any

    def period_of(self, state: Any):
        """Return the periods (d,) of the whitened coordinates."""
        return coordinates(self.space)[0](state)

    def whitened(self, state: Any, x: Array):
        """Return w (n, d) of x (n, d)."""
        return coordinates(self.space)[1](state, x)

    def unwhitened(self, state: Any, w: Array):
        """Return x (n, d) of w (n, d)."""
        return self.space.wrap(state.shift + w @ state.scale.T)

    def velocity(self, base: Components, period: Array):
        """Make the velocity (params, w (n, d), t) in the units of the components, so that narrow modes are learned too."""
        frame = local_frames(base, period)

        def velocity(params, w, t):
            units, factor, _ = frame(w)
            inputs = jnp.concatenate([features(self.space, w, period), units], axis=1)
            return jnp.einsum("nij,nj->ni", factor, self.net.apply(params, inputs, jnp.broadcast_to(t, w.shape[:1])))

        return velocity

    def field(self, state: Any):
        """Make the velocity (w (n, d), t) of a state."""
        velocity = self.velocity(state.base, self.period_of(state))
        return lambda w, t: velocity(state.ema_params, w, t)

    def mover(self, state: Any, *, backward: Any = False, divergence: bool = True):
        """Make the function w (n, d) -> w at the other end of the solve, and ln of the determinant (n,)."""
        options = {"backward": backward, "divergence": divergence, "most": self.space.layout.max_batch}
        return lambda w: transport(self.field(state), w, steps=self.settings.ode_steps, **options)

    def spread(self, base: Components, period: Array):
        """Mix components with wider and with longer ones."""
        s = self.settings
        wide, long = widened(base, s.wide_scale), elongated(base, s.long_scale, period)
        return mixed((1 - s.wide_share - s.long_share, base), (s.wide_share, wide), (s.long_share, long))

    def draw_base(self, key: Array, state: Any, n: int):
        """Draw n points w (n, d) of the base."""
        period = self.period_of(state)
        return wrap(draw_mixture(key, self.spread(state.base, period), n), period)

    def base_logq(self, state: Any, w0: Array, logdet: Any):
        """Return ln of the density in x (n,) where the solve began at w0 (n, d) of the base, with its ln of the determinant (n,)."""
        period = self.period_of(state)
        log_base = mixture_logprob(self.spread(state.base, period), w0, period, self.space.periodic)
        return log_base - logdet - jnp.sum(jnp.log(jnp.diag(state.scale)))

    def logq(self, state: Any, x: Array):
        """Return ln of the density at x (n, d)."""
        w0, logdet = self.mover(state, backward=True)(self.whitened(state, x))
        return self.base_logq(state, wrap(w0, self.period_of(state)), logdet)


def _initial(model, key):
    """Make the state of a flow that has seen nothing."""
    settings, space, dtype = model.settings, model.space, jnp.zeros(()).dtype
    most = max(2 * EM_ROWS // (ROWS_EACH * space.dim * (space.dim + 1)), 1)
    params = model.net.init(key)
    scale = jnp.diag(jnp.where(np.array(space.periodic), jnp.pi, 1.0).astype(dtype))
    base = standard_components(min(settings.components, most), space.dim, dtype)
    return MixtureState(params, params, matching.optimiser(settings.training).init(params), jnp.zeros(space.dim, dtype), scale, base)


def _fitted(model, key, state, x, *, with_velocity):
    """Fit the components to x (n, d), and the velocity field too if asked.

    Parameters
    ----------
    model : _Model; key : random key; state : MixtureState; x : (n, d).
    with_velocity : whether the field is trained.

    Returns
    -------
    MixtureState, FitInfo
    """
    training, (k_base, k_fit) = model.settings.training, jax.random.split(key)
    weights = jnp.ones(len(x), x.dtype)
    shift, scale = matching.whiten(x, weights, model.space.periodic)
    state = state._replace(shift=shift, scale=scale)
    period, w, held = model.period_of(state), model.whitened(state, x), training.held_out(len(x))
    sizes = list(dict.fromkeys(max(len(state.base.logweights) // part, 1) for part in PARTS))
    base = choose_components(k_base, w[~held][:EM_ROWS], w[held], sizes, period, EM_ITERATIONS)
    learned, info = (state.params, state.ema_params, state.opt_state), FitInfo(*jnp.full(3, jnp.nan, x.dtype))
    if with_velocity:
        frame = local_frames(base, period)
        learned, info = matching.fit(
            k_fit, learned, w, weights, period, velocity=model.velocity(base, period), coupling=_from_component(base), training=training,
            local=lambda w, error: jnp.einsum("nij,nj->ni", frame(w)[2], error),
        )  # fmt: skip
    return MixtureState(*learned, shift, scale, base), info


def _from_component(base):
    """Make the coupling that pairs each data point with a draw from its own component."""
    inverse = inverse_factors(base)

    def paired(key, z, w1, period):
        shares = log_shares(base, standardised(inverse, base, w1, period))
        k = pick_columns(*uniforms(key, w1.dtype, shares.shape[:1]), shares)
        return wrap(spread_out(base, k, z), period), w1

    return paired
