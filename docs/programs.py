"""List the programs that XLA compiles for one run, with their size and what compiling them costs. Prints a table of docs/programs.md.

python docs/programs.py [PROBLEM] [--hosted]       (a name of tests/oracles.py, rosenbrock2 by default; --hosted for a black box)

Nothing is taken from a cache. Seconds are those of the processor, summed over threads, so that other jobs on the machine matter little.
"""

import os
import sys
import time
from collections import Counter
from pathlib import Path

os.environ.pop("JAX_COMPILATION_CACHE_DIR", None)
os.environ["FUSIONS_CACHE"] = "off"
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import jax  # noqa: E402
import oracles  # noqa: E402

import fusions  # noqa: E402

jax.config.update("jax_cpu_enable_async_dispatch", val=False)  # nothing else runs while a program is compiled
LOWERED, COMPILED = "/jax/core/compile/jaxpr_to_mlir_module_duration", "/jax/core/compile/backend_compile_duration"
SMALL = 200  # instructions below which programs share a line of the table


class Clock:
    """Processor seconds that programs of each name took to compile, and their number, from the events that JAX reports."""

    def __init__(self):
        """Start to listen."""
        self.seconds, self.times, self.lowered_at = Counter(), Counter(), 0.0
        jax.monitoring.register_event_duration_secs_listener(self._heard)

    def _heard(self, event, duration, *, fun_name="", **more):
        del duration, more
        if event == LOWERED:
            self.lowered_at = time.process_time()
        if event == COMPILED:
            name = fun_name.removeprefix("jit(").removesuffix(")")
            self.seconds[name] += time.process_time() - self.lowered_at
            self.times[name] += 1


def sizes():
    """Count the instructions of the programs of each name, and the fusions into which XLA has put most of them."""
    instructions, fused = Counter(), Counter()
    for executable in jax.devices()[0].client.live_executables():
        for module in executable.hlo_modules():
            text, name = module.to_string(), module.name.removeprefix("jit_")
            instructions[name] += text.count(" = ")
            fused[name] += text.count(" fusion(")
    return instructions, fused


def black_box(problem):
    """Make the same problem with its likelihood on the host."""
    compiled = jax.jit(problem.loglikelihood)
    return fusions.Problem(problem.prior, lambda x: float(compiled(x)), array=problem.array, traceable=False)


def table(clock):
    """Print a line for each large program, the costliest first, one for the small ones, and their sum."""
    instructions, fused = sizes()
    large = sorted((name for name in clock.times if instructions[name] >= SMALL), key=lambda name: -clock.seconds[name])
    small = [name for name in clock.times if instructions[name] < SMALL]
    print("| program | compiled | instructions | fusions | seconds |\n|---|--:|--:|--:|--:|")
    for title, names in [*((f"`{name}`", [name]) for name in large), ("small ones", small), ("all", list(clock.times))]:
        counts = (sum(column[name] for name in names) for column in (clock.times, instructions, fused))
        print(f"| {title} | {' | '.join(f'{n:,}' for n in counts)} | {sum(clock.seconds[name] for name in names):.1f} |")


def main(name="rosenbrock2", *options):
    """Run a problem with default settings and print its table."""
    problem = oracles.ORACLES[name]().problem
    clock, start = Clock(), time.process_time()
    result = fusions.run(black_box(problem) if "--hosted" in options else problem, progress=False)
    print(f"{name}{', black box' * ('--hosted' in options)}, {jax.numpy.zeros(()).dtype}: ", end="")
    print(f"{time.process_time() - start:.0f} s of processor time in all, {result.n_calls:,} likelihood calls\n")
    table(clock)


if __name__ == "__main__":
    main(*sys.argv[1:])
