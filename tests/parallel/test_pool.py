"""pool=: the same samples whoever calls the likelihood; workers that die, hang or raise; nothing left behind."""

import concurrent.futures
import contextlib
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from unittest import mock

import jax
import numpy as np
import pool_models
import pytest

import fusions
from fusions import kernels
from fusions import priors as pr
from fusions.driver.compiled import make_functions
from fusions.errors import LikelihoodError, OptionError, Status
from fusions.model.likelihood import make_evaluator, workers_of
from fusions.parallel import workers

ROOT = Path(__file__).parents[2]
SLICE = fusions.nested(n_live=40, kernel=kernels.HitAndRun(), kill=0.5, precision=0.01, cost="cheap")
SQUARE = fusions.Prior(x=pr.uniform(0, 1), y=pr.uniform(0, 1))
SWITCH = pool_models.Switch(pool_models.quiet)
BOX = fusions.Problem(SQUARE, SWITCH, traceable=False)
ROWS = SQUARE.sample(jax.random.key(0), 60)
MPIEXEC = next(filter(None, (shutil.which("mpiexec", path=path) for path in (str(Path(sys.executable).parent), None))), None)
SPAWN = multiprocessing.get_context("spawn")


def run(**options):
    return fusions.run(BOX, SLICE, **{"key": 0, "progress": False, "refine": False, **options})


@pytest.fixture
def switch():
    """Give BOX another likelihood for one test."""

    def to(function):
        SWITCH.function = function

    yield to
    SWITCH.function = pool_models.quiet


@pytest.fixture(scope="module")
def alone():
    """Return the run without a pool."""
    return run()


@pytest.fixture(autouse=True)
def nothing_left():
    """Look for processes that a test left behind."""
    yield
    assert multiprocessing.active_children() == []


def evaluate(problem=BOX, pool=2, timeout=None, rows=ROWS):
    """Return log L, blobs and the pool's report for some rows."""
    with workers_of(problem, pool, timeout) as facts:
        logL, blobs = make_evaluator(problem).rows(rows)
        return logL, blobs, facts()[0]["pool"]


EXPECTED = make_evaluator(BOX).rows(ROWS)[0]


class OnlyMap:
    """The least of a pool."""

    def map(self, function, arguments):
        return map(function, arguments)


# The same answer ------------------------------------------------------------------------------------------------


