"""Figures of a Result: posterior, run, insertion ranks, levels.

Every function returns a `matplotlib.figure.Figure` made without pyplot, so no window opens and no backend
changes. Show one in a notebook by naming it, or write it with ``figure.savefig("name.png")``. Colours are
Okabe and Ito's.
"""

from pathlib import Path

import numpy as np

from fusions.errors import OptionError
from fusions.table import with_error

BLUE, ORANGE, RED, GREEN, GREY = "#0072B2", "#E69F00", "#D55E00", "#009E73", "#666666"
MOST_COLUMNS = 8
MOST_DRAWS = 2000
FEWEST_DRAWS = 50
NAMES = {
    "acceptance": "acceptance of moves",
    "efficiency": "replacements per call",
    "loss": "held-out loss of the flow",
    "scale": "step scale",
    "unique": "unique live points",
    "memory": "memory of parents (rank correlation)",
    "effort": "length of walks (factor)",
    "unmoved": "share of replacements that never moved",
}


def _figure(width, height, layout="constrained"):
    """Make an empty figure (inches) that no pyplot state knows of."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout=layout)


def _tidy(ax):
    """Remove what carries no information from a pair of axes."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(color="0.92", linewidth=0.8)
    ax.set_axisbelow(True)


def _message(text):
    """Make a small figure that says why there is nothing to show."""
    figure = _figure(6, 2)
    figure.text(0.5, 0.5, text, ha="center", va="center", color=GREY)
    return figure


def _title(result):
    """Name of the problem and evidence, in the figure's words."""
    name = result.info.get("name")
    logZ = with_error(result.logZ, result.logZ_err).replace("+-", r"\pm")
    return f"{name}: " * bool(name) + rf"$\ln Z = {logZ}$"


def _chosen(result, params):
    """Return the columns to show: those asked for, else the parameters that vary, at most eight."""
    if params is None:
        varies = np.ptp(result.theta, axis=0) > 0
        return [n for i, n in enumerate(result.names[: result.n_params]) if varies[i]][:MOST_COLUMNS]
    unknown = [p for p in params if p not in result.names]
    if isinstance(params, str) or unknown or not len(params):
        raise OptionError(f"Expected a list out of {list(result.names)}, got {params!r}. Type params=['name', ...].")
    return list(params)


def corner(result, params=None):
    """Draw one- and two-dimensional posteriors with 68 % and 95 % regions on anesthetic's axes.

    Parameters
    ----------
    result : Result.
    params : list of names; default the parameters that vary, at most the first eight.

    Returns
    -------
    matplotlib.figure.Figure
    """
    from anesthetic import make_2d_axes
    from anesthetic.utils import temporary_seed

    chosen = _chosen(result, params)
    if not chosen or result.ess < 1:
        return _message("No posterior to show: no parameter varies, or no point has a finite log L.")
    draws = result.equal_weights(min(max(int(result.ess), FEWEST_DRAWS), MOST_DRAWS))
    columns = {p: draws[:, result.names.index(p)] for p in chosen}
    few = min(len(np.unique(column)) for column in columns.values()) < FEWEST_DRAWS
    labels = result.samples().get_labels_map().to_dict()
    size = max(4.5, 1.6 * len(chosen) + 1.2)
    figure = _figure(size, size, layout=None)
    _, axes = make_2d_axes(chosen, labels=labels, fig=figure, upper=len(chosen) > 1 and not few)
    with temporary_seed(0):
        for y, row in axes.iterrows():
            for x, ax in row.dropna().items():
                _draw_corner_cell(ax, columns[x], columns[y], few)
    if len(chosen) == 1:
        axes.iloc[0, 0].set_ylabel("posterior density")
    _finish_corner(figure, axes, _title(result))
    return figure


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


def _finish_corner(figure, axes, title):
    """Thin out ticks, align labels and set the title above the grid."""
    for _, row in axes.iterrows():
        for ax in row.dropna():
            ax.tick_params(labelsize=8)
            for axis in (ax.xaxis, ax.yaxis):
                if len(axis.get_ticklabels()):
                    axis.set_major_formatter("{x:.10g}")
            ax.tick_params(axis="x", labelrotation=45)
            ax.xaxis.label.set_size(11)
            ax.yaxis.label.set_size(11)
    figure.suptitle(title, fontsize=11, y=0.985)
    inches = figure.get_size_inches()[0]
    figure.subplots_adjust(left=0.85 / inches, bottom=0.85 / inches, right=1 - 0.2 / inches, top=1 - 0.45 / inches)
    figure.align_labels()


