"""The command line, called in-process on a small model file."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest

from fusions import cli, kernels
from fusions.io import checkpoint
from fusions.results.result import Result

MODEL = """
import fusions
from fusions import priors as pr

prior = fusions.Prior(x=pr.uniform(-1, 1), y=pr.uniform(-1, 1))
problem = fusions.Problem(prior, lambda p: -0.5 * (p["x"] ** 2 + p["y"] ** 2) / 0.1**2, labels={"x": "x", "y": "y"})


def make():
    return problem
"""
MODERN = f"""
from __future__ import annotations

import dataclasses


@dataclasses.dataclass
class Data:
    noise: float

{MODEL}
"""
FAILING = f"""
{MODEL}

calls = []


def loglikelihood(p):
    calls.append(p)
    return float("nan") if len(calls) > 150 else -50 * float(p["x"]) ** 2


problem = fusions.Problem(prior, loglikelihood)
"""
SIGNALLED = f"""
{MODEL}
import os
import pathlib
import signal

CALLS = pathlib.Path(__file__).with_suffix(".calls")


def loglikelihood(p):
    if not CALLS.exists() and p["x"] ** 2 + p["y"] ** 2 < 2e-4:
        CALLS.write_text("")
        os.kill(os.getpid(), signal.NAME)
    return -50 * (float(p["x"]) ** 2 + float(p["y"]) ** 2)


