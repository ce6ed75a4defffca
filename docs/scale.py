"""Measure what a level costs against live points, dimensions and devices. Prints the tables of docs/scale.md.

python docs/scale.py points | dimensions | devices     (the last one splits the CPU into eight devices)

Times are those of the processor, summed over threads, so that other jobs on the machine matter little.
"""

import os
import sys
import time
from collections import Counter

if sys.argv[1:] == ["devices"]:
    os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8 " + os.environ.get("XLA_FLAGS", "")

import jax
import numpy as np

import fusions
from fusions import kernels
from fusions import priors as pr
from fusions.algorithms.nested import level as nested
from fusions.algorithms.nested.initial import begin
from fusions.algorithms.nested.schedule import schedule_for
from fusions.driver.compiled import make_engine
from fusions.driver.run import default_kernel
from fusions.evidence.ledger import Ledger
from fusions.parallel.devices import choose_layout
from fusions.types import Budget

WARM, LEVELS = 2, 4
KERNELS = {"default": default_kernel(), "slices": kernels.HitAndRun()}


def level_cost(n_live, dim, kernel, devices=None):
    """Return processor seconds per level in "training", "walks" and "host", and likelihood calls per level."""
    prior = fusions.Prior(**{f"x{i}": pr.normal(0, 1) for i in range(dim)})
    problem = fusions.Problem(prior, lambda x: -50 * (x**2).sum(), array=True)
    settings = fusions.nested(n_live=n_live, kernel=KERNELS[kernel], cost="expensive")
    schedule = schedule_for(settings, problem, refine=False)
    budget, spent = Budget(), Counter()
    engine = make_engine(problem, settings, choose_layout(problem, devices, None)).charging(budget)

    def timed(name, function):
        def run(*args):
            start = time.process_time()
            out = jax.block_until_ready(function(*args))
            spent[name] += time.process_time() - start
            return out

        return run

    state, _, _ = begin(jax.random.key(0), problem, settings, schedule, engine, Ledger())
    rng = np.random.default_rng(0)
    tune, walk = timed("training", engine.tune), timed("walks", engine.walk)
    for i in range(WARM + LEVELS):
        if i == WARM:
            spent.clear()
            before = budget.used
            start = time.process_time()
        state, _ = nested.step(jax.random.key(i), rng, state, settings, schedule, tune, walk)
    spent["host"] = time.process_time() - start - spent["training"] - spent["walks"]
    return {name: spent[name] / LEVELS for name in ("training", "walks", "host")}, (budget.used - before) / LEVELS


def table(cases):
    """Print the cost of each (n_live, dim, kernel, devices)."""
    print("| n_live | D | devices | kernel | training | walks | host | calls |\n|--:|--:|--:|---|--:|--:|--:|--:|")
    for n_live, dim, kernel, devices in cases:
        seconds, calls = level_cost(n_live, dim, kernel, devices)
        cells = " | ".join(f"{1e3 * s:,.0f} ms" for s in seconds.values())
        print(f"| {n_live} | {dim} | {devices or 1} | {kernel} | {cells} | {calls:.0f} |", flush=True)


CASES = {
    "points": [(n, 10, "default", None) for n in (250, 1000, 4000)] + [(n, 10, "slices", None) for n in (1000, 4000, 16000)],
    "dimensions": [(1000, dim, kernel, None) for kernel in KERNELS for dim in (2, 50)],
    "devices": [(1000, 10, kernel, 8) for kernel in KERNELS],
}

if __name__ == "__main__":
    table(CASES[sys.argv[1]])
