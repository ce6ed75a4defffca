"""Combine kernels: one after another."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fusions.kernels.base import CycleInfo, Kernel, check_kernels
from fusions.types import Array, Space, Walkers


class SequenceState(NamedTuple):
    """A walk through several kernels.

    Attributes
    ----------
    params, states : of each kernel; those before and after the one at work are as they were left, or began.
    stage : () which kernel is at work.
    ended : (c,) which chains have ended there.
    walkers : Walkers, where the chains are.
    key : random key from which later kernels start.
    """

    params: tuple
    states: tuple
    stage: Array
    ended: Array
    walkers: Walkers
    key: Array


def _dispatch(kernels, s, index, function):
    """Apply function(kernel, params, state) -> (state, out) to the kernel at one place of the sequence.

    Parameters
    ----------
    kernels : tuple of `Kernel`; s : SequenceState; index : () place of the kernel.

    Returns
    -------
    The states of all kernels, out.
    """

    def branch(i):
        def run(states):
            state, out = function(kernels[i], s.params[i], states[i])
            return (*states[:i], state, *states[i + 1 :]), out

        return run

    return jax.lax.switch(index, [branch(i) for i in range(len(kernels))], s.states)


def _handed_over(kernels, s):
    """Start the next kernel from the chains' present points."""
    key = jax.random.fold_in(s.key, s.stage)

    def one(kernel, params, state):
        del state
        state = kernel.init(key, params, s.walkers)
        return state, kernel.done(state)

    states, ended = _dispatch(kernels, s, s.stage + 1, one)
    return s._replace(states=states, ended=ended, stage=s.stage + 1)


def _accepted(kernels, s, above):
    """Let the kernel at work accept; the next one follows when all chains have ended."""

    def one(kernel, params, state):
        del params
        state, accepted = kernel.accept(state, above)
        return state, (accepted, kernel.done(state), kernel.finish(state)[0])

    states, (accepted, ended, x) = _dispatch(kernels, s, s.stage, one)
    s = s._replace(states=states, ended=ended, walkers=s.walkers._replace(x=x))
    more = jnp.all(ended) & (s.stage < len(kernels) - 1)
    return jax.lax.cond(more, lambda s: _handed_over(kernels, s), lambda s: s, s), accepted


def sequence(kernels: tuple[Kernel, ...]) -> Kernel:
    """Make one kernel that runs each of several to its end, on all chains together.

    Parameters
    ----------
    kernels : tuple of `Kernel`.
    """

    def init_params(key, population):
        keys = jax.random.split(key, len(kernels))
        return tuple(kernel.init_params(k, population) for kernel, k in zip(kernels, keys, strict=True))

    def tune(key, population, params, info):
        rows = zip(kernels, jax.random.split(key, len(kernels)), params, info.parts, strict=True)
        return tuple(kernel.tune(k, population, p, part) for kernel, k, p, part in rows)

    def init(key, params, walkers):
        k_init, k_later = jax.random.split(key)
        states = tuple(kernel.init(k_init, p, walkers) for kernel, p in zip(kernels, params, strict=True))
        return SequenceState(params, states, jnp.int32(0), kernels[0].done(states[0]), walkers, k_later)

    def propose(key, s):
        def one(kernel, params, state):
            del params
            state, x, wanted = kernel.propose(key, state)
            return state, (x, wanted)

        states, (x, wanted) = _dispatch(kernels, s, s.stage, one)
        return s._replace(states=states), x, wanted

    def accept(s, above):
        return _accepted(kernels, s, above)

    def done(s):
        return s.ended & (s.stage >= len(kernels) - 1)

    def finish(s):
        return s.walkers.x, CycleInfo(tuple(kernel.finish(state)[1] for kernel, state in zip(kernels, s.states, strict=True)))

    return Kernel(init_params, tune, init, propose, accept, done, finish)


@dataclasses.dataclass(frozen=True)
class Cycle:
    """Run each kernel once per walk, in order: global moves by the flow, then local ones, say."""

    kernels: tuple

    def __post_init__(self):
        """Accept any sequence of kernels."""
        object.__setattr__(self, "kernels", tuple(self.kernels))
        check_kernels(self.kernels)

    def build(self, space: Space) -> Kernel:
        """Make the kernel's functions for a `Space`."""
        return sequence(tuple(kernel.build(space) for kernel in self.kernels))