def assert_same(a, b):
    for name in ("theta", "logL", "logL_birth", "insertion_uniforms"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    assert (a.logZ, a.n_calls, a.status) == (b.logZ, b.n_calls, b.status)


@pytest.mark.parametrize("n_workers", [1, 2, 4])
def test_processes_give_identical_samples(n_workers, alone):
    result = run(pool=n_workers)
    assert_same(result, alone)
    pool = result.info["pool"]
    assert pool["kind"] == "processes"
    assert (pool["n_workers"], pool["n_calls"]) == (n_workers, result.n_calls)
    assert f"{n_workers} workers (processes)" in str(result)
    assert "workers" not in str(alone)


POOLS = {
    "threads": lambda: concurrent.futures.ThreadPoolExecutor(2),
    "executor": lambda: concurrent.futures.ProcessPoolExecutor(2, mp_context=SPAWN),
    "multiprocessing": lambda: SPAWN.Pool(2),
}


@pytest.mark.parametrize("name", POOLS)
def test_pools_of_the_user_give_identical_samples_and_stay_open(name, alone):
    with POOLS[name]() as pool:
        assert_same(run(pool=pool), alone)
        assert list(pool.map(abs, [-1, 2])) == [1, 2]


def test_any_object_with_map_gives_identical_samples(alone):
    assert_same(run(pool=OnlyMap()), alone)


def test_dask_cluster_gives_identical_samples(alone):
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        result = run(pool=client)
        assert client.submit(abs, -1).result() == 1
    assert_same(result, alone)
    assert result.info["pool"]["n_workers"] == 2


MPI_SCRIPT = """
import sys
from mpi4py.futures import MPIPoolExecutor
import test_pool

if __name__ == "__main__":
    with MPIPoolExecutor() as pool:
        result = test_pool.run(pool=pool)
    result.save(sys.argv[1])
"""


@pytest.mark.skipif(not MPIEXEC, reason="needs mpiexec")
def test_two_ranks_of_mpi_give_identical_samples(alone, tmp_path):
    pytest.importorskip("mpi4py")
    (tmp_path / "script.py").write_text(MPI_SCRIPT)
    root = {f"{name}_ALLOW_RUN_AS_ROOT{end}": "1" for name in ("OMPI", "PRTE") for end in ("", "_CONFIRM")}
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [MPIEXEC, "-n", "2", sys.executable, "-m", "mpi4py.futures", str(tmp_path / "script.py"), str(tmp_path / "run")],
        env={**os.environ, **root, "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe", "PYTHONPATH": paths},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = fusions.Result.load(tmp_path / "run")
    assert_same(result, alone)
    assert (result.info["pool"]["kind"], result.info["pool"]["n_workers"]) == ("MPIPoolExecutor", 1)


def test_a_run_takes_no_pool_of_another(alone, switch):
    """A likelihood that runs another problem in the same process uses its own."""
    with workers_of(fusions.Problem(SQUARE, pool_models.nan, traceable=False), 1, None):
        assert_same(run(), alone)


def test_refine_phase_uses_the_pool():
    functions, _ = make_functions(BOX, fusions.Refine())
    with workers_of(BOX, 2, None) as facts:
        y = functions.space.enter(np.asarray(ROWS))
        logL, *_ = functions.target(y)
        assert facts()[0]["pool"]["n_calls"] == len(ROWS)
    np.testing.assert_array_equal(logL, make_evaluator(BOX).rows(functions.space.leave(y))[0])


def test_blobs_and_arrays():
    problem = fusions.Problem(SQUARE, pool_models.with_blobs, blobs=["sum", "pid"], traceable=False)
    logL, blobs, _ = evaluate(problem)
    np.testing.assert_array_equal(logL, EXPECTED)
    np.testing.assert_allclose(blobs[:, 0], SQUARE.theta_rows(ROWS).sum(axis=1))
    assert len(set(blobs[:, 1])) == 2
    assert os.getpid() not in blobs[:, 1]
    array = fusions.Problem(SQUARE, pool_models.of_array, array=True, traceable=False)
    for pool in (2, OnlyMap()):
        np.testing.assert_array_equal(evaluate(array, pool)[0], EXPECTED)


@pytest.mark.parametrize("pool", [None, 2, concurrent.futures.ThreadPoolExecutor])
def test_jax_in_a_black_box_has_double_precision_wherever_it_is_called(pool):
    """The process of the run, a worker and a thread compute in float64; the flag of this thread stays."""
    problem, flag = fusions.Problem(SQUARE, pool_models.of_jax, traceable=False), jax.config.jax_enable_x64
    with contextlib.ExitStack() as stack:
        workers = stack.enter_context(pool(2)) if isinstance(pool, type) else pool
        result = fusions.run(problem, SLICE, pool=workers, refine=False, max_calls=40, progress=False)
    assert jax.config.jax_enable_x64 is flag
    expected = [pool_models.quiet({"x": x, "y": y}) for x, y in result.theta]
    np.testing.assert_allclose(result.logL, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("pool", "size"), [(2, 30), (4, 15)])
def test_vectorized_likelihood_is_split_among_the_workers(pool, size):
    problem = fusions.Problem(SQUARE, pool_models.of_batch, blobs=["size"], vectorized=True)
    logL, blobs, report = evaluate(problem, pool)
    np.testing.assert_array_equal(logL, EXPECTED)
    assert set(blobs[:, 0]) == {size}
    assert report["n_calls"] == len(ROWS)


def test_workers_load_no_jax(switch):
    switch(pool_models.jax_loaded)
    assert set(evaluate()[0]) == {0.0}


def test_likelihood_is_loaded_once_per_worker(tmp_path, switch):
    switch(pool_models.Heavy(tmp_path))
    for pool in (2, concurrent.futures.ProcessPoolExecutor(2, mp_context=SPAWN)):
        np.testing.assert_array_equal(evaluate(pool=pool)[0], EXPECTED)
        assert 1 <= len(list(tmp_path.iterdir())) <= 2
        for path in tmp_path.iterdir():
            path.unlink()
    pool.shutdown()


def test_workers_work_side_by_side(switch):
    """Calls that sleep need no cores of their own."""
    switch(pool_models.slow)
    report = evaluate(pool=4)[2]
    assert report["busy"] > 0.59
    assert report["seconds"] < 0.5 * report["busy"]


# Faults that are mended ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("action", "kind"), [("leave", "died"), ("kill", "died"), ("hang", "timeout"), ("fail", "raised")])
def test_a_fault_that_happens_once_changes_nothing(action, kind, tmp_path, switch, alone):
    switch(pool_models.Fault(action, tmp_path))
    result = run(pool=2, timeout=1)
    assert_same(result, alone)
    assert {name: result.info["pool"][name] for name in ("died", "timeout", "raised")} == {"died": 0, "timeout": 0, "raised": 0, kind: 1}
    assert "The calls were repeated." in str(result)


def test_worker_killed_before_it_is_ready(switch):
    """So may an operating system that is short of memory do; but not for ever."""
    switch(pool_models.slow)
    with workers_of(BOX, 2, None) as facts:
        for _ in range(2):
            with kill_new_workers(1):
                np.testing.assert_array_equal(make_evaluator(BOX).rows(ROWS)[0], EXPECTED)
        assert facts()[0]["pool"]["died"] == 4
        with (
            kill_new_workers(99),
            pytest.raises(LikelihoodError, match=r"pool failed \(workers end before they are ready \(exit code -9\)"),
        ):
            make_evaluator(BOX).rows(ROWS)


@contextlib.contextmanager
def kill_new_workers(n):
    """Kill one worker that is there, and n of those that are started in its place."""
    start, killed = workers._Worker.__init__, []

    def start_and_kill(worker, *args):
        start(worker, *args)
        if len(killed) < n:
            killed.append(worker.process.kill())

    with mock.patch.object(workers._Worker, "__init__", start_and_kill):
        multiprocessing.active_children()[0].kill()
        yield


def test_worker_killed_from_outside(switch):
    switch(pool_models.slow)
    with workers_of(BOX, 2, None) as facts:
        victim = multiprocessing.active_children()[0]
        with concurrent.futures.ThreadPoolExecutor(1) as killer:
            killer.submit(lambda: (time.sleep(0.1), os.kill(victim.pid, signal.SIGKILL)))
            logL, _ = make_evaluator(BOX).rows(ROWS)
        np.testing.assert_array_equal(logL, EXPECTED)
        np.testing.assert_array_equal(make_evaluator(BOX).rows(ROWS)[0], EXPECTED)
        assert facts()[0]["pool"]["died"] == 1


@pytest.mark.parametrize("name", ["processes", "threads", "map"])
def test_rare_errors_are_repeated(name, switch, alone, tmp_path):
    switch(pool_models.Flaky(300, tmp_path))
    pool = {"processes": 2, "threads": concurrent.futures.ThreadPoolExecutor(1), "map": OnlyMap()}[name]
    result = run(pool=pool)
    assert_same(result, alone)
    assert result.info["pool"]["raised"] >= 4


@pytest.mark.parametrize("signal_name", ["SIGINT", "SIGTERM", "SIGUSR1"])
def test_signals_to_the_whole_group_do_not_end_workers(signal_name, switch):
    switch(pool_models.slow)
    with workers_of(BOX, 2, None) as facts:
        for worker in multiprocessing.active_children():
            os.kill(worker.pid, getattr(signal, signal_name))
        np.testing.assert_array_equal(make_evaluator(BOX).rows(ROWS)[0], EXPECTED)
        assert facts()[0]["pool"]["died"] == 0


# Faults that end a run ------------------------------------------------------------------------------------------------


def always(function_or_action):
    return pool_models.Fault(function_or_action) if isinstance(function_or_action, str) else function_or_action


ENDS = {
    "leave": (always("leave"), r"ended its worker process \(exit code 3\) at x=0.5\d*, y=.*, 3 times.*too little memory"),
    "kill": (always("kill"), r"ended its worker process \(exit code -9\) at x=0.5\d*, y="),
    "hang": (always("hang"), r"longer than timeout = 0.5 s at x=0.5\d*, y=.*Raise timeout="),
    "fail": (always("fail"), r"raised OSError: file server is away at x=0.5\d*, y=.*again when it was repeated. Return -inf"),
    "exit": (pool_models.leave, r"raised SystemExit: good bye at x=.*, y="),
    "unpicklable": (pool_models.unpicklable, r"raised \w+: Can't pickle local object.* at x=.*, y="),
    "wrong shape": (pool_models.wrong_shape, r"Likelihood at x=.*, y=.*expected log L alone"),
    "nan": (pool_models.nan, "log-likelihood is nan at x=.*, y="),
}


@pytest.mark.parametrize("name", ENDS)
def test_a_fault_that_stays_is_located(name, switch):
    function, message = ENDS[name]
    switch(function)
    with pytest.raises(LikelihoodError, match=message):
        run(pool=2, timeout=0.5)


def test_the_first_failing_row_is_named_whoever_is_faster(switch):
    switch(pool_models.Fault("fail"))
    first = SQUARE.theta_rows(ROWS)[:, 0]
    first = first[(first > 0.5) & (first < 0.6)][0]
    for pool in (1, 4, OnlyMap()):
        with pytest.raises(LikelihoodError, match=f"at x={first:.10g}, y="):
            evaluate(pool=pool)


class Later:
    """Behave for some calls of the process, then fail at each."""

    def __init__(self, n):
        self.n, self.fails = n, pool_models.Fault("fail")

    def __call__(self, p):
        self.n -= 1
        return pool_models.quiet(p) if self.n > 0 else self.fails.fail()


def test_what_was_computed_before_is_kept(switch):
    switch(Later(300))
    with pytest.raises(LikelihoodError, match="raised OSError") as caught:
        run(pool=2)
    result = caught.value.result
    assert result.status is Status.FAILED
    assert np.isfinite(result.logZ)
    assert len(result.logL) > SLICE.n_live
    assert result.info["pool"]["n_calls"] >= 300


def test_the_workers_traceback_is_shown(switch):
    switch(pool_models.no_solution)
    with pytest.raises(LikelihoodError) as caught:
        evaluate()
    assert 'raise RuntimeError("no solution")' in str(caught.value.__cause__)


def test_a_name_that_is_not_in_the_prior_is_said_to_be_missing(switch):
    switch(lambda p: p["z"])
    with concurrent.futures.ThreadPoolExecutor(1) as pool, pytest.raises(LikelihoodError, match=r"KeyError: 'z' at x=.*not in the prior"):
        evaluate(pool=pool)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # of the executor, whose workers are killed
def test_hanging_call_in_an_executor_ends_the_run(switch):
    switch(pool_models.Fault("hang"))
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=SPAWN) as pool:
        with pytest.raises(LikelihoodError, match=r"longer than timeout = 5 s at x=0.5\d*, y="):
            evaluate(pool=pool, timeout=5)
        workers = multiprocessing.active_children()
        for worker in workers:
            worker.kill()
        for worker in workers:
            worker.join()


