"""Exports: every format keeps names, labels and weights, and ln Z where it can carry it."""

import sys
from dataclasses import replace

import anesthetic
import numpy as np
import pytest
from ledgers import gaussian_ball, half_zero, make_refinement, make_result

from fusions.errors import OptionError
from fusions.report.exports import FORMATS

LABELS = {"x": r"x_{\mathrm{in}}", "y": r"\omega", "z": r"\mathrm{speed\ }z\mathrm{\ [m/s]}", "theta_w": r"\mathrm{theta\_w}", "r2": "r^2"}
CARRY_LOGZ = ("polychord", "csv")


@pytest.fixture(scope="module")
def result():
    return make_result(n_live=200, n_kill=20)


@pytest.fixture(scope="module")
def refined(result):
    """Return a result whose headline is that of draws."""
    rng = np.random.default_rng(0)
    draws = np.column_stack([x := rng.normal(size=(4000, 4)), (x**2).sum(1)])
    found = make_refinement(result.logZ, bridge=(result.logZ, 0.02), coverage=(0.0, 0.02), rounds=((result.logZ, 0.02, 0.7),))
    return replace(result, refined=found, draws=draws, draws_logw=rng.normal(scale=0.3, size=4000))


def read_export(result, form, root):
    """Write and read back with anesthetic."""
    paths = result.export(form, root)
    assert all(path.stat().st_size > 0 for path in paths)
    return anesthetic.read_chains(str(paths[0] if form == "csv" else root))


@pytest.mark.parametrize("problem", [gaussian_ball(), half_zero(gaussian_ball())], ids=["ball", "half zero"])
@pytest.mark.parametrize("form", CARRY_LOGZ)
def test_formats_with_births_give_the_identical_evidence(form, problem, tmp_path):
    result = make_result(problem, n_kill=10)
    samples, read = result.samples(), read_export(result, form, tmp_path / "run")
    assert read.logZ() == pytest.approx(samples.logZ(), abs=1e-12)
    assert read.get_labels_map().to_dict() == samples.get_labels_map().to_dict()


@pytest.mark.parametrize("which", ["result", "refined"])
def test_getdist_files_give_posterior_and_labels(which, request, tmp_path):
    result = request.getfixturevalue(which)
    read = read_export(result, "getdist", tmp_path / "out" / "run")
    mean, sd, *_ = result.moments()
    np.testing.assert_allclose([read[name].mean() for name in result.names], mean, atol=1e-9)
    np.testing.assert_allclose([read[name].std() for name in result.names], sd, rtol=0.01)
    assert read.get_label("y") == r"$\omega$"
    if which == "result":
        assert read.logL.max() == result.logL.max()


@pytest.mark.parametrize("which", ["result", "refined"])
def test_getdist_object(which, request, tmp_path):
    getdist = pytest.importorskip("getdist")
    result = request.getfixturevalue(which)
    result.export("getdist", tmp_path / "run")
    for samples in (result.to_getdist(), getdist.loadMCSamples(str(tmp_path / "run"))):
        names = samples.getParamNames()
        assert names.list() == list(result.names)
        assert [p.label for p in names.names if p.name != "theta_w"] == [label for name, label in LABELS.items() if name != "theta_w"]
        assert [p.isDerived for p in names.names] == [False] * 4 + [True]
        np.testing.assert_allclose(samples.getMeans(), result.moments()[0], atol=1e-9)
    assert result.to_getdist().getEffectiveSamples() > 0


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("package", ["arviz", "arviz_base"])
@pytest.mark.parametrize("which", ["result", "refined"])
def test_arviz_object(package, which, request, monkeypatch):
    """One chain of equal weights from ArviZ 0.x and from the converters of 1.x, which are a package of their own."""
    pytest.importorskip(package)
    result = request.getfixturevalue(which)
    if package == "arviz_base":
        monkeypatch.setitem(sys.modules, "arviz", None)
    data = result.to_arviz(n=1000, key=2)
    posterior = data["posterior"]
    assert set(posterior.data_vars) == set(result.names)
    assert posterior["x"].dims == ("chain", "draw")
    np.testing.assert_array_equal(posterior["r2"].to_numpy()[0], result.equal_weights(1000, key=2)[:, 4])
    assert posterior["y"].attrs["label"] == r"$\omega$"
    assert (posterior.attrs["logZ"], posterior.attrs["logZ_err"]) == (result.logZ, result.logZ_err)
    assert posterior.attrs["status"] == "CONVERGED"


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_arviz_file(result, tmp_path):
    arviz = pytest.importorskip("arviz")
    (path,) = result.export("arviz", tmp_path / "run.a")
    assert path.name == "run.a.nc"
    read = arviz.from_netcdf(str(path))["posterior"]
    assert read.attrs["logZ"] == result.logZ
    assert read["z"].attrs["label"] == f"${LABELS['z']}$"


def test_numpy_file(refined, tmp_path):
    (path,) = refined.export("numpy", tmp_path / "new" / "run")
    with np.load(path, allow_pickle=False) as file:
        assert file["samples"].shape == (int(refined.ess), 5)
        assert list(file["names"]) == list(refined.names)
        assert list(file["labels"]) == list(LABELS.values())
        assert (file["logZ"], file["logZ_err"], str(file["status"])) == (refined.logZ, refined.logZ_err, "CONVERGED")


def test_missing_package_is_named(result, monkeypatch):
    for name in ("arviz", "arviz_base", "getdist"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(OptionError, match="pip install arviz"):
        result.to_arviz()
    with pytest.raises(OptionError, match="pip install getdist"):
        result.to_getdist()


def test_unknown_format_lists_the_known(result, tmp_path):
    with pytest.raises(OptionError, match=f"out of {', '.join(FORMATS)}, got 'hdf5'"):
        result.export("hdf5", tmp_path / "run")
