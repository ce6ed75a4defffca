"""Kernels: how replacements are made."""

from fusions.kernels.combine import Cycle
from fusions.kernels.flow import FlowKernel
from fusions.kernels.hit_and_run import HitAndRun
from fusions.kernels.jump import Jump
from fusions.kernels.random_walk import RandomWalk

__all__ = ["Cycle", "FlowKernel", "HitAndRun", "Jump", "RandomWalk"]
