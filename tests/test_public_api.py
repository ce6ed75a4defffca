"""The names that users rely on."""

import pytest

import fusions
from fusions import kernels, plot, priors

NAMES = {
    "FusionsError", "PrecisionError", "Prior", "Problem", "Refine", "attach", "cache_programs", "clear_cache", "from_numpyro", "hot_start",
    "Result", "Status", "kernels", "merge", "nested", "plot", "priors", "run",
}  # fmt: skip
KERNELS = {"Cycle", "FlowKernel", "HitAndRun", "Jump", "RandomWalk"}
PLOTS = {
    "animate", "budget_plot", "corner", "evidence_plot", "flow_plot", "insertion_plot", "level_plot", "page", "run_plot", "save_all",
}  # fmt: skip
PRIORS = {
    "Block", "Distribution", "Prior", "beta", "cauchy", "check_names", "cosine", "delta", "exponential", "from_scipy", "gamma",
    "gaussian", "half_normal", "icdf", "is_traceable", "joint", "log_normal", "log_uniform", "normal", "rayleigh", "scalar_shape",
    "sine", "student_t", "transform", "truncated_normal", "uniform",
}  # fmt: skip


@pytest.mark.parametrize(("module", "names"), [(fusions, NAMES), (kernels, KERNELS), (plot, PLOTS), (priors, PRIORS)])
def test_names_are_pinned(module, names):
    assert len(module.__all__) == len(set(module.__all__))
    assert set(module.__all__) == names
    for name in names:
        assert getattr(module, name) is not None


def test_dir_lists_the_public_names():
    assert set(dir(fusions)) == NAMES


def test_unknown_name_says_what_there_is():
    with pytest.raises(AttributeError, match=r"no attribute 'nest'; it has .*nested"):
        fusions.nest  # noqa: B018


def test_version_is_that_of_the_project():
    from importlib.metadata import version

    assert fusions.__version__ == version("fusions")
