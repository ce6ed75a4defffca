"""The layers: who may import whom, deferred imports included, and which file is the door to which library."""

import ast
import subprocess
import sys
from fnmatch import fnmatch
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
GROUND = {"types", "errors", "numerics", "quantiles"}
PRIORS = {"priors", "blocks", "distributions"}
METROPOLIS = GROUND | {"kernels.base", "kernels.metropolis"}
FLOW_PARTS = {"flows.base", "flows.path"}
PACKAGE = "fusions"  # its own __init__

ALLOWED = {
    PACKAGE: set(),
    "layout": set(),
    "types": {"layout"},
    "errors": {"types"},
    "numerics": {"types"},
    "quantiles": {"errors", "numerics", "types"},
    "distributions": GROUND,
    "blocks": GROUND | {"distributions"},
    "priors": GROUND | {"blocks", "distributions"},
    "problem": GROUND | {"priors"},
    "edges": GROUND,
    "resolution": {"errors", "numerics", "problem"},
    "flows": set(),
    "flows.base": GROUND,
    "flows.network": GROUND,
    "flows.path": GROUND,
    "flows.coupling": GROUND | {"flows.path"},
    "flows.transport": GROUND,
    "flows.matching": GROUND | FLOW_PARTS | {"flows.coupling"},
    "flows.cnf": GROUND | FLOW_PARTS | {"flows.coupling", "flows.matching", "flows.network", "flows.transport"},
    "kernels": {"kernels.combine", "kernels.flow", "kernels.hit_and_run", "kernels.jump", "kernels.random_walk"},
    "kernels.base": GROUND,
    "kernels.metropolis": GROUND | {"kernels.base"},
    "kernels.random_walk": METROPOLIS,
    "kernels.hit_and_run": GROUND | {"kernels.base", "kernels.random_walk"},
    "kernels.combine": GROUND | {"kernels.base"},
    "kernels.drive": GROUND | {"kernels.base"},
    "kernels.flow": METROPOLIS | {"flows.cnf"},
    "kernels.hamiltonian": {"numerics"},
    "kernels.jump": METROPOLIS | {"flows.cnf", "flows.components", "flows.matching", "flows.path"},
    "flows.components": GROUND | {"flows.path"},
    "flows.density": GROUND | {"flows.components"},
    "flows.mixture": GROUND | FLOW_PARTS
    | {"flows.cnf", "flows.components", "flows.density", "flows.matching", "flows.network", "flows.transport"},
    "evidence": {"numerics"},
    "estimators": {"numerics"},
    "headline": {"estimators"},
    "storage": {"errors", "numerics"},
    "table": {"errors", "numerics"},
    "exports": {"errors", "storage"},
    "notebook": {"errors", "table"},
    "result": {"errors", "evidence", "exports", "headline", "notebook", "numerics", "plot.page", "storage", "table"},
    "merging": {"errors", "estimators", "headline", "result", "table"},
    "ledger": GROUND | {"evidence"},
    "progress": GROUND,
    "tasks": {"errors"},
    "processes": {"errors", "tasks"},
    "pool": {"errors", "processes", "tasks"},
    "evaluate": {"errors", "layout", "pool", "tasks"},
    "hosts": {"errors", "layout"},
    "algorithms": set(),
    "algorithms.nested": {"evidence", "kernels.base", "types"},
    "algorithms.chains": {"numerics", "types"},
    "algorithms.laplace": set(),
    "algorithms.modes": {"algorithms.laplace", "evidence", "numerics", "types"},
    "algorithms.training": {"evidence", "numerics"},
    "algorithms.refine": {
        "algorithms.chains", "algorithms.modes", "algorithms.training", "estimators", "evidence", "flows.mixture", "kernels", "numerics",
    },
    "engine": {
        "algorithms.refine", "edges", "evaluate", "flows.density", "kernels.base", "kernels.drive", "kernels.hamiltonian", "layout",
        "types",
    },
    "again": {
        "algorithms", "algorithms.refine", "edges", "engine", "errors", "estimators", "evaluate", "flows.density", "numerics", "problem",
    },
    "hot": {"blocks", "engine", "errors", "flows.cnf", "flows.components", "flows.matching", "numerics", "priors", "problem", "tasks"},
    "begin": {"algorithms.nested", "errors", "evaluate", "evidence", "numerics"},
    "checkpoint": {"errors", "storage"},
    "signals": set(),
    "schedule": {"algorithms", "algorithms.nested"},
    "resume": {PACKAGE, "algorithms", "algorithms.nested", "errors", "evaluate", "evidence", "ledger", "numerics"},
    "programs": {"errors"},
    "session": {
        PACKAGE, "again", "algorithms", "algorithms.nested", "algorithms.refine", "begin", "engine", "errors", "evaluate", "ledger",
        "numerics", "programs", "progress", "resolution", "result", "resume", "schedule",
    },
    "driver": {
        PACKAGE, "algorithms", "algorithms.nested", "algorithms.refine", "checkpoint", "errors", "evaluate", "hosts", "kernels",
        "kernels.base", "numerics", "problem", "programs", "progress", "resume", "schedule", "session", "signals",
    },
    "adapters": {"adapters.numpyro"},
    "adapters.options": {"driver", "errors", "kernels"},
    "adapters.numpyro": {"blocks", "distributions", "errors", "numerics", "priors", "problem", "quantiles"},
    "adapters.bilby": {"adapters.options", "blocks", "distributions", "driver", "errors", "priors", "problem"},
    "adapters.cobaya": {PACKAGE, "adapters.options", "blocks", "distributions", "driver", "errors", "priors", "problem"},
    "plot": {"plot.course", "plot.estimates", "plot.levels", "plot.motion", "plot.page", "plot.posterior"},
    "plot.base": {"errors", "table"},
    "plot.posterior": {"plot.base"},
    "plot.course": {"plot.base"},
    "plot.levels": {"plot.base"},
    "plot.estimates": {"errors", "plot.base"},
    "plot.motion": {"errors", "plot.base", "storage"},
    "plot.page": {"plot.base", "plot.course", "plot.estimates", "plot.levels", "plot.posterior"},
    "verify": {PACKAGE, "checkpoint", "errors", "result", "storage"},
    "cli": {PACKAGE, "checkpoint", "driver", "errors", "exports", "plot", "problem", "result", "signals", "storage", "verify"},
}  # fmt: skip

# library: files that may import it, whether only inside functions
DOORS = {
    "flax": (("flows.network",), False),
    "optax": (("flows.matching",), False),
    "diffrax": (("flows.transport",), False),
    "anesthetic": (("result", "plot.posterior", "storage"), True),
    "arviz": (("exports",), True),
    "getdist": (("exports",), True),
    "tqdm": (("progress",), True),
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


def test_table_lists_the_files_that_exist():
    assert set(ALLOWED) == set(FILES)


def test_no_cycle_in_the_table():
    TopologicalSorter({name: allowed - {PACKAGE} for name, allowed in ALLOWED.items()}).prepare()


@pytest.mark.parametrize("name", FILES)
def test_imports_stay_in_their_layer(name):
    unlisted = edges(name) - ALLOWED[name]
    assert not unlisted, f"fusions.{name} imports {sorted(unlisted)}"


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
