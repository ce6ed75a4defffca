"""What all tests share."""

import jax
import pytest

from fusions.engine import make_engine, make_tools


@pytest.fixture(scope="module", autouse=True)
def forget_compiled_functions():
    """Give the memory of compiled functions back after each file: hundreds of problems are compiled, and none is shared by two files."""
    yield
    make_engine.cache_clear()
    make_tools.cache_clear()
    jax.clear_caches()
