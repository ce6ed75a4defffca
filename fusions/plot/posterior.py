"""The posterior on anesthetic's axes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from fusions.plot.base import BLUE, chosen_columns, message, new_figure, title_of

MOST_DRAWS = 2000
FEWEST_DRAWS = 50


def corner(result: Any, params: Sequence[str] | None = None) -> Figure:
    """Draw one- and two-dimensional posteriors with 68 % and 95 % regions on anesthetic's axes.

    Parameters
    ----------
    result : Result.
    params : list of names; default the parameters that vary, at most the first eight.

    Returns
    -------
    matplotlib.figure.Figure
    """
    chosen = chosen_columns(result, params)
    if not chosen or result.ess < 1:
        return message("No posterior to show: no parameter varies, or no point has a finite log L.")
    size = max(4.5, 1.6 * len(chosen) + 1.2)
    figure = new_figure(size, size, layout=None)
    draw_corner(figure, result, chosen)
    figure.suptitle(title_of(result), fontsize=11, y=0.985)
    figure.subplots_adjust(left=0.85 / size, bottom=0.85 / size, right=1 - 0.2 / size, top=1 - 0.45 / size)
    figure.align_labels()
    return figure


def draw_corner(figure: Figure, result: Any, chosen: Sequence[str], spec: Any = None) -> None:
    """Draw the corner of the chosen columns into a figure, or into the part `spec` of its grid.

    Parameters
    ----------
    figure : Figure; result : Result.
    chosen : names of columns.
    spec : matplotlib's SubplotSpec, or None for the whole figure.
    """
    from anesthetic import make_2d_axes
    from anesthetic.utils import temporary_seed

    draws = result.equal_weights(min(max(int(result.ess), FEWEST_DRAWS), MOST_DRAWS))
    columns = {p: draws[:, result.names.index(p)] for p in chosen}
    few = min(len(np.unique(column)) for column in columns.values()) < FEWEST_DRAWS
    labels = result.samples().get_labels_map().to_dict()
    upper = len(chosen) > 1 and not few
    _, axes = make_2d_axes(chosen, labels=labels, fig=figure, upper=upper, subplot_spec=spec)
    with temporary_seed(0):
        for y, row in axes.iterrows():
            for x, ax in row.dropna().items():
                _draw_corner_cell(ax, columns[x], columns[y], few)
    if len(chosen) == 1:
        axes.iloc[0, 0].set_ylabel("posterior density")
    _thin_out(axes)


def _draw_corner_cell(ax, x, y, few):
    """Draw one cell with anesthetic's primitives: density below, dots above and where points are few."""
    from anesthetic import plot

    finite = np.isfinite(x) & np.isfinite(y)
    x, y = x[finite], y[finite]
    if ax.position == "diagonal":
        draw = plot.hist_plot_1d if few else plot.kde_plot_1d
        draw(ax.twin, x, color=BLUE, q=3)
    elif ax.position == "upper" or few:
        plot.scatter_plot_2d(ax, x, y, color=BLUE, q=3, markersize=3 if few else 1.2, alpha=1 if few else 0.4)
    else:
        plot.kde_contour_plot_2d(ax, x, y, color=BLUE, q=3, ncompress=False, ngrid_kde=500)


def _thin_out(axes):
    """Make ticks and labels small and few enough for a grid."""
    for _, row in axes.iterrows():
        for ax in row.dropna():
            ax.tick_params(labelsize=8)
            for axis in (ax.xaxis, ax.yaxis):
                if len(axis.get_ticklabels()):
                    low, high = sorted(axis.get_view_interval())
                    edge = 0.1 * (high - low)  # a label there would run into the next cell's
                    axis.set_ticks([tick for tick in axis.get_majorticklocs() if low + edge < tick < high - edge])
                    axis.set_major_formatter("{x:.10g}")
            ax.tick_params(axis="x", labelrotation=45)
            ax.xaxis.label.set_size(11)
            ax.yaxis.label.set_size(11)