def _draw_mass(ax, evidence):
    """Draw the posterior mass per unit of -ln X, and the information as a line."""
    bins = min(80, 10 + len(evidence.logX) // 50)
    mass, edges = np.histogram(-evidence.logX, bins=bins, weights=np.exp(evidence.logw))
    density = mass / np.diff(edges)
    ax.stairs(density, edges, fill=True, color=BLUE, alpha=0.35)
    ax.stairs(density, edges, color=BLUE)
    ax.axvline(evidence.D_KL, color=GREY, linestyle="--", linewidth=1, label=r"$D_\mathrm{KL}$")
    ax.legend(loc="upper left", frameon=False)
    ax.set_xlabel(r"$-\ln X$ (compression of the prior)")
    ax.set(ylabel="posterior mass\nper unit", ylim=(0, None))


def run_plot(result):
    """Draw log L against -ln X, coloured by posterior weight, above the posterior mass per unit of ln X.

    The peak of the mass must lie well inside of the run; if the last points still rise, the run is too short.
    """
    evidence, logL = result.evidence, result.logL
    shown = np.isfinite(logL)
    if not np.isfinite(result.logZ) or shown.sum() < 2:
        return _message("No run to show: fewer than two points have a finite log L.")
    figure = _figure(7, 5.5)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(2.2, 1))
    weight = np.exp(evidence.logw - np.max(evidence.logw))
    order = np.flatnonzero(shown)[np.argsort(weight[shown], kind="stable")]
    dots = top.scatter(
        -evidence.logX[order],
        logL[order],
        c=weight[order],
        s=6,
        cmap="viridis",
        vmin=0,
        vmax=1,
        rasterized=True,
    )
    figure.colorbar(dots, ax=top, label="posterior weight / largest", pad=0.01)
    live = np.arange(len(logL)) >= len(logL) - result.n_live
    hidden = _limit_logL(top, logL[shown], evidence.logw[shown]) + np.count_nonzero(~shown)
    top.plot(
        -evidence.logX[live & shown],
        logL[live & shown],
        "|",
        color=RED,
        markersize=5,
        label="final live points",
    )
    top.legend(loc="lower right", frameon=False, title=f"{hidden:,} points lie below" if hidden else None)
    top.set(ylabel=r"$\ln L$", title=_title(result))
    _draw_mass(bottom, evidence)
    for ax in (top, bottom):
        _tidy(ax)
    return figure


def _limit_logL(ax, logL, logw):
    """Cut the axis of log L below where the posterior lives; return the number of points out of sight."""
    order = np.argsort(logL)
    cumulative = np.cumsum(np.exp(logw[order]))
    start = logL[order][np.searchsorted(cumulative, 0.005 * cumulative[-1])]
    peak = logL.max()
    low = max(logL.min(), peak - 6 * max(peak - start, 1.0))
    pad = 0.04 * max(peak - low, 1.0)
    ax.set_ylim(low - pad, peak + pad)
    return int(np.count_nonzero(logL < low - pad))