def test_executor_whose_worker_dies(switch):
    """An executor does not tell which of its calls ended a worker: the error lists the earliest ones without an answer."""
    switch(pool_models.Fault("leave"))
    with (
        concurrent.futures.ProcessPoolExecutor(2, mp_context=SPAWN) as pool,
        pytest.raises(
            LikelihoodError,
            match=r"pool failed \(BrokenProcessPool: .* with the likelihood at x=0\.\d+, y=.*pool=4 makes one that replaces",
        ),
    ):
        evaluate(pool=pool)


# Arguments -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pool": 0}, "positive number of processes, got 0. Type pool="),
        ({"pool": True}, "positive number of processes, got True"),
        ({"pool": 2.5}, "number of processes, a concurrent.futures.Executor, a Dask client or an object with map, got 2.5"),
        ({"pool": "4"}, "got '4'. Type pool=4"),
        ({"pool": concurrent.futures.ThreadPoolExecutor}, "got <class"),
        ({"timeout": 3}, "timeout together with pool="),
        ({"pool": 2, "timeout": 0}, "timeout > 0"),
        ({"pool": 2, "timeout": True}, "timeout > 0"),
        ({"pool": OnlyMap(), "timeout": 3}, "has only map"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(OptionError, match=message):
        run(**options)


def test_closed_executor_is_noticed_before_anything_is_computed():
    pool = concurrent.futures.ThreadPoolExecutor(1)
    pool.shutdown()
    with pytest.raises(OptionError, match=r"can't run a task \(RuntimeError: cannot schedule.*Expected an open executor"):
        run(pool=pool)


@pytest.mark.parametrize("pool", ["processes", "executor"])
def test_likelihood_that_cannot_be_sent(pool, switch, monkeypatch):
    monkeypatch.setitem(sys.modules, "cloudpickle", None)
    switch(lambda p: 0.0)
    with contextlib.ExitStack() as stack:
        pool = 2 if pool == "processes" else stack.enter_context(POOLS["executor"]())
        with pytest.raises(OptionError, match=r"can't be sent to the workers.*lambda.*top level of a .py file.*or install cloudpickle"):
            run(pool=pool)


def test_lambda_with_cloudpickle(switch):
    pytest.importorskip("cloudpickle")
    quiet = pool_models.quiet
    switch(lambda p: quiet(p))
    np.testing.assert_array_equal(evaluate()[0], EXPECTED)


def test_traced_likelihood_needs_no_pool():
    problem = fusions.Problem(SQUARE, pool_models.quiet)
    with pytest.warns(UserWarning, match=r"pool= was not used: JAX compiles.*traceable=False"):
        result = fusions.run(problem, SLICE, progress=False, refine=False, pool=2, max_calls=40)
    assert "pool= was not used" in str(result)
    assert "pool" not in result.info


# Scripts and processes ------------------------------------------------------------------------------------------------

SCRIPT = """
import numpy as np
from fusions.parallel.pool import open_pool
from fusions.parallel.tasks import Task

def loglikelihood(p):
    return -p["x"] ** 2

def main():
    pool = open_pool(Task(loglikelihood, ("x",)), 2)
    print(pool.map(np.array([[0.5], [1.0]]), 2))
    pool.close()

"""
GUARDED = SCRIPT + 'if __name__ == "__main__":\n    main()\n'
WITHOUT = "import sys\nsys.modules['cloudpickle'] = None\n"


def python(*arguments, **options):
    return subprocess.run(
        [sys.executable, *map(str, arguments)], capture_output=True, text=True, cwd=ROOT, timeout=120, check=False, **options
    )


def test_script_with_and_without_guard(tmp_path):
    path = tmp_path / "script.py"
    path.write_text(WITHOUT + GUARDED)
    done = python(path)
    assert done.stdout.startswith("[-0.25, -1.0]"), done.stderr
    path.write_text(WITHOUT + SCRIPT + "main()\n")
    done = python(path)
    assert done.returncode == 1
    assert 'end before they are ready (exit code 1). Put what starts the run under `if __name__ == "__main__":`' in done.stderr


def test_likelihood_typed_at_a_prompt():
    done = python("-c", WITHOUT + GUARDED)
    assert "can't be loaded by the workers of the pool (AttributeError" in done.stderr
    assert "install cloudpickle" in done.stderr


def test_likelihood_typed_at_a_prompt_with_cloudpickle():
    pytest.importorskip("cloudpickle")
    assert python("-c", GUARDED).stdout.startswith("[-0.25, -1.0]")


def test_script_is_not_imported_again_for_a_likelihood_in_a_module(tmp_path):
    path = tmp_path / "script.py"
    module = tmp_path / "their_model.py"
    module.write_text("def loglikelihood(p):\n    return -p['x'] ** 2\n")
    path.write_text(
        "from their_model import loglikelihood\n"
        + SCRIPT.replace("def loglikelihood(p):\n    return -p", "def unused(p):\n    return p")
        + "main()\n"
    )
    done = python(path)
    assert done.stdout == "[-0.25, -1.0]\n", done.stderr


def is_running(pid):
    """Tell whether a process is there and not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
def test_workers_end_with_a_killed_parent(tmp_path):
    path = tmp_path / "script.py"
    path.write_text(
        textwrap.dedent(f"""
        import multiprocessing, sys, time
        sys.path.append({str(ROOT / "tests")!r})
        import pool_models
        from fusions.parallel.pool import open_pool
        from fusions.parallel.tasks import Task
        pool = open_pool(Task(pool_models.Fault("hang"), ("x", "y")), 2)
        print(*(child.pid for child in multiprocessing.active_children()), flush=True)
        import numpy
        pool.map(numpy.full((4, 2), 0.55), 4)
        """)
    )
    with subprocess.Popen([sys.executable, str(path)], stdout=subprocess.PIPE, text=True, cwd=ROOT) as parent:
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 2
        assert all(map(is_running, pids))
        time.sleep(0.5)
        parent.kill()
    end = time.monotonic() + 10
    while any(map(is_running, pids)) and time.monotonic() < end:
        time.sleep(0.05)
    assert not any(map(is_running, pids))


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
def test_nothing_is_left_open(switch):
    evaluate()
    before = len(os.listdir("/proc/self/fd"))
    for function in (pool_models.quiet, pool_models.Fault("leave"), pool_models.Fault("hang")):
        switch(function)
        with contextlib.suppress(LikelihoodError):
            evaluate(timeout=0.3)
    assert len(os.listdir("/proc/self/fd")) == before


def test_interrupt_in_mid_batch(switch):
    """Ctrl-C comes through at once, and the busy workers end."""
    switch(pool_models.Fault("hang"))

    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 2.0)
        start = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            evaluate()
        assert time.monotonic() - start < 4.0
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_interrupted_run_returns_what_there_is():
    def interrupt(snapshot):
        if snapshot.iteration == 2:
            raise KeyboardInterrupt

    assert run(pool=2, callback=interrupt).status is Status.INTERRUPTED


def test_import_is_quick_and_workers_need_little():
    """The best of five counts, because the machine may be busy."""
    code = "import time; t = time.perf_counter(); import fusions; print(time.perf_counter() - t)"
    assert min(float(python("-c", code).stdout) for _ in range(5)) < 0.05
    code = "import sys, fusions.parallel.pool; print([m for m in ('jax', 'numpy', 'scipy', 'dask', 'mpi4py') if m in sys.modules])"
    assert python("-c", code).stdout.strip() == "[]"
