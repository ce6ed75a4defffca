"""What all tests share."""

import atexit
import os
import shutil
import signal
import tempfile

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a shell's background jobs; tests interrupt themselves
    signal.signal(signal.SIGINT, signal.default_int_handler)
if "PYTEST_XDIST_WORKER" in os.environ:  # one core per worker: threads of several that wait for each other take longer than one
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")
    os.environ["JAX_COMPILATION_CACHE_DIR"] += os.environ["PYTEST_XDIST_WORKER"]  # a folder each: writing to it is not atomic
else:  # functions compiled once serve all files, and the processes that tests start; nothing is left from earlier sessions
    os.environ["JAX_COMPILATION_CACHE_DIR"] = os.path.join(folder := tempfile.mkdtemp(), "")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
    atexit.register(shutil.rmtree, folder, ignore_errors=True)

import jax
import pytest

from fusions import engine


@pytest.fixture(scope="module", autouse=True)
def forget_compiled_functions():
    """Give the memory of compiled functions back after each file: hundreds of problems are compiled, and none is shared by two files."""
    yield
    engine.forget()
    jax.clear_caches()
