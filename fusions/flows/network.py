"""The velocity field's neural network (the only file that knows flax's model API).

It computes in float32: a velocity rounded to seven digits is another one, just as good, of which ODE and density, in the precision of
the run, make what they would of any. The derivative that the density integrates is that of the rounded network.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from fusions.numerics import normal_from, uniforms
from fusions.types import Array

PRECISION = "float32"  # a learned field needs no more, whatever the precision of the points


class VelocityField(nn.Module):
    """Multilayer perceptron v(features, t); it computes in the precision of its parameters.

    Attributes
    ----------
    dim : number of outputs d.
    width, depth : units per hidden layer, number of hidden layers.
    dtype : of the arithmetic.
    """

    dim: int
    width: int
    depth: int
    dtype: Any

    @nn.compact
    def __call__(self, features: Array, t: Array) -> Array:
        """Compute the velocity (n, d) at features (n, f) and times t (n,)."""
        time = jnp.stack([2 * t - 1, jnp.sin(jnp.pi * t), jnp.cos(jnp.pi * t)], axis=-1)
        h = jnp.concatenate([features, time], axis=-1)
        for _ in range(self.depth):
            h = nn.silu(nn.Dense(self.width, dtype=self.dtype)(h))
        return nn.Dense(self.dim, dtype=self.dtype, name="last")(h).astype(features.dtype)


class Network(NamedTuple):
    """A network whose parameters (p,) are one row: XLA would compile what an optimiser does to each of many arrays on its own.

    Attributes
    ----------
    init : key -> params; the first layers are normal with variance 1 / inputs, the last one is zero.
    apply : (params, features (n, f), t (n,)) -> (n, d).
    """

    init: Callable
    apply: Callable


def make_network(n_features: int, dim: int, width: int, depth: int) -> Network:
    """Make the `Network` of a `VelocityField`.

    Parameters
    ----------
    n_features : number of inputs f beside the time.
    dim : number of outputs d.
    width, depth : units per hidden layer, number of hidden layers.
    """

    def net(dtype):
        return VelocityField(dim, width, depth, dtype)

    like = jax.eval_shape(lambda: net(PRECISION).init(jax.random.key(0), jnp.zeros((1, n_features)), jnp.zeros(1)))
    leaves, tree = jax.tree.flatten_with_path(like)
    ends = np.cumsum([leaf.size for _, leaf in leaves])

    def first_scale(path, leaf):
        names = {entry.key for entry in path}
        return np.full(leaf.size, leaf.shape[0] ** -0.5 if "kernel" in names and "last" not in names else 0.0, PRECISION)

    scales = np.concatenate([first_scale(*pair) for pair in leaves])

    def init(key):
        return scales * normal_from(*uniforms(key, PRECISION, (2, ends[-1])))

    def apply(params, features, t):
        parts = [part.reshape(leaf.shape) for part, (_, leaf) in zip(jnp.split(params, ends[:-1]), leaves, strict=True)]
        return net(params.dtype).apply(jax.tree.unflatten(tree, parts), features, t)

    return Network(init, apply)
