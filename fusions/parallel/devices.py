"""The devices of a run, and the processes that they belong to: these decide together, and the first one writes."""

import pickle
from collections.abc import Callable
from numbers import Integral
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from fusions.errors import FusionsError, OptionError
from fusions.parallel.sharding import AXIS, Layout


def choose_layout(problem: Any, devices: Any, max_batch: int | None) -> Layout:
    """Make the `Layout` of a run.

    Parameters
    ----------
    problem : Problem
    devices : number of devices, a sequence or array of them, or None for JAX's default device.
    max_batch : most rows that a device computes at once, or None.

    Raises
    ------
    OptionError
        If the devices don't exist, or belong to some but not all processes.
    """
    if max_batch is not None and (isinstance(max_batch, bool) or not isinstance(max_batch, Integral) or max_batch < 1):
        raise OptionError(f"Expected max_batch to be a positive number of rows or None, got {max_batch!r}. Type max_batch=1024.")
    most = None if max_batch is None else int(max_batch)
    if devices is None:
        return Layout(None, most)
    chosen = _chosen(devices)
    processes = {device.process_index for device in chosen}
    if processes not in ({jax.process_index()}, set(range(jax.process_count()))):
        raise OptionError(
            f"Expected devices of all {jax.process_count()} processes, or of this one alone, got those of {sorted(processes)}. Type "
            "devices=jax.devices(), or devices=jax.local_devices() for a run of its own in each process."
        )
    if len(processes) > 1 and not problem.traceable:
        raise OptionError(
            "Expected a likelihood that JAX traces for devices of several processes, got a black box. Type pool=MPIPoolExecutor() or "
            "pool=client of Dask, and leave devices out."
        )
    return Layout(Mesh(np.array(chosen), (AXIS,)), most)


def _chosen(devices):
    """Return a list of distinct devices of one kind."""
    there = jax.devices()
    if isinstance(devices, Integral) and not isinstance(devices, bool):
        if not 1 <= devices <= len(there):
            raise OptionError(
                f"Expected devices to be between 1 and {len(there)}, the {there[0].platform} devices that JAX has here, got {devices}. "
                "Type devices=jax.devices() for all. To split a CPU, set "
                "XLA_FLAGS=--xla_force_host_platform_device_count=8 before JAX starts."
            )
        return there[:devices]
    chosen = [] if isinstance(devices, (str, bytes)) else list(np.ravel(np.array(devices, dtype=object)))
    if not chosen or not all(isinstance(device, jax.Device) for device in chosen):
        raise OptionError(f"Expected devices to be a number, a list of JAX devices or None, got {devices!r}. Type devices=jax.devices().")
    if len(set(chosen)) < len(chosen) or len({device.platform for device in chosen}) > 1:
        raise OptionError(f"Expected different devices of one kind, got {chosen!r}. Type devices=jax.devices().")
    return chosen


class ProcessGroup:
    """The processes that share a run; each does the same on the host with the same numbers.

    Attributes
    ----------
    size : number of processes.
    is_first : whether this one writes files and shows progress.
    """

    def __init__(self, layout: Layout):
        """Count the processes of a `Layout`."""
        self.size = 1 if layout.mesh is None else len({device.process_index for device in layout.mesh.devices})
        self.is_first = self.size == 1 or jax.process_index() == 0

    def first(self, function: Callable[[], Any]) -> Any:
        """Call a function in the first process; return what it returns, or raise its `FusionsError`, in all of them."""
        if self.size == 1:
            return function()
        value, error = None, None
        if self.is_first:
            try:
                value = function()
            except FusionsError as problem:
                error = problem
        value, error = pickle.loads(self._sent(pickle.dumps((value, error))))
        if error is not None:
            raise error
        return value

    def _sent(self, data):
        """Send bytes of the first process to all."""
        from jax.experimental.multihost_utils import broadcast_one_to_all

        length = int(broadcast_one_to_all(np.int32(len(data))))
        data = np.frombuffer(data, np.uint8) if self.is_first else np.zeros(length, np.uint8)
        return np.asarray(broadcast_one_to_all(data), np.uint8).tobytes()  # wider before jax 0.6.2

    def highest(self, value: int) -> int:
        """Return the highest of the processes' small integers."""
        if self.size == 1:
            return value
        from jax.experimental.multihost_utils import process_allgather

        return int(np.max(process_allgather(np.int32(value))))
