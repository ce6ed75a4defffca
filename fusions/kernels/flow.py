"""Metropolis moves in the latent space of a flow."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fusions.errors import OptionError
from fusions.flows.cnf import CNF
from fusions.kernels.base import Kernel, check_counts, is_settings
from fusions.kernels.metropolis import accept, done, offer, report, start
from fusions.numerics import normal_from, uniforms
from fusions.types import Space

TARGET_ACCEPTANCE = 0.3  # below it the latent step shrinks
USEFUL_ACCEPTANCE = 0.2  # below it the walk spends fewer moves on the flow
USEFUL_LEARNING = 0.1  # share of the loss at rest that a flow must take away; a perfect one for normal data takes 0.21


class FlowParams(NamedTuple):
    """The flow, the latent step (1 = independent draws), recent acceptance, the last fit's held-out loss, how far it has learned (0..1)."""

    flow: Any
    scale: Any
    acceptance: Any
    held_out: Any
    skill: Any


@dataclasses.dataclass(frozen=True)
class FlowKernel:
    """Preconditioned Crank-Nicolson moves z' = sqrt(1 - s^2) z + s xi in a flow's latent space.

    The move is reversible for the normal base, so the acceptance ratio is w(x')/w(x) with w = prior/q (Cotter et al. 2013,
    arXiv:1202.0709): it is tested before the likelihood. With s = 1 a move is an independent draw from the flow; without
    regard to the state, a move uses s or, with probability local_share, a scale drawn log-uniformly from [min_scale, s].

    Attributes
    ----------
    n_moves : moves per walk (times the walk scale); fewer where the flow is so bad that less than a fifth are accepted.
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

    def build(self, space: Space) -> Kernel:
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
            skill = 0.8 * params.skill + 0.2 * jnp.nan_to_num(learned, nan=1.0)
            return FlowParams(state, scale, acceptance, fit.held_out, skill)

        def init(key, params, walkers):
            del key
            share = params.skill * jnp.clip(params.acceptance / USEFUL_ACCEPTANCE, 0.0, 1.0)
            place = {"x": walkers.x, "z": jnp.zeros_like(walkers.x)}
            return start(params, place, jnp.zeros_like(walkers.x[:, 0]), walkers, self.n_moves * share)

        def propose(key, s):
            return _proposed(self, flow, space, key, s)

        def finish(s):
            return report(s, s.params.held_out, s.params.scale, s.params.skill)

        return Kernel(init_params, tune, init, propose, accept, done, finish)


def _proposed(settings, flow, space, key, s):
    """Propose a move of each chain in the latent space.

    Parameters
    ----------
    settings : FlowKernel; flow : Flow; space : Space.
    key : random key; s : `metropolis.Moves`.

    Returns
    -------
    What `Kernel.propose` does.
    """
    n = len(s.logw)
    kind, fraction, u, noise = uniforms(key, s.logw.dtype, *[(n,)] * 3, (2, *s.place["z"].shape))
    small = s.params.scale * (settings.min_scale / s.params.scale) ** fraction
    step = jnp.where(kind < settings.local_share, small, s.params.scale)[:, None]

    def solved(i, pair):
        """Find where the chains stand in the latent space (i = 0), then move them there: the solve is compiled once."""
        here, _ = pair
        z = jnp.sqrt(1 - step**2) * here["z"] + step * normal_from(noise)
        end, logq = flow.move(key, s.params.flow, jnp.where(i == 0, here["x"], z), i == 0)
        x, z = jnp.where(i == 0, here["x"], end), jnp.where(i == 0, end, z)
        there = {"x": x, "z": z, "logw": space.logprior(x) - logq}
        return jax.tree.map(lambda new, old: jnp.where(i == 0, new, old), there, here), there

    here = {**s.place, "logw": s.logw}
    here, there = jax.lax.fori_loop(jnp.minimum(s.step, 1), 2, solved, (here, here))
    s, logw = s._replace(place={name: here[name] for name in s.place}, logw=here["logw"]), there["logw"]
    return offer(u, s, {name: there[name] for name in s.place}, logw, logw - s.logw)
