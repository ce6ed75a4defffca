"""What all tests share."""

import os
import signal
from pathlib import Path

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a shell's background jobs; tests interrupt themselves
    signal.signal(signal.SIGINT, signal.default_int_handler)
# functions compiled once serve all files, the processes that tests start, and the next session
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(Path(__file__).parents[1] / ".cache" / "programs")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusions.driver.compiled import clear_cache


@pytest.fixture(autouse=True)
def precision_stays():
    """See that no test, and nothing that it calls, leaves another precision of JAX behind."""
    before = jax.config.jax_enable_x64
    yield
    assert jax.config.jax_enable_x64 is before
    assert jnp.zeros(()).dtype == (np.float64 if before else np.float32)


@pytest.fixture(scope="module", autouse=True)
def forget_compiled_functions():
    """Give the memory of compiled functions back after each file: hundreds of problems are compiled, and none is shared by two files."""
    yield
    clear_cache()
