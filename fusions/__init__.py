"""Bayesian evidence and posteriors by diffusion-augmented nested sampling."""

import importlib

_EXPORTS = {
    "Problem": "fusions.model.problem",
    "Prior": "fusions.priors",
    "run": "fusions.driver.run",
    "cache_programs": "fusions.driver.run",
    "clear_cache": "fusions.driver.compiled",
    "Refine": "fusions.algorithms.refine.settings",
    "attach": "fusions.driver.redraw",
    "hot_start": "fusions.driver.hot_start",
    "from_numpyro": "fusions.adapters",
    "Result": "fusions.results.result",
    "merge": "fusions.results.merging",
    "Status": "fusions.errors",
    "FusionsError": "fusions.errors",
    "PrecisionError": "fusions.errors",
}
_RENAMED = {"nested": ("fusions.driver.run", "nested_sampling")}
_MODULES = ("priors", "kernels", "plot")

__all__ = [*_EXPORTS, *_RENAMED, *_MODULES]
__version__ = "0.1.0"


def __getattr__(name):
    if name in _EXPORTS:
        return getattr(importlib.import_module(_EXPORTS[name]), name)
    if name in _RENAMED:
        module, original = _RENAMED[name]
        return getattr(importlib.import_module(module), original)
    if name in _MODULES:
        return importlib.import_module(f"fusions.{name}")
    raise AttributeError(f"module 'fusions' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__():
    return __all__
