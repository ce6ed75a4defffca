"""Figures of a Result.

Every function returns a `matplotlib.figure.Figure` made without pyplot, so no window opens and no backend changes. Show one in a
notebook by naming it, or write it with ``figure.savefig("name.png")``. Colours are Okabe and Ito's.
"""

from fusions.plot.course import insertion_plot, run_plot
from fusions.plot.estimates import budget_plot, evidence_plot
from fusions.plot.levels import level_plot
from fusions.plot.motion import animate, flow_plot
from fusions.plot.page import page, save_all
from fusions.plot.posterior import corner

__all__ = [
    "animate", "budget_plot", "corner", "evidence_plot", "flow_plot", "insertion_plot", "level_plot", "page", "run_plot", "save_all",
]  # fmt: skip
