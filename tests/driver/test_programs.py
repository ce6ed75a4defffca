"""Compiled programs: who shares them, and the folder that keeps them."""

import concurrent.futures
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from scipy import stats

import fusions
from fusions import kernels
from fusions import priors as pr
from fusions.driver.compiled import clear_cache, make_engine, make_functions
from fusions.driver.programs import Stopwatch, _prune
from fusions.errors import OptionError
from fusions.model.likelihood import make_evaluator, workers_of
from fusions.numerics import precision_of

ALGORITHM = fusions.nested(n_live=40, kernel=kernels.HitAndRun(), kill=0.5, precision=0.5)
SCRIPT = """
import resource, signal, sys, warnings
import jax, jax.numpy as jnp
from fusions.driver.programs import keep_programs
if "small" in sys.argv:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
keep_programs("1.0")
print(float(jax.jit(lambda x: jnp.sum(jnp.sin(x)) ** 2)(jnp.arange(8.0))))
print(jax.config.jax_compilation_cache_dir)
"""


def square():
    return fusions.Prior(x=pr.uniform(0, 1), y=pr.normal(0, 1))


def hill(p):
    return -0.5 * (p["x"] / 0.1) ** 2 - p["y"] ** 2


def hole(p):
    return -10.0 / (0.1 + (p["x"] - 0.3) ** 2 + p["y"] ** 2)


# Sharing --------------------------------------------------------------------------------------------------------------


def test_equal_problems_are_equal():
    problem = fusions.Problem(square(), hill)
    assert problem == fusions.Problem(square(), hill, labels={"x": "X"})
    assert hash(problem) == hash(fusions.Problem(square(), hill))
    assert problem != fusions.Problem(square(), hole)
    assert problem != fusions.Problem(square(), hill, traceable=False)
    assert problem != fusions.Problem(fusions.Prior(x=pr.uniform(0, 2), y=pr.normal(0, 1)), hill)
    assert hash(fusions.Prior(x=pr.icdf(np.poly1d([2.0, 1.0]))))
    first, second = (fusions.Prior(x=pr.icdf(lambda u, i=i: u + i)) for i in range(2))
    assert first != second


def test_methods_of_one_object_are_the_same_likelihood():
    class Model:
        def __init__(self, width):
            self.width = width

        def logL(self, p):
            return -0.5 * (p["x"] / self.width) ** 2

    one, other = Model(0.1), Model(0.2)
    assert fusions.Problem(square(), one.logL) == fusions.Problem(square(), one.logL)
    assert fusions.Problem(square(), one.logL) != fusions.Problem(square(), other.logL)


def test_what_knows_no_likelihood_is_compiled_once():
    """A second run and one of an equal problem compile nothing, another likelihood or prior of the same form its own walk alone."""
    clear_cache()
    counts, values = [], []
    wider = fusions.Prior(x=pr.uniform(0, 3), y=pr.log_uniform(1, 2))
    for prior, likelihood, key in ((square(), hill, 0), (square(), hill, 1), (square(), hill, 0), (square(), hole, 0), (wider, hill, 0)):
        result = fusions.run(fusions.Problem(prior, likelihood), ALGORITHM, key=key, refine=False, progress=False)
        counts.append(result.n_compilations)
        values.append(result.logZ)
    assert counts == [3, 0, 0, 1, 1]
    assert values[0] == values[2]
    assert len(set(values)) == 4


def far_from(p, data):
    return -0.5 * sum((p["x"] - centre) ** 2 for centre in data["centres"]) / data["width"] ** 2 - p["y"] ** 2


def about(centre, width=0.1, **options):
    return fusions.Problem(square(), far_from, data={"centres": centre + np.zeros(3), "width": width}, **options)


def test_other_data_of_a_kind_compile_nothing():
    """Values of arrays are arguments of the programs; numbers and shapes are fixed in them."""
    clear_cache()
    found = [
        fusions.run(problem, ALGORITHM, key=0, refine=False, progress=False)
        for problem in (about(0.3), about(0.7), about(0.3, width=0.2), fusions.Problem(square(), lambda p: far_from(p, about(0.7).data)))
    ]
    assert [result.n_compilations for result in found] == [3, 0, 1, 1]
    means = [np.average(result.theta[:, 0], weights=np.exp(result.evidence.logw)) for result in found]
    assert means[:2] == pytest.approx([0.3, 0.7], abs=0.1)
    assert found[1].logZ == pytest.approx(found[3].logZ, abs=1e-8)


