"""The page that a user wants first, and all figures of a result in a folder."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from fusions.plot.base import GREY, RED, chosen_columns, message, new_figure, title_of
from fusions.plot.course import can_show_run, draw_insertion, draw_run, insertion_plot, run_plot
from fusions.plot.estimates import budget_plot, draw_evidence, evidence_plot
from fusions.plot.levels import level_plot
from fusions.plot.posterior import corner, draw_corner

ON_PAGE = 5  # columns of the corner
FIGURES = {
    "page": lambda result: page(result),
    "corner": corner,
    "run": run_plot,
    "evidence": evidence_plot,
    "insertion": insertion_plot,
    "levels": level_plot,
    "budget": budget_plot,
}


def page(result: Any, params: Sequence[str] | None = None) -> Figure:
    """Draw on one page what to look at first: posterior, estimates of ln Z, the course of the run, insertion ranks, cost, warnings.

    Parameters
    ----------
    result : Result.
    params : list of names for the corner; default the first five parameters that vary.

    Returns
    -------
    matplotlib.figure.Figure
    """
    chosen = chosen_columns(result, params)
    chosen = chosen[:ON_PAGE] if params is None else chosen
    if not chosen or result.ess < 1 or not can_show_run(result):
        return message("Nothing to show: no parameter varies, or no point has a finite log L.")
    figure = new_figure(14, 9, layout=None)
    left = figure.add_gridspec(1, 1, left=0.06, right=0.48, top=0.88, bottom=0.13)
    draw_corner(figure, result, chosen, left[0])
    rows: Any = figure.add_gridspec(3, 1, left=0.575, right=0.97, top=0.88, bottom=0.13, height_ratios=(1, 2.5, 1.2), hspace=0.45)
    evidence, ranks = figure.add_subplot(rows[0]), figure.add_subplot(rows[2])
    top, bottom = (figure.add_subplot(cell) for cell in rows[1].subgridspec(2, 1, height_ratios=(2, 1), hspace=0.1))
    draw_evidence(evidence, result)
    draw_run(top, bottom, result)
    top.sharex(bottom)
    top.tick_params(labelbottom=False)
    if result.insertion_pvalue is None:
        ranks.set_axis_off()
        ranks.text(0.5, 0.5, "too few replacements for insertion ranks", ha="center", color=GREY)
    else:
        draw_insertion(ranks, result)
    _write_words(figure, result)
    return figure


def _write_words(figure, result):
    """Set title and cost above, warnings below."""
    figure.text(0.06, 0.945, title_of(result), fontsize=17)
    total = result.seconds.get("total", 0.0)
    cost = f"{result.status.value}   {result.n_calls:,} likelihood calls, {total:.1f} s, {result.ess:,.0f} effective posterior points"
    figure.text(0.06, 0.915, cost, fontsize=10, color=GREY)
    notes = [*result.headline.warnings, *result.info.get("warnings", ())]
    lines = [line for note in notes for line in textwrap.wrap(f"! {note}", 190)]
    if len(lines) > 3:
        lines = [*lines[:2], f"... and more: print(result) shows all {len(notes)} warnings"]
    figure.text(0.06, 0.07, "\n".join(lines), fontsize=9, color=RED, va="top")


def save_all(result: Any, directory: str | Path) -> list[Path]:
    """Write page, corner, run, evidence, insertion, levels and budget as png into a folder.

    Returns
    -------
    list of the paths written.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    paths = [directory / f"{name}.png" for name in FIGURES]
    for path, draw in zip(paths, FIGURES.values(), strict=True):
        draw(result).savefig(path, dpi=150)
    return paths
