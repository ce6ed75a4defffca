"""Kill runs with SIGKILL at random times until they have ended, and compare them with the run that nobody disturbed.

``python tests/kill_loop.py 200`` kills 200 times, over all cases in turn; a case that has ended begins again. A child is a fork of this
process, which has imported JAX but not used it, so that a start is cheap. After each kill the folder must be readable without a damaged
state and no level may be lost that was saved before; each ended run must equal the undisturbed one bit for bit, and the run with a pool the
one that called its likelihood without; nothing that a child started may outlive it. Exit code 1 if not.
"""

import argparse
import hashlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pool_models

import fusions
import fusions.driver.run  # the fork has it then
import fusions.io.checkpoint
from fusions import kernels
from fusions import priors as pr

LINGER = 10.0  # seconds in which workers notice that their parent is gone


def flow():
    """Make a small cycle of a flow and slices."""
    from fusions.flows.cnf import CNF

    return kernels.Cycle((kernels.FlowKernel(n_moves=1, flow=CNF(width=8, depth=1, ode_steps=1)), kernels.HitAndRun()))


class Setting(NamedTuple):
    """What a case runs, and with how many workers."""

    loglikelihood: Callable
    algorithm: Any
    refine: Any = False
    pool: int | None = None


SLICES = fusions.nested(n_live=100, kernel=kernels.HitAndRun())
CASES = {
    "traced": lambda: Setting(pool_models.narrow, SLICES),
    "black box": lambda: Setting(pool_models.brief, SLICES),
    "pooled": lambda: Setting(pool_models.brief, SLICES, pool=2),
    "flow": lambda: Setting(pool_models.narrow, fusions.nested(n_live=60, kernel=flow(), cost="expensive")),
    "refined": lambda: Setting(
        pool_models.brief, fusions.nested(n_live=50, kernel=kernels.HitAndRun()), fusions.Refine(max_rounds=1, error=0.1)
    ),
}


def digest(result):
    """Hash what must be equal; seconds need not."""
    arrays = [result.theta, result.logL, result.logL_birth, result.insertion_uniforms, result.draws, result.draws_logw]
    arrays += [result.level_trace[name] for name in sorted(result.level_trace)]
    words = [result.n_calls, float(result.logZ), float(result.logZ_err), result.status.name]
    return hashlib.sha256(b"".join(a.tobytes() for a in arrays) + repr(words).encode()).hexdigest()


def run(case, directory, pool):
    """Run a case to its end and write its digest."""
    warnings.simplefilter("ignore")
    setting = CASES[case]()
    prior = fusions.Prior(x=pr.uniform(0, 1), y=pr.uniform(0, 1))
    problem = fusions.Problem(prior, setting.loglikelihood, traceable=setting.loglikelihood is pool_models.narrow)
    options = {"refine": setting.refine, "pool": setting.pool if pool else None, "checkpoint": directory, "checkpoint_every": 0}
    result = fusions.run(problem, setting.algorithm, key=5, progress=False, **options)
    (directory / "digest.json").write_text(json.dumps({"digest": digest(result), "logZ": result.logZ, "calls": result.n_calls}))


def start(case, directory, *, pool=True):
    """Fork a child that runs a case, with its pool or without, in a process group of its own; return its process number."""
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.setpgid(0, 0)
            run(case, directory, pool)
            code = 0
        finally:
            os._exit(code)
    return pid


def wait(pid, seconds):
    """Wait for a child and return its exit code, or kill it after so many seconds and return None."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert is_alone(pid), f"what process {pid} started is still there {LINGER:g} s after it was killed"
    return None


def is_alone(group):
    """Wait for the end of all processes of a group; return whether it came in time."""
    end = time.monotonic() + LINGER
    while time.monotonic() < end:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.01)
    return False


def progress(directory):
    """Return how far a folder is: levels done and records appended, nothing damaged; (-1, 0) before the first save."""
    saved = fusions.io.checkpoint.read(directory)
    if saved is None:
        return -1, 0
    assert not saved.damaged, saved.damaged
    return saved.meta["iteration"], len(saved.records)


class Case:
    """One case on its way: its undisturbed end, the time that took, kills and ended runs so far."""

    def __init__(self, name, parent):
        """Run it undisturbed without and with its pool: the second time with compiled functions from the cache."""
        self.name, self.directory = name, parent / "killed"
        self.kills = self.ended = self.early = self.most = self.since = 0
        found = []
        for pool in (False, True):
            clock, whole = time.monotonic(), parent / f"whole-{pool}"
            assert wait(start(name, whole, pool=pool), 600) == 0, f"{name}: the undisturbed run failed"
            self.seconds = time.monotonic() - clock
            found.append(json.loads((whole / "digest.json").read_text()))
        self.took, self.reference = self.seconds, found[0]
        assert found[1] == found[0], f"{name}: two undisturbed runs differ"

    def disturb(self, rng):
        """Start or resume the run and kill it at a random time, which is mostly shorter than it takes."""
        before = progress(self.directory) if self.directory.exists() else (-1, 0)
        code = wait(start(self.name, self.directory), rng.uniform(0, 0.7 * self.seconds))
        after = progress(self.directory) if self.directory.exists() else (-1, 0)
        assert after >= before, f"{self.name}: {before} before the kill, {after} after it"
        if code is None:
            self.kills, self.since, self.early = self.kills + 1, self.since + 1, self.early + (after[0] < 0)
            return
        assert code == 0, f"{self.name}: a resumed run failed"
        found = json.loads((self.directory / "digest.json").read_text())
        assert found == self.reference, f"{self.name}: {found} is not {self.reference}"
        self.ended, self.most, self.since = self.ended + 1, max(self.most, self.since), 0
        shutil.rmtree(self.directory)

    def finish(self):
        """Let the last run go to its end undisturbed."""
        self.seconds = 1e4
        while self.since:
            self.disturb(np.random.default_rng(1))


def main():
    """Kill, compare, print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kills", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        jax.config.update("jax_compilation_cache_dir", str(Path(folder) / "cache"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        cases = [Case(name, Path(folder) / name.replace(" ", "-")) for name in args.cases]
        while (n := sum(case.kills for case in cases)) < args.kills:
            cases[n % len(cases)].disturb(rng)
        for case in cases:
            case.finish()
    print("| run | undisturbed | kills | of these before the first save | runs ended, all equal | most kills in one run |")
    print("|---|--:|--:|--:|--:|--:|")
    for c in cases:
        print(f"| {c.name} | {c.took:.1f} s | {c.kills} | {c.early} | {c.ended} | {c.most} |")


if __name__ == "__main__":
    main()