def insertion_plot(result):
    """Draw the histogram of insertion ranks with the bands of 68 % and 95 % of bars if all is well.

    A slope or a cup means that replacements do not sample the constrained prior, and that ln Z is biased.
    """
    from scipy.stats import binom

    uniforms = result.insertion_uniforms
    if result.insertion_pvalue is None:
        return _message(f"No insertion ranks to show: {len(uniforms)} replacements, 20 are needed.")
    bins = int(np.clip(len(uniforms) // 50, 5, 40))
    figure = _figure(6, 3.8)
    ax = figure.subplots()
    for level, alpha in ((0.95, 0.18), (0.68, 0.3)):
        band = binom.interval(level, len(uniforms), 1 / bins)
        ax.axhspan(*band, color=GREY, alpha=alpha, linewidth=0, label=f"{100 * level:.0f} % of bars if unbiased")
    counts, edges = np.histogram(uniforms, bins=bins, range=(0, 1))
    ax.stairs(counts, edges, color=BLUE, linewidth=1.8, baseline=None, label="replacements")
    ax.axhline(len(uniforms) / bins, color=GREY, linestyle="--", linewidth=1)
    spread = max(np.max(np.abs(counts - len(uniforms) / bins)), 3 * np.sqrt(len(uniforms) / bins))
    middle = len(uniforms) / bins
    ax.set(xlim=(0, 1), ylim=(max(0, middle - 1.15 * spread), middle + 1.6 * spread))
    ax.set(xlabel="insertion rank among live points (0 lowest, 1 highest)", ylabel="replacements per bar")
    ax.set_title(f"{len(uniforms):,} replacements: p = {result.insertion_pvalue:.2g} against uniform")
    ax.legend(loc="upper center", ncols=3, frameon=False, fontsize=8, columnspacing=1.2)
    ax.spines[["top", "right"]].set_visible(False)
    return figure


def _level_efficiency(result):
    """Return replacements per call of each level, from births at its contour and differences of n_calls."""
    trace = result.level_trace
    if "efficiency" in trace or not {"logL", "n_calls"} <= set(trace):
        return None
    births = np.sort(result.logL_birth[~np.isnan(result.logL_birth)])
    contour = np.asarray(trace["logL"], np.float64)
    replaced = np.searchsorted(births, contour, "right") - np.searchsorted(births, contour, "left")
    calls = np.diff(np.asarray(trace["n_calls"], np.float64), prepend=np.nan)
    return np.divide(replaced, calls, out=np.full(len(calls), np.nan), where=calls > 0)


def level_plot(result):
    """Draw efficiency, loss and every other quantity of `level_trace` against the prior's compression."""
    trace = dict(result.level_trace)
    efficiency = _level_efficiency(result)
    if efficiency is not None and np.nansum(efficiency) > 0:
        trace = {"efficiency": efficiency, **trace}
    first = [k for k in ("efficiency", "loss", "acceptance") if k in trace]
    keys = first + [k for k in trace if k not in (*first, "logX", "logL", "n_calls")]
    keys = [k for k in keys if np.any(np.isfinite(np.asarray(trace[k], np.float64)))]
    if not keys:
        return _message("No levels to show: the run has no level trace (merged runs keep none).")
    columns = min(2, len(keys))
    rows = -(-len(keys) // columns)
    figure = _figure(4.2 * columns + 0.4, 2.1 * rows + 0.7)
    axes = figure.subplots(rows, columns, squeeze=False, sharex="logX" in trace).ravel()
    for ax, key in zip(axes, keys, strict=False):
        _draw_level(ax, key, trace)
    for ax in axes[len(keys) :]:
        ax.set_axis_off()
    label = r"$-\ln X$ (compression of the prior)" if "logX" in trace else "level"
    for ax in axes[max(len(keys) - columns, 0) : len(keys)]:
        ax.set_xlabel(label)
        ax.tick_params(labelbottom=True)
    figure.suptitle(_title(result), fontsize=11)
    return figure


def _draw_level(ax, key, trace):
    """Draw one quantity, all levels as dots and their running median as a line."""
    values = np.asarray(trace[key], np.float64)
    values = values.reshape(len(values), -1)
    has_logX = "logX" in trace and len(trace["logX"]) == len(values)
    x = -np.asarray(trace["logX"]) if has_logX else np.arange(len(values))
    half = max(len(values) // 40, 1)
    for column, color in zip(values.T, (BLUE, ORANGE, GREEN, RED), strict=False):
        ax.plot(x, column, ".", color=color, markersize=2.5, alpha=0.35)
        middle = [
            np.nanmedian(part) if np.any(np.isfinite(part)) else np.nan
            for part in (column[max(i - half, 0) : i + half + 1] for i in range(len(column)))
        ]
        ax.plot(x, middle, color=color, linewidth=1.6)
    ax.set_title(NAMES.get(key, key.replace("_", " ")), fontsize=10)
    if np.nanmin(values) >= 0:
        ax.set_ylim(0, 1.1 * np.nanmax(values) or 1.0)
    _tidy(ax)


def save_all(result, directory):
    """Write corner.png, run.png, insertion.png and levels.png into a folder.

    Returns
    -------
    list of the paths written.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    drawings = {"corner": corner, "run": run_plot, "insertion": insertion_plot, "levels": level_plot}
    paths = [directory / f"{name}.png" for name in drawings]
    for path, draw in zip(paths, drawings.values(), strict=True):
        draw(result).savefig(path, dpi=150)
    return paths
