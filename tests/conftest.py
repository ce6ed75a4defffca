"""What all tests share."""

import os
import signal

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a shell's background jobs; tests interrupt themselves
    signal.signal(signal.SIGINT, signal.default_int_handler)
if "PYTEST_XDIST_WORKER" in os.environ:  # one core per worker: threads of several that wait for each other take longer than one
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")

import jax
import pytest

from fusions import engine


@pytest.fixture(scope="module", autouse=True)
def forget_compiled_functions():
    """Give the memory of compiled functions back after each file: hundreds of problems are compiled, and none is shared by two files."""
    yield
    engine.forget()
    jax.clear_caches()
