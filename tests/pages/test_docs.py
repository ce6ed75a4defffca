"""The documentation site builds without a warning, and the examples in docstrings are right."""

import doctest
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WITH_EXAMPLES = {"fusions.io.labels", "fusions.report.table"}  # at least these


def modules():
    """Return the names of all modules of the package."""
    paths = sorted((ROOT / "fusions").rglob("*.py"))
    return [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in paths]


def test_examples_in_docstrings():
    tried = {name: doctest.testmod(importlib.import_module(name)) for name in modules()}
    assert {name for name, result in tried.items() if result.attempted} >= WITH_EXAMPLES
    assert not [name for name, result in tried.items() if result.failed]


@pytest.mark.slow
def test_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("myst_nb")
    pytest.importorskip("furo")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "-d", str(tmp_path / "trees"), "docs"]
    done = subprocess.run([*command, str(tmp_path / "site")], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    site = tmp_path / "site"
    pages = {str(path.relative_to(ROOT / "docs").with_suffix(".html")) for path in (ROOT / "docs").rglob("*.md")}
    assert not [page for page in pages if not (site / page).is_file()]
    assert "fusions.Result" in (site / "api.html").read_text()
