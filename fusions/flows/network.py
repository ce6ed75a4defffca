"""The velocity field's neural network (the only file that knows flax's model API)."""

import flax.linen as nn
import jax.numpy as jnp


class VelocityField(nn.Module):
    """Multilayer perceptron v(features, t); its last layer starts at zero.

    Attributes
    ----------
    dim : number of outputs d.
    width, depth : units per hidden layer, number of hidden layers.
    """

    dim: int
    width: int
    depth: int

    @nn.compact
    def __call__(self, features, t):
        """Compute the velocity (n, d) at features (n, f) and times t (n,)."""
        dtype = features.dtype
        time = jnp.stack([2 * t - 1, jnp.sin(jnp.pi * t), jnp.cos(jnp.pi * t)], axis=-1)
        h = jnp.concatenate([features, time.astype(dtype)], axis=-1)
        for _ in range(self.depth):
            h = nn.silu(nn.Dense(self.width, param_dtype=dtype)(h))
        return nn.Dense(self.dim, param_dtype=dtype, kernel_init=nn.initializers.zeros)(h)
