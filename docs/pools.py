"""Measure pools: overhead per call, speed-up of a batch and of a whole run. Prints the tables of docs/pools.md.

python docs/pools.py calls | run [n_live]
"""

import concurrent.futures
import contextlib
import multiprocessing
import sys
import time
from pathlib import Path

import jax

import fusions
from fusions import kernels
from fusions import priors as pr
from fusions.model.likelihood import make_evaluator, workers_of

sys.path.append(str(Path(__file__).parents[1] / "tests"))
import pool_models

PRIOR = fusions.Prior(x=pr.uniform(0, 1), y=pr.uniform(0, 1))
LIKELIHOODS = {"nothing": pool_models.quiet, "10 ms of sleep": pool_models.slow, "10 ms of work": pool_models.busy}
N_ROWS = {"nothing": 2000, "10 ms of sleep": 200, "10 ms of work": 200}


@contextlib.contextmanager
def dask(n):
    """Open a Dask cluster on this machine, if Dask is installed."""
    import distributed

    with (
        distributed.LocalCluster(n_workers=n, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


def executor(n):
    """Open the executor of the standard library."""
    return concurrent.futures.ProcessPoolExecutor(n, mp_context=multiprocessing.get_context("spawn"))


POOLS = {
    "none": lambda: contextlib.nullcontext(None),
    "1": lambda: contextlib.nullcontext(1),
    "2": lambda: contextlib.nullcontext(2),
    "4": lambda: contextlib.nullcontext(4),
    "ProcessPoolExecutor(2)": lambda: executor(2),
    "ThreadPoolExecutor(2)": lambda: concurrent.futures.ThreadPoolExecutor(2),
    "Dask, 2 workers": lambda: dask(2),
}


def seconds(problem, pool, n):
    """Time a batch of n rows, the second one."""
    rows = PRIOR.sample(jax.random.key(0), n)
    with workers_of(problem, pool, None):
        evaluator = make_evaluator(problem)
        evaluator.rows(rows)
        start = time.perf_counter()
        evaluator.rows(rows)
        return time.perf_counter() - start


def calls():
    """Print the time per call of one batch."""
    print(f"| pool | {' | '.join(LIKELIHOODS)} |\n|---|{'--:|' * len(LIKELIHOODS)}")
    for name, make in POOLS.items():
        with contextlib.suppress(ImportError), make() as pool:
            cells = []
            for kind, function in LIKELIHOODS.items():
                problem = fusions.Problem(PRIOR, function, traceable=False)
                cells.append(f"{1e3 * seconds(problem, pool, N_ROWS[kind]) / N_ROWS[kind]:.2f} ms")
            print(f"| {name} | {' | '.join(cells)} |", flush=True)


def run(n_live=500):
    """Print the times of a run; one before, which compiles, is not shown."""
    print("| likelihood | pool | run | in batches | idle in batches | calls | ln Z |\n|---|---|--:|--:|--:|--:|--:|")
    for kind in ("10 ms of sleep", "10 ms of work"):
        problem = fusions.Problem(PRIOR, LIKELIHOODS[kind], traceable=False)
        algorithm = fusions.nested(n_live=n_live, kernel=kernels.HitAndRun())
        fusions.run(problem, algorithm, refine=False, progress=False, max_calls=2 * n_live)
        for pool in (None, 2, 4):
            start = time.perf_counter()
            result = fusions.run(problem, algorithm, refine=False, progress=False, pool=pool)
            total, facts = time.perf_counter() - start, result.info.get("pool")
            spent = facts["seconds"] if facts else result.seconds["likelihood"]
            idle = f"{100 - 100 * facts['busy'] / facts['n_workers'] / spent:.0f} %" if facts else ""
            print(f"| {kind} | {pool} | {total:.1f} s | {spent:.1f} s | {idle} | {result.n_calls:,} | {result.logZ:.6f} |", flush=True)


if __name__ == "__main__":
    {"calls": calls, "run": run}[sys.argv[1]](*map(int, sys.argv[2:]))
