"""Combine kernels: one after another (cycle) or picked at random (mixture)."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fusions.errors import OptionError
from fusions.kernels.base import Kernel, check_counts, check_kernels


class SequenceState(NamedTuple):
    """A walk through several kernels: `order` (stages,) lists them, `stage` says where we are, `ended` (c,) which chains end there."""

    params: tuple
    order: Any
    stage: Any
    states: tuple
    ended: Any
    walkers: Any
    key: Any


def sequence(kernels, draw_order):
    """Make one kernel that runs kernels[order[0]], kernels[order[1]], ... each to its end, on all chains together.

    Parameters
    ----------
    kernels : tuple of `Kernel`.
    draw_order : key -> (stages,) indices; must not depend on the chains.
    """

    def dispatch(s, index, function):
        """Apply function(kernel, params, state) -> (state, out) to one kernel of the sequence."""

        def branch(i):
            def run(states):
                state, out = function(kernels[i], s.params[i], states[i])
                return (*states[:i], state, *states[i + 1 :]), out

            return run

        return jax.lax.switch(s.order[index], [branch(i) for i in range(len(kernels))], s.states)

    def init_params(key, population):
        keys = jax.random.split(key, len(kernels))
        return tuple(kernel.init_params(k, population) for kernel, k in zip(kernels, keys, strict=True))

    def tune(key, population, params, infos):
        keys = jax.random.split(key, len(kernels))
        rows = zip(kernels, keys, params, infos, strict=True)
        return tuple(kernel.tune(k, population, p, info) for kernel, k, p, info in rows)

    def init(key, params, walkers):
        k_order, k_later = jax.random.split(key)
        states = tuple(kernel.init(k_later, p, walkers) for kernel, p in zip(kernels, params, strict=True))
        order, ended = draw_order(k_order), jnp.stack([kernel.done(state) for kernel, state in zip(kernels, states, strict=True)])
        return SequenceState(params, order, jnp.int32(0), states, ended[order[0]], walkers, k_later)

    def propose(key, s):
        def one(kernel, params, state):
            del params
            state, x, wanted = kernel.propose(key, state)
            return state, (x, wanted)

        states, (x, wanted) = dispatch(s, s.stage, one)
        return s._replace(states=states), x, wanted

    def accept(s, above):
        def one(kernel, params, state):
            del params
            state, accepted = kernel.accept(state, above)
            return state, (accepted, kernel.done(state), kernel.finish(state)[0])

        states, (accepted, ended, x) = dispatch(s, s.stage, one)
        s = s._replace(states=states, ended=ended, walkers=s.walkers._replace(x=x))
        return jax.lax.cond(jnp.all(ended) & (s.stage < len(s.order) - 1), hand_over, lambda s: s, s), accepted

    def hand_over(s):
        """Start the next kernel from the chains' present points."""
        key = jax.random.fold_in(s.key, s.stage)

        def one(kernel, params, state):
            del state
            state = kernel.init(key, params, s.walkers)
            return state, kernel.done(state)

        states, ended = dispatch(s, s.stage + 1, one)
        return s._replace(states=states, ended=ended, stage=s.stage + 1)

    def done(s):
        return s.ended & (s.stage >= len(s.order) - 1)

    def finish(s):
        return s.walkers.x, tuple(kernel.finish(state)[1] for kernel, state in zip(kernels, s.states, strict=True))

    return Kernel(init_params, tune, init, propose, accept, done, finish)


@dataclasses.dataclass(frozen=True)
class Cycle:
    """Run each kernel once per walk, in order: global moves by the flow, then local ones, say."""

    kernels: tuple

    def __post_init__(self):
        """Accept any sequence of kernels."""
        object.__setattr__(self, "kernels", tuple(self.kernels))
        check_kernels(self.kernels)

    def build(self, space) -> Kernel:
        """Make the kernel's functions for a `Space`."""
        parts = tuple(kernel.build(space) for kernel in self.kernels)
        return sequence(parts, lambda key: jnp.arange(len(parts)))


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Run kernels drawn at random with given probabilities, n_draws of them per walk.

    Attributes
    ----------
    kernels : kernels' settings.
    weights : probabilities, one per kernel.
    n_draws : kernels run per walk.
    """

    kernels: tuple
    weights: tuple
    n_draws: int = 2

    def __post_init__(self):
        """Accept any sequences."""
        object.__setattr__(self, "kernels", tuple(self.kernels))
        object.__setattr__(self, "weights", tuple(self.weights))
        check_kernels(self.kernels)
        check_counts(self, "n_draws")
        if len(self.weights) != len(self.kernels) or not all(weight > 0 for weight in self.weights):
            raise OptionError(f"Expected {len(self.kernels)} weights > 0, one per kernel, got {self.weights!r}. Type weights=(0.5, 0.5).")

    def build(self, space) -> Kernel:
        """Make the kernel's functions for a `Space`."""
        parts = tuple(kernel.build(space) for kernel in self.kernels)
        logits = jnp.log(jnp.array(self.weights))
        return sequence(parts, lambda key: jax.random.categorical(key, logits, shape=(self.n_draws,)))
