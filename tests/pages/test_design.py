"""The page of the design says of folders, types, functions and constants what the code says."""

import ast
import importlib
import inspect
import re
from operator import attrgetter
from pathlib import Path

import pytest
from test_layers import PACKAGE, ROOMS

import fusions

PAGE = Path(__file__).parents[2] / "docs" / "design.md"
MOST_LINES, WIDEST = 250, 140
TEXT = PAGE.read_text()
CONSTANT = r"`([\w.]+) = ([^`]+)`"


def section(title, text=TEXT):
    """Return a section of the page."""
    return re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)[1]


def rows(title):
    """Return the rows of the table in a section, as lists of cells, without its head."""
    lines = [line for line in section(title).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def programs(title):
    """Return the blocks of text in a section."""
    return re.findall(r"^```text\n(.*?)^```$", section(title), re.DOTALL | re.MULTILINE)


def module(path):
    """Import a module of the package by the path of its file."""
    return importlib.import_module(f"{PACKAGE}.{path.removesuffix('.py').replace('/', '.')}")


def constants(text):
    """List (file, name, value) of the constants that a text names, as `a/file.py` `NAME = value` `OTHER = value`."""
    found = re.findall(rf"`([\w/]+\.py)`((?: {CONSTANT})+)", text)
    return [(path, name, ast.literal_eval(value)) for path, names, *_ in found for name, value in re.findall(CONSTANT, names)]


def wrong(listed):
    """List those of the constants that have another value in the code."""
    return [(path, name, value) for path, name, value in listed if attrgetter(name)(module(path)) != value]


def missed(name, body):
    """List the lines of pseudo-code whose names a function does not have, or not in this order."""
    function, at, out = attrgetter(name.split(": ")[1])(module(name.split(": ")[0])), 0, []
    source = inspect.getsource(function).split('"""')[-1]
    for line in body.splitlines():
        for word in re.findall(r"[\w.]+", line.partition("# ")[2]):
            found = re.search(rf"\b{word.split('.')[-1]}\b", source[at:])
            if found is None:
                out.append(line)
            else:
                at += found.end()
    return out


def test_page_is_short():
    lines = TEXT.splitlines()
    assert len(lines) <= MOST_LINES
    assert not [line for line in lines if len(line) > WIDEST]


def test_table_of_folders_is_that_of_the_layers():
    table = {name.strip("`").replace("/", "."): imports for name, imports, _ in rows("Folders")}
    assert set(table) == set(ROOMS) - {PACKAGE}
    before = []
    for name, imports in table.items():
        words = set(re.findall(r"[\w/]+", imports.removeprefix("all above but ")))
        named = {word.replace("/", ".") for word in words}
        assert (set(before) - named if imports.startswith("all above") else named) == ROOMS[name] - {PACKAGE}, name
        before.append(name)


def test_picture_has_each_folder_above_what_it_imports():
    levels = {}
    for i, line in enumerate(programs("Folders")[0].splitlines()):
        levels |= {name: i for name in re.findall(r"[\w/]+", line[:45])}
    levels = {name.replace("/", "."): i for name, i in levels.items()}
    assert set(levels) == set(ROOMS) - {PACKAGE}
    assert not [(name, below) for name in levels for below in ROOMS[name] - {PACKAGE} if levels[below] <= levels[name]]


@pytest.mark.parametrize(("name", "path"), [row[:2] for row in rows("Data types")])
def test_types_are_where_the_page_says(name, path):
    found = getattr(module(path.strip("`")), name.strip("`"))
    assert found.__module__ == module(path.strip("`")).__name__


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("A level", "algorithms/nested/level.py: step"),
        ("The refine phase", "algorithms/refine/phase.py: refine"),
        ("The refine phase", "algorithms/refine/rounds.py: adapt"),
        ("The refine phase", "algorithms/refine/phase.py: _final_draws"),
    ],
)
def test_code_follows_the_pseudo_code(title, name):
    (body,) = [block.removeprefix(f"{name}\n") for block in programs(title) if block.startswith(name)]
    assert len(body.splitlines()) > 4
    assert missed(name, body) == []


def test_pseudo_code_in_another_order_is_told():
    assert missed("algorithms/nested/level.py: step", "a # steer\nb # population\n") == ["b # population"]


def test_constants_are_those_of_the_code():
    listed = constants(section("Constants"))
    assert len(listed) >= 30
    assert len(listed) == section("Constants").count(" = ")
    assert wrong(listed) == []


def test_a_wrong_constant_is_told():
    line = "| `algorithms/refine/settings.py` `FITS = 5` `BATCH = 256` | rows |"
    assert wrong(constants(line)) == [("algorithms/refine/settings.py", "FITS", 5)]


def test_files_that_the_page_names_exist():
    root = PAGE.parents[1]
    named = set(re.findall(r"`([\w/]+\.(?:py|toml))`", TEXT))
    assert not [name for name in named if not ((root / name).is_file() or (root / PACKAGE / name).is_file())]


def test_at_most_25_decisions_of_one_line():
    lines = section("Decisions that stand").strip().splitlines()
    assert len(lines) <= 25
    assert all(line.startswith("- ") for line in lines)


def test_page_of_failures_is_short():
    assert len((PAGE.parent / "failure.md").read_text().split()) <= 400


def unknown(line):
    """List the names in a row of CONTRIBUTING.md that none of the files in it has."""
    spans, root = re.findall(r"`([^`]+)`", line), PAGE.parents[1]
    files = [s for s in spans if re.fullmatch(r"[a-z_/]+\.py", s)]
    texts = [next(f for f in (root / name, root / PACKAGE / name) if f.is_file()).read_text() for name in files]
    names = [s for s in spans if re.fullmatch(r"[A-Za-z_.]+", s) and s not in [*files, *fusions.__all__]]
    return [s for s in names if not any(re.search(rf"\b{s.split('.')[-1]}\b", text) for text in texts)]


def test_files_and_names_in_the_answers_of_contributing_exist():
    lines = [line for line in (PAGE.parents[1] / "CONTRIBUTING.md").read_text().splitlines() if line.startswith("| a")]
    assert len(lines) == 10
    assert not [name for line in lines for name in unknown(line)]


def test_an_unknown_name_is_told():
    assert unknown("| an export | `FORMS` and `export` of `report/exports.py` |") == ["FORMS"]
