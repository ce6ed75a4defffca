"""Metropolis moves in the latent space of a flow."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fusions.errors import OptionError
from fusions.flows.cnf import CNF
from fusions.kernels.base import Kernel, KernelInfo, check_counts, is_settings, walk_length

TARGET_ACCEPTANCE = 0.3  # below it the latent step shrinks
USEFUL_ACCEPTANCE = 0.2  # below it the walk spends fewer moves on the flow
USEFUL_LEARNING = 0.1  # share of the loss at rest that a flow must take away; a perfect one for normal data takes 0.21


class FlowParams(NamedTuple):
    """The flow, the latent step (1 = independent draws), recent acceptance, the last fit's held-out loss, how far it has learned (0..1)."""

    flow: Any
    scale: Any
    acceptance: Any
    held_out: Any
    worth: Any


class FlowMoves(NamedTuple):
    """Chains in latent space: z and x belong together, logw = log prior(x) - log q(x)."""

    params: FlowParams
    z: Any
    x: Any
    logw: Any
    z_new: Any
    x_new: Any
    logw_new: Any
    active: Any
    length: Any
    step: Any
    n_passed: Any
    n_accepted: Any


@dataclasses.dataclass(frozen=True)
class FlowKernel:
    """Preconditioned Crank-Nicolson moves z' = sqrt(1 - s^2) z + s xi in a flow's latent space.

    The move is reversible for the normal base, so the acceptance ratio is w(x')/w(x) with w = prior/q (Cotter et al. 2013,
    arXiv:1202.0709): it is tested before the likelihood. With s = 1 a move is an independent draw from the flow; without
    regard to the state, a move uses s or, with probability local_share, a scale drawn log-uniformly from [min_scale, s].

    Attributes
    ----------
    n_moves : moves per walk (times its effort); fewer where the flow is so bad that less than a fifth are accepted.
    min_scale : smallest latent step.
    local_share : share of moves with a drawn scale.
    flow : the flow's settings (anything with `build(space) -> Flow`).
    """

    n_moves: int = 3
    min_scale: float = 0.02
    local_share: float = 0.25
    flow: Any = CNF()

    def __post_init__(self):
        """Check the settings."""
        check_counts(self, "n_moves")
        if not is_settings(self.flow):
            raise OptionError(f"Expected flow to be settings of a flow, got {self.flow!r}. Type FlowKernel(), or flow=CNF(width=64).")

    def build(self, space) -> Kernel:
        """Make the kernel's functions for a `Space`."""
        flow = self.flow.build(space)

        def init_params(key, population):
            del population
            one = jnp.ones((), jnp.zeros(()).dtype)
            return FlowParams(flow.init(key), one, one, jnp.nan * one, one)

        def tune(key, population, params, info):
            state, fit = flow.fit(key, params.flow, population.x, population.weights)
            accepted = jnp.nan_to_num(info.accepted, nan=TARGET_ACCEPTANCE)
            scale = jnp.clip(params.scale * jnp.exp(0.5 * (accepted - TARGET_ACCEPTANCE)), 0.1, 1.0)
            acceptance = 0.8 * params.acceptance + 0.2 * accepted
            learned = jnp.clip((1 - fit.held_out / fit.at_rest) / USEFUL_LEARNING, 0.0, 1.0)
            worth = 0.8 * params.worth + 0.2 * jnp.nan_to_num(learned, nan=1.0)
            return FlowParams(state, scale, acceptance, fit.held_out, worth)

        def init(key, params, walkers):
            z, logq = flow.pull(key, params.flow, walkers.x)
            logw = space.logprior(walkers.x) - logq
            share = params.worth * jnp.clip(params.acceptance / USEFUL_ACCEPTANCE, 0.0, 1.0)
            zero = jnp.zeros((), jnp.int32)
            return FlowMoves(
                params,
                z,
                walkers.x,
                logw,
                z,
                walkers.x,
                logw,
                walkers.active,
                walk_length(self.n_moves * share, walkers.effort),
                zero,
                zero,
                zero,
            )

        def propose(key, s):
            k_mix, k_scale, k_noise, k_accept = jax.random.split(key, 4)
            n = len(s.logw)
            local = jax.random.bernoulli(k_mix, self.local_share, (n,))
            small = s.params.scale * (self.min_scale / s.params.scale) ** jax.random.uniform(k_scale, (n,), s.z.dtype)
            step = jnp.where(local, small, s.params.scale)[:, None]
            z = jnp.sqrt(1 - step**2) * s.z + step * jax.random.normal(k_noise, s.z.shape, s.z.dtype)
            x, logq = flow.push(s.params.flow, z)
            logw = space.logprior(x) - logq
            log_u = jnp.log(jax.random.uniform(k_accept, (n,), s.z.dtype))
            wanted = s.active & (s.step < s.length) & (log_u < logw - s.logw)
            return s._replace(z_new=z, x_new=x, logw_new=logw, n_passed=s.n_passed + jnp.sum(wanted, dtype=jnp.int32)), x, wanted

        def accept(s, above):
            pick = above[:, None]
            return s._replace(
                z=jnp.where(pick, s.z_new, s.z),
                x=jnp.where(pick, s.x_new, s.x),
                logw=jnp.where(above, s.logw_new, s.logw),
                step=s.step + 1,
                n_accepted=s.n_accepted + jnp.sum(above, dtype=jnp.int32),
            ), above

        def done(s):
            return (s.step >= s.length) | ~s.active

        def finish(s):
            moves = jnp.sum(s.active) * s.step
            return s.x, KernelInfo(s.n_accepted / moves, s.n_passed / moves, s.params.held_out, s.params.scale, s.params.worth)

        return Kernel(init_params, tune, init, propose, accept, done, finish)
