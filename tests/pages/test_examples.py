"""Every example runs with few live points and gives its exact evidence within its error."""

import functools
import importlib
import json
import sys
from pathlib import Path

import pytest

import fusions

EXAMPLES = Path(__file__).parents[2] / "examples"
sys.path.append(str(EXAMPLES))

N_LIVE = 100
LONGEST = 60  # lines of an example


@pytest.fixture
def nested_alone(monkeypatch):
    """Leave the refine phase out, which takes longest where few live points are tried."""
    monkeypatch.setattr(fusions, "run", functools.partial(fusions.run, refine=False))


def assert_right(result, exact):
    """Compare an evidence with the exact value; six errors, since this is not the calibration test."""
    assert result.status.complete
    assert result.logZ == pytest.approx(exact, abs=6 * result.logZ_err)


@pytest.mark.parametrize("name", ["gaussian", "rosenbrock", "black_box", "custom_prior", "exoplanet_rv", "pool"])
def test_example_is_short(name):
    assert len((EXAMPLES / f"{name}.py").read_text().splitlines()) < LONGEST


@pytest.mark.slow
@pytest.mark.usefixtures("nested_alone")
@pytest.mark.parametrize("name", ["gaussian", "rosenbrock"])
def test_example(name, capsys):
    module = importlib.import_module(name)
    assert_right(module.main(n_live=N_LIVE), module.LOG_Z)
    assert "exact" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.usefixtures("nested_alone")
def test_black_box_example(capsys):
    module = importlib.import_module("black_box")
    assert not module.problem.traceable
    result = module.main(n_live=N_LIVE)
    assert_right(result, module.exact_logZ())
    assert result.names == ("slope", "offset", "middle")
    assert "exact" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.usefixtures("nested_alone")
def test_pool_example(capsys):
    module = importlib.import_module("pool")
    result = module.main(n_live=N_LIVE)
    assert_right(result, module.LOG_Z)
    assert result.info["pool"]["n_workers"] == 4
    assert "4 workers (processes)" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.usefixtures("nested_alone")
def test_custom_prior_example(capsys):
    module = importlib.import_module("custom_prior")
    dependent, joint = module.main(n_live=N_LIVE)
    assert_right(dependent, module.dependent_logZ)
    assert_right(joint, module.joint_logZ)
    assert "exact" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.usefixtures("nested_alone")
def test_exoplanet_example(capsys):
    module = importlib.import_module("exoplanet_rv")
    results = module.main(n_live=500)  # ten modes in the period
    for name, result in results.items():
        assert_right(result, module.LOG_Z[name])
    assert "ln B" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.usefixtures("nested_alone")
def test_demo_writes_results_figures_and_summary(tmp_path, capsys):
    demo = importlib.import_module("demo")
    results = demo.main(n_live=N_LIVE, folder=tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert set(summary) == set(results) == {"zero_planets", "one_planet"}
    for name, result in results.items():
        assert summary[name]["logZ"] == result.logZ
        assert set(summary[name]) == {"logZ", "logZ_err", "n_calls", "seconds"}
        assert (tmp_path / name).is_dir()
    assert all((tmp_path / name).stat().st_size > 10_000 for name in ("data.png", "corner.png"))
    assert "log10 B" in capsys.readouterr().out


@pytest.mark.slow
def test_bilby_example(capsys):
    pytest.importorskip("bilby", reason="bilby is not installed")
    module = importlib.import_module("bilby_model_selection")
    results = module.main(n_live=N_LIVE, kernel="HitAndRun", cost="cheap", refine=False)
    for n, result in results.items():
        assert result.log_evidence == pytest.approx(module.exact_logZ(n), abs=4 * result.log_evidence_err)
    assert "ln B against 2" in capsys.readouterr().out


@pytest.mark.slow
def test_cobaya_example(capsys):
    pytest.importorskip("cobaya", reason="cobaya is not installed")
    module = importlib.import_module("cobaya_bao")
    products = module.main(n_live=N_LIVE, kernel="HitAndRun", cost="cheap", refine=False)
    for name, found in products.items():
        assert found["logZ"] == pytest.approx(module.exact_logZ(name), abs=4 * found["logZstd"])
    assert "ln B (LCDM : wCDM)" in capsys.readouterr().out
