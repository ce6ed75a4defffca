"""What all tests share."""

import jax
import pytest

from fusions import engine


@pytest.fixture(scope="module", autouse=True)
def forget_compiled_functions():
    """Give the memory of compiled functions back after each file: hundreds of problems are compiled, and none is shared by two files."""
    yield
    engine.forget()
    jax.clear_caches()
