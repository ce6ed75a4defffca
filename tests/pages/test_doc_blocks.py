"""The Python blocks of documentation pages run from top to bottom, each page in one namespace, with settings that are quick."""

import functools
import re
from pathlib import Path

import pytest

import fusions
from fusions.flows.matching import Training
from fusions.flows.mixture import MixtureCNF

DOCS = Path(__file__).parents[2] / "docs"
PAGES = ["quickstart", "settings", "migration", *(f"guides/{path.stem}" for path in sorted((DOCS / "guides").glob("*.md")))]
FLOW = MixtureCNF(components=4, width=16, depth=1, ode_steps=2, training=Training(steps=10, rounds=1, batch=128))
QUICK = fusions.Refine(max_rounds=2, max_draws=2048, flow=FLOW)
REFINED = ("guides/reanalysis",)  # pages that need flows: a longer test
LEAST = {"quickstart": 4, "settings": 1, "migration": 1}  # blocks that a page must have, lest none is found


def blocks(page):
    """Return (line, code) of the Python blocks of a page."""
    text = (DOCS / f"{page}.md").read_text()
    return [(text[: m.start()].count("\n") + 2, m[1]) for m in re.finditer(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)]


@pytest.fixture
def quick(request, monkeypatch, tmp_path):
    """Use few live points, slices and a small refine phase, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    few = fusions.nested

    def nested(**options):
        return few(**{**options, "n_live": 40, "kernel": options.get("kernel") or fusions.kernels.HitAndRun()})

    monkeypatch.setattr(fusions, "nested", nested, raising=False)
    refine = QUICK if request.node.callspec.params["page"] in REFINED else False
    monkeypatch.setattr(fusions, "run", functools.partial(fusions.run, progress=False, refine=refine), raising=False)
    monkeypatch.setattr(fusions, "attach", functools.partial(fusions.attach, refine=QUICK), raising=False)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("page", [pytest.param(page, marks=pytest.mark.slow) if page in REFINED else page for page in PAGES])
def test_blocks_run(page):
    found = blocks(page)
    assert len(found) >= LEAST.get(page, 1)
    namespace = {"__name__": "docs"}
    for line, code in found:
        exec(compile("\n" * (line - 1) + code, f"docs/{page}.md", "exec"), namespace)
