"""Where the rows of a batch are computed: on several devices, and not too many at once."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

AXIS = "rows"
EVERYWHERE = PartitionSpec()


@functools.cache
def _quick():
    """Return options with which XLA compiles for CPUs in half the time, to code as fast; None where XLA does not know them."""
    options = {"xla_cpu_use_fusion_emitters": False}
    try:
        jax.jit(lambda: 0, compiler_options=options).lower().compile()
    except jax.errors.JaxRuntimeError:
        return None
    return options


class Layout(NamedTuple):
    """How compiled functions are laid out.

    All devices hold the same arrays and do the same arithmetic, in the same order, so that sums and decisions do not depend on their
    number. Only what is done row by row, and costs something, is shared out: likelihood, ODE and densities.

    Attributes
    ----------
    mesh : one-dimensional `jax.sharding.Mesh` of the devices, or None for the default device.
    max_batch : most rows that a device computes at once, or None.
    """

    mesh: Any = None
    max_batch: int | None = None

    def compiled(self, function: Callable) -> Callable:
        """Return a function under jit, on all devices with the same arguments and results."""
        if self.mesh is None:
            return jax.jit(function, compiler_options=_quick())
        return jax.jit(self._mapped(function), in_shardings=NamedSharding(self.mesh, EVERYWHERE), compiler_options=_quick())

    def placed(self, tree: Any) -> Any:
        """Put a tree of numpy arrays where `compiled` functions leave their results, so that these are not traced again for it."""
        return jax.tree.map(jnp.asarray, tree) if self.mesh is None else self.compiled(lambda tree: tree)(tree)

    def shapes(self, function: Callable, *args: Any) -> Any:
        """Return the shapes of what a function gives that holds rowwise ones."""
        return jax.eval_shape(function if self.mesh is None else self._mapped(function), *args)

    def _mapped(self, function):
        options = {"mesh": self.mesh, "in_specs": EVERYWHERE, "out_specs": EVERYWHERE}
        if hasattr(jax, "shard_map"):
            return jax.shard_map(function, **options, check_vma=False)
        from jax.experimental.shard_map import shard_map  # JAX before 0.6

        return shard_map(function, **options, check_rep=False)

    def rowwise(self, function: Callable, weight: int = 1) -> Callable:
        """Share the rows of a function out; for use inside of a `compiled` one, and not within another rowwise one.

        Parameters
        ----------
        function : of arrays (n, ...) to a tree of arrays (n, ...), each row on its own.
        weight : rows of work that one row makes, such as the d products of an exact divergence.

        Returns
        -------
        The same function; the number of rows need not be a multiple of the number of devices.
        """
        if self.max_batch is not None:
            function = _in_batches(function, max(1, self.max_batch // weight))
        return function if self.mesh is None else _shared_out(function, self.mesh.size)


ALONE = Layout()  # the default device, batches of any size


def _padded(x, n):
    """Repeat the first row of x (m, ...) until there are n."""
    return jnp.concatenate([x, jnp.broadcast_to(x[:1], (n - len(x), *x.shape[1:]))])


def _in_batches(function, size):
    """Compute at most `size` rows at once."""

    def batched(*columns):
        n = len(columns[0])
        if n <= size:
            return function(*columns)
        n_batches = -(-n // size)
        stacks = tuple(_padded(x, n_batches * size).reshape(n_batches, size, *x.shape[1:]) for x in columns)
        out = jax.lax.map(lambda batch: function(*batch), stacks)
        return jax.tree.map(lambda y: y.reshape(n_batches * size, *y.shape[2:])[:n], out)

    return batched


def _shared_out(function, n_devices):
    """Compute a part of the rows on each device and gather them on all."""

    def shared(*columns):
        n = len(columns[0])
        size = -(-n // n_devices)
        first = jax.lax.axis_index(AXIS) * size
        mine = (jax.lax.dynamic_slice_in_dim(_padded(x, size * n_devices), first, size) for x in columns)
        return jax.tree.map(lambda y: jax.lax.all_gather(y, AXIS, tiled=True)[:n], function(*mine))

    return shared
