"""The layers: which room may import which, deferred imports included, and which file is the door to which library."""

import ast
import subprocess
import sys
from collections import Counter
from fnmatch import fnmatch
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "fusions"  # its own __init__

# room, a folder or a module at the top: the rooms below it that it may import
ROOMS = {
    PACKAGE: set(),
    "errors": set(),
    "numerics": set(),
    "io": {"errors"},
    "parallel": {"errors"},
    "evidence": {"errors", "numerics"},
    "priors": {"errors", "numerics"},
    "report": {"errors", "io"},
    "types": {"numerics", "parallel"},
    "plot": {"errors", "io", "report"},
    "flows": {"numerics", "types"},
    "model": {"errors", "numerics", "parallel", "priors", "types"},
    "results": {"errors", "evidence", "io", "numerics", "plot", "report"},
    "kernels": {"errors", "flows", "numerics", "types"},
    "algorithms.nested": {"errors", "evidence", "model", "numerics", "types"},
    "algorithms.refine": {"evidence", "flows", "kernels", "numerics", "types"},
    "driver": {
        PACKAGE, "algorithms.nested", "algorithms.refine", "errors", "evidence", "flows", "io", "kernels", "model", "numerics",
        "parallel", "priors", "results", "types",
    },
    "adapters": {PACKAGE, "driver", "errors", "kernels", "model", "numerics", "priors"},
    "cli": {PACKAGE, "driver", "errors", "io", "model", "plot", "report", "results"},
}  # fmt: skip
MOST_MODULES = 15  # of a room
TOP = {PACKAGE, "types", "errors", "numerics", "cli"}  # modules outside of any folder

# library: files that may import it, whether only inside functions
DOORS = {
    "flax": (("flows.network",), False),
    "optax": (("flows.matching",), False),
    "diffrax": (("flows.transport",), False),
    "anesthetic": (("results.nested_points", "plot.posterior"), True),
    "arviz": (("report.exports",), True),
    "getdist": (("report.exports",), True),
    "tqdm": (("driver.progress",), True),
    "numpyro": (("adapters.numpyro",), False),
    "bilby": (("adapters.bilby",), False),
    "cobaya": (("adapters.cobaya",), False),
    "matplotlib": (("plot.*",), False),
}


def module_name(path):
    """Return 'flows.cnf' for fusions/flows/cnf.py, 'flows' for its package, 'fusions' for the whole."""
    parts = path.relative_to(ROOT / PACKAGE).with_suffix("").parts
    parts = parts[:-1] if parts[-1] == "__init__" else parts
    return ".".join(parts) or PACKAGE


FILES = {module_name(path): path for path in sorted((ROOT / PACKAGE).rglob("*.py"))}


def room(name):
    """Return the room of a module: its folder, of the algorithms the folder below."""
    return ".".join(name.split(".")[: 2 if name.startswith("algorithms.") else 1])


def targets(node):
    """Return the full names that an import statement takes; 'from a import b' gives a.b where that is a module."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    assert node.level == 0, "imports are absolute"
    full = [f"{node.module}.{alias.name}" for alias in node.names]
    return [name if name.removeprefix(f"{PACKAGE}.") in FILES else node.module for name in full]


def imports(name):
    """Return [(target, deferred)] of a file."""
    found = []

    def visit(node, inside):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            found.extend((target, inside) for target in targets(node))
        inside = inside or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        for child in ast.iter_child_nodes(node):
            visit(child, inside)

    visit(ast.parse(FILES[name].read_text()), inside=False)
    return found


def edges(name):
    """Return the modules of this package that a file imports."""
    own = {target for target, _ in imports(name) if target.split(".")[0] == PACKAGE}
    return {target.removeprefix(f"{PACKAGE}.") for target in own}


def test_table_lists_the_rooms_that_exist():
    assert set(ROOMS) == {room(name) for name in FILES} - {"algorithms"}


def test_no_cycle_in_the_table():
    TopologicalSorter({name: below - {PACKAGE} for name, below in ROOMS.items()}).prepare()


@pytest.mark.parametrize("name", sorted(set(FILES) - {"algorithms"}))
def test_imports_stay_in_their_layer(name):
    unlisted = {room(target) for target in edges(name)} - ROOMS[room(name)] - {room(name)}
    assert not unlisted, f"fusions.{name} imports {sorted(unlisted)}"


def test_the_table_allows_no_more_than_is_used():
    used = {name: set() for name in ROOMS}
    for name in set(FILES) - {"algorithms"}:
        used[room(name)] |= {room(target) for target in edges(name)} - {room(name)}
    assert used == ROOMS


def test_rooms_are_small_and_nothing_stands_outside():
    modules = [name for name in FILES if FILES[name].name != "__init__.py"]
    assert {name for name in modules if "." not in name} | {PACKAGE} == TOP
    crowded = {name: n for name, n in Counter(room(module) for module in modules).items() if n > MOST_MODULES}
    assert not crowded


def test_no_cycle_in_the_files():
    """A package's __init__ counts as imported with each of its modules only where it is imported by name."""
    TopologicalSorter({name: edges(name) for name in FILES}).prepare()


@pytest.mark.parametrize("library", DOORS)
def test_each_library_has_its_door(library):
    files, deferred_only = DOORS[library]
    for name in FILES:
        for target, deferred in imports(name):
            if target.split(".")[0] != library:
                continue
            assert any(fnmatch(name, door) for door in files), f"fusions.{name} imports {target}"
            assert deferred or not deferred_only, f"fusions.{name} imports {target} at its top"


def test_import_is_light():
    """Importing the package loads neither JAX nor anesthetic."""
    heavy = ("jax", "anesthetic", "flax", "matplotlib", "scipy", "numpy", "numpyro", "bilby", "cobaya")
    code = f"import sys, fusions; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"
