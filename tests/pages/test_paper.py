"""The paper's figures rebuild from the committed rows; its PDF is a longer test."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

PAPER = Path(__file__).parents[2] / "paper"
FIGURES = sorted(path.stem for path in (PAPER / "figures").glob("*.py") if path.stem != "common")


@pytest.mark.parametrize("name", FIGURES)
def test_figure_is_drawn(name, monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(PAPER / "figures"))
    for module in ("common", name):
        monkeypatch.delitem(sys.modules, module, raising=False)
    common, figure = __import__("common"), __import__(name)
    monkeypatch.setattr(common, "HERE", tmp_path)
    figure.draw()
    assert (tmp_path / f"{name}.png").stat().st_size > 20_000
    for module in ("common", name):
        monkeypatch.delitem(sys.modules, module)


def test_paper_shows_every_figure_and_cites_what_is_in_the_bibliography():
    text, bibliography = (PAPER / "paper.md").read_text(), (PAPER / "paper.bib").read_text()
    assert sorted(re.findall(r"\(figures/(\w+)\.png\)", text)) == FIGURES
    assert set(re.findall(r"@([A-Z]\w+\d{4})", text)) == set(re.findall(r"@\w+\{(\w+),", bibliography))


@pytest.mark.slow
def test_paper_builds(tmp_path):
    pytest.importorskip("pypandoc")
    pytest.importorskip("typst")
    subprocess.run([sys.executable, PAPER / "build.py", tmp_path / "paper.pdf"], check=True)
    assert (tmp_path / "paper.pdf").read_bytes().startswith(b"%PDF")