def test_refine_phases_of_other_data_share_their_programs():
    with precision_of("double"):
        one, other = (make_functions(about(centre), fusions.Refine())[0] for centre in (0.3, 0.7))
        for name in ("target", "trajectory"):
            assert getattr(one, name).func is getattr(other, name).func
        y = one.draw(jax.random.key(0), one.init(jax.random.key(0)))
        for functions, problem in ((one, about(0.3)), (other, about(0.7))):
            np.testing.assert_allclose(functions.target(y)[0], problem.call_rows(problem.prior.theta_rows(functions.space.leave(y)))[0])


def test_problems_of_equal_data_are_equal():
    assert about(0.3) == about(0.3)
    assert about(0.3) != about(0.7)
    assert about(0.3).form() == about(0.7).form()
    assert about(0.3).form() != about(0.3, width=0.2).form()
    assert about(0.3, traceable=False).form() != about(0.7, traceable=False).form()


def test_data_that_decide_how_to_compute_are_fixed():
    """JAX can't trace such a function of the data, only one of the parameters."""
    problem = fusions.Problem(square(), lambda p, data: -p["x"] if data.sum() > 0 else p["x"], data=np.ones(3))
    assert problem.traceable
    assert not problem.arrays
    assert problem.form() != fusions.Problem(problem.prior, problem.loglikelihood, data=-np.ones(3)).form()
    assert fusions.Problem(square(), far_from, data={"centres": np.ones(2), "width": 1}, traceable=False).call_rows([[0.5, 0]])[0] == -0.25


@pytest.mark.parametrize("pool", [None, concurrent.futures.ThreadPoolExecutor(1)])
def test_data_reach_a_black_box(pool):
    for options in ({"traceable": False}, {"vectorized": True}):
        problem = about(0.3, **options)
        x = problem.prior.sample(0, 3)
        with workers_of(problem, pool, None):
            found = make_evaluator(problem).rows(x)[0]
        np.testing.assert_allclose(found, about(0.3).call_rows(problem.prior.theta_rows(x))[0])


def test_what_a_function_reads_counts():
    """The same function after its data have changed is another program; so is a method of an object that has changed."""
    data = {"centre": 0.3}
    problem = fusions.Problem(square(), lambda p: -50 * (p["x"] - data["centre"]) ** 2 - p["y"] ** 2)
    first = fusions.run(problem, ALGORITHM, key=0, refine=False, progress=False)
    data["centre"] = 0.8
    second = fusions.run(problem, ALGORITHM, key=0, refine=False, progress=False)
    assert abs(np.average(first.theta[:, 0], weights=np.exp(first.evidence.logw)) - 0.3) < 0.1
    assert abs(np.average(second.theta[:, 0], weights=np.exp(second.evidence.logw)) - 0.8) < 0.1


def test_scipy_priors_differ_by_the_names_of_their_shapes():
    assert fusions.Prior(x=stats.beta(a=2, b=8)) != fusions.Prior(x=stats.beta(b=2, a=8))
    assert fusions.Prior(x=stats.beta(a=2, b=8)) == fusions.Prior(x=stats.beta(b=8, a=2))


def test_refine_phases_share_what_knows_no_likelihood():
    one, other = (make_functions(fusions.Problem(square(), function), fusions.Refine())[0] for function in (hill, hole))
    for name in ("init", "fit", "draw", "kernel"):
        assert getattr(one, name) is getattr(other, name), name
    assert one.target is not other.target
    assert make_functions(fusions.Problem(square(), hill), fusions.Refine())[0] is one


def test_each_precision_has_its_own():
    problem, found = fusions.Problem(square(), hill), []
    for name in ("double", "single", "double"):
        with precision_of(name):
            found.append(make_engine(problem, ALGORITHM))
    assert found[0] is found[2]
    assert found[0].tune is not found[1].tune


def test_compiling_has_a_clock_of_its_own():
    clear_cache()
    result = fusions.run(fusions.Problem(square(), hill), ALGORITHM, key=0, refine=False, progress=False)
    assert result.seconds["compile"] > 0
    assert sum(seconds for name, seconds in result.seconds.items() if name != "total") == pytest.approx(result.seconds["total"])
    assert "compile" in str(result)
    again = fusions.run(fusions.Problem(square(), hill), ALGORITHM, key=0, refine=False, progress=False)
    assert again.seconds["compile"] < result.seconds["compile"]
    assert Stopwatch().read()[1] == 0


