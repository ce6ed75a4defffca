"""What all figures share: colours, empty figures, words."""

import io
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fusions.errors import OptionError
from fusions.report.table import with_error

BLUE, ORANGE, RED, GREEN, GREY = "#0072B2", "#E69F00", "#D55E00", "#009E73", "#666666"
MOST_COLUMNS = 8


class Picture(Figure):
    """A figure that no pyplot state knows of, and that notebooks show all the same."""

    def _repr_png_(self):
        """Return the picture as a notebook wants it."""
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=80)
        return buffer.getvalue()


def new_figure(width: float, height: float, layout: Literal["constrained"] | None = "constrained") -> Figure:
    """Make an empty figure.

    Parameters
    ----------
    width, height : in inches.
    layout : of matplotlib; None for places that the caller sets.
    """
    figure = Picture(figsize=(width, height), layout=layout)
    FigureCanvasAgg(figure)
    return figure


def tidy(ax: Axes) -> None:
    """Remove what carries no information from a pair of axes."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(color="0.92", linewidth=0.8)
    ax.set_axisbelow(True)


def message(text: str) -> Figure:
    """Make a small figure that says why there is nothing to show."""
    figure = new_figure(6, 2)
    figure.text(0.5, 0.5, text, ha="center", va="center", color=GREY)
    return figure


def title_of(result: Any) -> str:
    """Name of the problem and evidence, in the figure's words."""
    name = result.info.get("name")
    logZ = with_error(result.logZ, result.logZ_err).replace("+-", r"\pm")
    return f"{name}: " * bool(name) + rf"$\ln Z = {logZ}$"


def chosen_columns(result: Any, params: Sequence[str] | None) -> list[str]:
    """Return the columns to show: those asked for, else the parameters that vary, at most eight."""
    if params is None:
        varies = np.ptp(result.theta, axis=0) > 0
        return [n for i, n in enumerate(result.names[: result.n_params]) if varies[i]][:MOST_COLUMNS]
    unknown = [p for p in params if p not in result.names]
    if isinstance(params, str) or unknown or not len(params):
        raise OptionError(f"Expected a list out of {list(result.names)}, got {params!r}. Type params=['name', ...].")
    return list(params)
