"""What the scripts of the paper's figures share: rows, colours, files."""

import json
import sys
from pathlib import Path

from matplotlib.figure import Figure

HERE = Path(__file__).parent
CALIBRATION = HERE.parents[1] / "docs" / "results" / "calibration.jsonl"
sys.path[:0] = [str(HERE.parent), str(HERE.parents[1] / "tests"), str(HERE.parents[1] / "examples")]

import benchmark  # noqa: E402, F401
import oracles  # noqa: E402, F401

COLORS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#999999", "#000000", "#F0E442")
MARKERS = "os^Dv<>Ph"
LOOKS = [{"color": c, "marker": m, "markersize": 4.5, "linestyle": "-", "linewidth": 1.3} for c, m in zip(COLORS, MARKERS, strict=True)]


def rows(path):
    """Read the rows of a file of JSON lines; none if it is missing."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def new(width, height):
    """Make an empty figure (inches)."""
    return Figure(figsize=(width, height), layout="constrained")


def save(figure, name):
    """Write a figure beside the scripts."""
    path = HERE / f"{name}.png"
    figure.savefig(path, dpi=200, metadata={"Software": None})
    print(path.name)