# On disk --------------------------------------------------------------------------------------------------------------


def started(*arguments, **environment):
    """Run `SCRIPT` in a process without the settings of the tests; returns value, folder of the cache or None, standard error."""
    names = ("JAX_COMPILATION_CACHE_DIR", "FUSIONS_CACHE", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS")
    inherited = {name: value for name, value in os.environ.items() if name not in names}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments], capture_output=True, text=True, check=True, env=inherited | environment
    )
    value, folder = done.stdout.split("\n")[:2]
    return float(value), None if folder == "None" else Path(folder), done.stderr


def test_programs_are_kept_in_the_folder_of_the_user(tmp_path):
    """One folder for each version; a second process finds what the first has compiled, and a damaged file costs time alone."""
    value, folder, _ = started(XDG_CACHE_HOME=str(tmp_path), HOME=str(tmp_path))
    assert folder.is_relative_to(tmp_path)
    assert folder.name.startswith("1.0-jax-")
    kept = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert kept
    assert started(XDG_CACHE_HOME=str(tmp_path), HOME=str(tmp_path))[:2] == (value, folder)
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == kept
    for path in kept:
        path.write_bytes(path.read_bytes()[:50])
    assert started(XDG_CACHE_HOME=str(tmp_path), HOME=str(tmp_path))[:2] == (value, folder)


@pytest.mark.parametrize("how", ["off", "chosen", "configured", "a file", "full"])
def test_the_environment_decides(how, tmp_path):
    """What the user has configured stays, and a place that can't be used is no failure."""
    (tmp_path / "file").write_text("")
    environment, expected = {
        "off": ({"FUSIONS_CACHE": "off"}, None), "chosen": ({"FUSIONS_CACHE": str(tmp_path / "mine")}, tmp_path / "mine"),
        "configured": ({"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "jax")}, tmp_path / "jax"),
        "a file": ({"FUSIONS_CACHE": str(tmp_path / "file")}, None), "full": ({"FUSIONS_CACHE": str(tmp_path / "mine")}, tmp_path / "mine"),
    }[how]  # fmt: skip
    value, folder, _ = started(*["small"] * (how == "full"), **environment)
    assert value == pytest.approx(float(np.sum(np.sin(np.arange(8.0)))) ** 2, rel=1e-5)
    assert folder is None if expected is None else folder.is_relative_to(expected)
    assert how != "configured" or folder == expected


def test_the_files_used_least_lately_go(tmp_path, monkeypatch):
    monkeypatch.setattr("fusions.driver.programs.LARGEST", 250)
    for i in range(5):
        path = tmp_path / str(i)
        path.write_bytes(b"x" * 100)
        os.utime(path, (i, i))
    _prune(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["3", "4"]


def test_a_folder_is_a_path():
    with pytest.raises(OptionError, match="Expected the path of a folder or None, got 3"):
        fusions.cache_programs(3)


RUN = """
import hashlib, sys, fusions
from fusions import priors as pr
problem = fusions.Problem(fusions.Prior(x=pr.uniform(0, 1), y=pr.normal(0, 1)), lambda p: -0.5 * (p["x"] / 0.1) ** 2 - p["y"] ** 2)
result = fusions.run(problem, fusions.nested(n_live=60, precision=0.5), key=3, refine=fusions.Refine(error=0.1), progress=False)
print(hashlib.sha256(result.theta.tobytes() + result.draws.tobytes()).hexdigest(), repr(result.logZ), result.seconds["compile"])
"""


@pytest.mark.slow
def test_equal_seeds_give_equal_runs_with_any_cache(tmp_path):
    """With none, with one that is filled, and with a filled one."""
    names = ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS")
    inherited = {name: value for name, value in os.environ.items() if name not in names}
    found = []
    for cache in ("off", str(tmp_path), str(tmp_path)):
        environment = inherited | {"FUSIONS_CACHE": cache}
        done = subprocess.run([sys.executable, "-c", RUN], capture_output=True, text=True, check=True, env=environment)
        found.append(done.stdout.split())
    assert found[0][:2] == found[1][:2] == found[2][:2]
    assert float(found[2][2]) < 0.5 * float(found[1][2])