problem = fusions.Problem(prior, loglikelihood, traceable=False)
"""


@pytest.fixture(autouse=True)
def _cheap_kernel(monkeypatch):
    """Replace the default kernel by one that compiles fast."""
    monkeypatch.setattr("fusions.driver.run.default_kernel", kernels.HitAndRun)


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "model.py"
    path.write_text(MODEL)
    return path


def run(*words):
    return cli.main(["run", *map(str, words), "--n-live", "50", "--quiet", "--no-refine"])


def test_run_summary_and_plot(model, tmp_path, capsys):
    """From a model file to chains, a table and figures."""
    from anesthetic import read_chains

    out = tmp_path / "out"
    assert run(f"{model}:problem", "-o", out, "--seed", 3) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert "Saved in" in printed.out
    names = {path.name for path in out.iterdir()}
    assert {"chains_dead-birth.txt", "chains_phys_live-birth.txt", "chains.paramnames"} <= names

    result = Result.load(out)
    assert result.status.complete
    assert result.info["seed"] == 3
    assert result.logZ == pytest.approx(np.log(2 * np.pi * 0.1**2 / 4), abs=5 * result.logZ_err)
    chains = read_chains(str(out / "chains"))
    assert chains.logZ() == pytest.approx(result.samples().logZ(), abs=1e-6)
    assert len(chains) == len(result.logL)

    assert cli.main(["summary", str(out)]) == 0
    assert capsys.readouterr().out.strip() == str(result).strip()

    assert cli.main(["plot", str(out)]) == 0
    paths = capsys.readouterr().out.split("\n")[:-1]
    assert len(paths) >= 2
    assert all((tmp_path / path).stat().st_size > 1000 for path in paths)


def test_incomplete_run_has_its_own_exit_code(model, tmp_path, capsys):
    assert run(f"{model}:make", "-o", tmp_path / "out", "--max-calls", 1) == 3
    assert "max_calls" in capsys.readouterr().out
    assert not Result.load(tmp_path / "out").status.complete


def test_name_is_problem_unless_given(model):
    assert cli.load_problem(str(model)).names == ("x", "y")
    assert cli.load_problem(f"{model}:make").names == ("x", "y")


def test_model_file_may_define_dataclasses(tmp_path):
    """Dataclasses look their module up by name."""
    path = tmp_path / "modern_model.py"
    path.write_text(MODERN)
    assert cli.load_problem(str(path)).names == ("x", "y")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("missing.py:problem", "existing file"),
        ("model.py:nothing", "has no 'nothing'"),
        ("model.py:prior", "Expected a fusions.Problem"),
        ("model.txt:problem", "FILE.py:NAME"),
    ],
)
def test_wrong_model(spec, message, model, tmp_path, capsys):
    (tmp_path / "model.txt").write_text(MODEL)
    assert run(tmp_path / spec, "-o", tmp_path / "out") == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_wrong_setting(model, tmp_path, capsys):
    assert cli.main(["run", str(model), "-o", str(tmp_path / "out"), "--n-live", "5"]) == 2
    assert "n_live" in capsys.readouterr().err


def test_failed_likelihood_is_saved(tmp_path, capsys):
    """What was computed before a failure is not lost."""
    path = tmp_path / "failing.py"
    path.write_text(FAILING)
    assert run(path, "-o", tmp_path / "out") == 2
    assert "nan at x=" in capsys.readouterr().err
    assert Result.load(tmp_path / "out").status.name == "FAILED"


def test_stopped_run_is_resumed(model, tmp_path, capsys):
    """The same command, or `resume`, goes on; the end is that of a run in one go."""
    out = tmp_path / "out"
    assert run(model, "-o", out, "--max-calls", 500) == 3
    assert f"fusions resume {out}" in capsys.readouterr().out
    assert run(model, "-o", out, "--max-calls", 1000) == 3
    assert cli.main(["resume", str(out), "--quiet"]) == 0
    assert run(model, "-o", tmp_path / "whole") == 0
    resumed, whole = Result.load(out), Result.load(tmp_path / "whole")
    np.testing.assert_array_equal(resumed.logL, whole.logL)
    assert (resumed.logZ, resumed.n_calls) == (whole.logZ, whole.n_calls)


def test_other_run_in_the_folder(model, tmp_path, capsys):
    out = tmp_path / "out"
    run(model, "-o", out, "--max-calls", 1)
    assert run(model, "-o", out, "--seed", 1) == 2
    assert "key was 0, now is 1" in capsys.readouterr().err
    assert cli.main(["resume", str(out), "--quiet", "--max-calls", "1"]) == 3
    assert run(model, "-o", out, "--seed", 1, "--fresh", "--max-calls", 1) == 3
    assert Result.load(out).info["seed"] == 1
    assert cli.main(["resume", str(out), "--quiet", "--max-calls", "1"]) == 3


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGUSR1", 138)])
def test_exit_code_of_a_signal(name, code, tmp_path, capsys):
    path = tmp_path / "signalled.py"
    path.write_text(SIGNALLED.replace("NAME", name))
    assert run(path, "-o", tmp_path / "out") == code
    assert "fusions resume" in capsys.readouterr().out
    assert cli.main(["resume", str(tmp_path / "out"), "--quiet"]) == 0


def test_export(model, tmp_path, capsys):
    from anesthetic import read_chains

    out = tmp_path / "out"
    run(model, "-o", out, "--max-calls", 500)
    capsys.readouterr()
    assert cli.main(["export", str(out), "--format", "csv"]) == 0
    assert capsys.readouterr().out.strip() == str(out / "chains.csv")
    assert cli.main(["export", str(out), "--format", "polychord", "-o", str(tmp_path / "else")]) == 0
    for form, written in (("getdist", "posterior.txt"), ("numpy", "posterior.npz")):
        assert cli.main(["export", str(out), "--format", form, "-o", str(tmp_path / "posterior")]) == 0
        assert (tmp_path / written).stat().st_size > 0
    wanted = Result.load(out).samples().logZ()
    for root in (out / "chains.csv", tmp_path / "else"):
        assert read_chains(str(root)).logZ() == pytest.approx(wanted, abs=1e-6)


def test_check(model, tmp_path, capsys):
    """A whole folder, one with a damaged state, one with a ledger that no run makes, one without a result."""
    out = tmp_path / "out"
    run(model, "-o", out, "--max-calls", 500)
    capsys.readouterr()
    assert cli.main(["check", str(out)]) == 0
    printed = capsys.readouterr().out
    assert printed.count("ok  ") == 3
    assert "dead points" in printed
    newest = checkpoint.states(out)[0]
    newest.write_bytes(newest.read_bytes()[:-5])
    assert cli.main(["check", str(out)]) == 1
    assert f"bad   {newest.name}: it is truncated or changed" in capsys.readouterr().out
    result = Result.load(out)
    dataclasses.replace(result, logL=result.logL[::-1]).save(out)
    assert cli.main(["check", str(out)]) == 1
    assert "below the contour that it was born at" in capsys.readouterr().out
    (out / "result.json").unlink()
    cli.main(["check", str(out)])
    assert "no result yet" in capsys.readouterr().out
    assert cli.main(["summary", str(out)]) == 2
    assert f"fusions resume {out}" in capsys.readouterr().err
    (out / "command.json").unlink()  # as if a script had begun the run
    for command in ("summary", "resume"):
        assert cli.main([command, str(out)]) == 2
        assert "the script again" in capsys.readouterr().err


def test_nobody_reads_the_summary(model, tmp_path):
    out = tmp_path / "out"
    run(model, "-o", out, "--max-calls", 300)
    command = f"{sys.executable} -m fusions.cli summary {out} | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1)
    assert "fusions" in done.stdout
    assert "Error" not in done.stderr
    assert "Errno" not in done.stderr


def test_damaged_command(model, tmp_path, capsys):
    run(model, "-o", tmp_path / "out", "--max-calls", 1)
    (tmp_path / "out" / "command.json").write_text("{")
    assert cli.main(["resume", str(tmp_path / "out")]) == 2
    assert "Can't read command.json" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["summary", "plot", "check", "resume"])
def test_wrong_folder(command, tmp_path, capsys):
    assert cli.main([command, str(tmp_path / "nowhere")]) == 2
    assert "nowhere" in capsys.readouterr().err


@pytest.mark.parametrize("words", [[], ["fly"], ["run", "model.py"]])
def test_wrong_command(words, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(words)
    assert caught.value.code == 2
    assert "usage" in capsys.readouterr().err


def test_pool_of_a_model_in_a_file(tmp_path, capsys):
    path = tmp_path / "model_for_workers.py"
    path.write_text(
        f"{MODEL}\ndef loglikelihood(p):\n    return -50.0 * p['x'] ** 2\n\nboxed = fusions.Problem(prior, loglikelihood, traceable=False)"
    )
    command = ["run", f"{path}:boxed", "-o", str(tmp_path / "a"), "--n-live", "40", "--no-refine", "--max-calls", "60", "-q"]
    assert cli.main([*command, "--pool", "2", "--timeout", "60"]) == 3
    result = Result.load(tmp_path / "a")
    assert result.info["pool"]["n_workers"] == 2
    assert result.info["pool"]["n_calls"] >= 60
    assert cli.main(["resume", str(tmp_path / "a"), "--devices", "99", "-q"]) == 2
    assert "Expected devices to be between 1 and" in capsys.readouterr().err
