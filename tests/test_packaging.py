"""Wheel and sdist build; the wheel, installed in an environment of its own, runs the quickstart. A longer test, with a network."""

import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
from test_doc_blocks import blocks

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_wheel_runs_the_quickstart(tmp_path):
    subprocess.run([sys.executable, "-m", "build", "--outdir", str(tmp_path / "dist"), str(ROOT)], check=True)
    (wheel,), (sdist,) = (tmp_path / "dist").glob("*.whl"), (tmp_path / "dist").glob("*.tar.gz")
    assert {"fusions/py.typed", "fusions/plot/page.py"} <= set(zipfile.ZipFile(wheel).namelist())
    with tarfile.open(sdist) as archive:
        assert any(name.endswith("/fusions/plot/page.py") for name in archive.getnames())
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", str(wheel)], check=True)
    script = tmp_path / "quickstart.py"
    script.write_text("\n".join(code for _, code in blocks("quickstart")))
    done = subprocess.run([python, script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "Converged" in done.stdout
    assert (tmp_path / "page.png").stat().st_size > 10_000
    assert (tmp_path / "runs" / "chains.csv").is_file()
