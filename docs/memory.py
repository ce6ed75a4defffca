"""Measure the peak memory of a run with many dead points. Prints the table of docs/scale.md.

python docs/memory.py [n_dead] [dim]       (1,000,000 dead points in 50 dimensions by default; needs a Unix)
"""

import resource
import sys
import tempfile
import time
from pathlib import Path

import fusions
from fusions import kernels
from fusions import priors as pr

N_LIVE, KILL = 20_000, 0.5
START = time.perf_counter()


def peak():
    """Return the most memory that this process has had [MB]; on Linux without that of the process which started it."""
    status = Path("/proc/self/status")
    if status.exists():
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM")) * 1024 / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def report(stage):
    """Print the time and the peak so far."""
    print(f"| {stage} | {time.perf_counter() - START:.0f} s | {peak():,.0f} MB |", flush=True)


def make_problem(dim):
    """Make a normal likelihood of width 0.1 under standard normal priors."""
    prior = fusions.Prior(**{f"x{i}": pr.normal(0, 1) for i in range(dim)})
    return fusions.Problem(prior, lambda x: -50 * (x**2).sum(), array=True)


def main(n_dead=1_000_000, dim=50):
    """Run until there are n_dead points, then use and save the result."""
    algorithm = fusions.nested(n_live=N_LIVE, kernel=kernels.HitAndRun(), kill=KILL, cost="expensive")
    levels = -(-n_dead // int(KILL * N_LIVE))
    print("| after | time | peak so far |\n|---|--:|--:|")
    report("import")

    def last(snapshot):
        if snapshot.iteration in (1, levels // 4, levels // 2, levels):
            report(f"{snapshot.iteration} levels")
        return snapshot.iteration >= levels

    with tempfile.TemporaryDirectory() as folder:
        result = fusions.run(make_problem(dim), algorithm, refine=False, progress=False, callback=last, checkpoint=folder)
        report(f"the run, its result with {len(result.logL):,} points saved")
        text = f"{result}"
        result.moments()
        report(f"evidence, checks and summary ({len(text)} characters)")
        del result
        result = fusions.Result.load(folder)
        report("loading it again")
        result.write_polychord(Path(folder) / "chains")
        report("PolyChord's files")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
