"""Python blocks of the pages on other packages run as they stand, in the order of the page and in one namespace.

Add a page to `PAGES`, with the packages that it needs beside fusions.
"""

import importlib.util
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
PAGES = {"bilby.md": ("bilby",), "cobaya.md": ("cobaya",), "numpyro.md": ("numpyro",)}
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page):
    """Return [(number of the line before, code)] of a page."""
    text = (DOCS / page).read_text()
    return [(text.count("\n", 0, found.start(1)), found.group(1)) for found in BLOCK.finditer(text)]


@pytest.mark.parametrize("page", PAGES)
def test_code_of_a_page_runs(page, tmp_path, monkeypatch, capsys):
    missing = [name for name in PAGES[page] if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"{page} needs {', '.join(missing)}")
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "page"}
    found = blocks(page)
    assert found, f"{page} has no block of Python"
    for line, code in found:
        exec(compile("\n" * line + code, str(DOCS / page), "exec"), namespace)  # an error names the line of the page
    assert capsys.readouterr().out
