"""Tutorials: the committed notebooks are those of the scripts, whole and without errors; executing them is a longer test."""

import importlib.util
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")

FOLDER = Path(__file__).parents[2] / "docs" / "tutorials"
spec = importlib.util.spec_from_file_location("make_tutorials", FOLDER / "make.py")
make = importlib.util.module_from_spec(spec)
spec.loader.exec_module(make)


@pytest.mark.parametrize("name", make.NAMES)
def test_notebook_is_that_of_its_script(name):
    committed = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    assert [(cell.cell_type, cell.source) for cell in committed.cells] == [
        (cell.cell_type, cell.source) for cell in make.notebook(name).cells
    ]
    code = [cell for cell in committed.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 2


@pytest.mark.slow
@pytest.mark.parametrize("name", make.NAMES)
def test_notebook_runs(name):
    assert make.execute(name).cells[-1].execution_count
