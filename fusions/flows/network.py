"""The velocity field's neural network (the only file that knows flax's model API).

It computes in float32: a velocity rounded to seven digits is another one, just as good, of which ODE and density, in the precision of
the run, make what they would of any. The derivative that the density integrates is that of the rounded network.
"""

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
        dtype, t = features.dtype, t.astype(jnp.float32)
        time = jnp.stack([2 * t - 1, jnp.sin(jnp.pi * t), jnp.cos(jnp.pi * t)], axis=-1)
        h = jnp.concatenate([features.astype(jnp.float32), time], axis=-1)
        for _ in range(self.depth):
            h = nn.silu(nn.Dense(self.width)(h))
        return nn.Dense(self.dim, kernel_init=nn.initializers.zeros)(h).astype(dtype)
