"""The history of a run, level by level."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from fusions.plot.base import BLUE, GREEN, GREY, ORANGE, RED, message, new_figure, tidy, title_of

NAMES = {
    "acceptance": "acceptance of moves",
    "efficiency": "replacements per call",
    "loss": "held-out loss of the flow",
    "scale": "step scale",
    "unique": "unique live points",
    "parent_correlation": "correlation with parents (ranks)",
    "walk_scale": "length of walks (factor)",
    "unmoved": "share of replacements that never moved",
    "skill": "skill of the flow (0: none)",
}


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


def level_plot(result: Any) -> Figure:
    """Draw efficiency, loss and every other quantity of `level_trace` against the prior's compression."""
    trace = dict(result.level_trace)
    efficiency = _level_efficiency(result)
    if efficiency is not None and np.nansum(efficiency) > 0:
        trace = {"efficiency": efficiency, **trace}
    first = [k for k in ("efficiency", "loss", "acceptance") if k in trace]
    keys = first + [k for k in trace if k not in (*first, "logX", "logL", "n_calls")]
    keys = [k for k in keys if np.any(np.isfinite(np.asarray(trace[k], np.float64)))]
    if not keys:
        return message("No levels to show: the run has no level trace (merged runs keep none).")
    steady = [k for k in keys if k not in first and np.ptp(np.asarray(trace[k], np.float64)[np.isfinite(trace[k])]) == 0]
    keys = [k for k in keys if k not in steady] or steady[:1]
    columns = min(2, len(keys))
    rows = -(-len(keys) // columns)
    figure = new_figure(4.2 * columns + 0.4, 2.1 * rows + 0.7)
    axes = figure.subplots(rows, columns, squeeze=False, sharex="logX" in trace).ravel()
    for ax, key in zip(axes, keys, strict=False):
        _draw_level(ax, key, trace)
    for ax in axes[len(keys) :]:
        ax.set_axis_off()
    label = r"$-\ln X$ (compression of the prior)" if "logX" in trace else "level"
    for ax in axes[max(len(keys) - columns, 0) : len(keys)]:
        ax.set_xlabel(label)
        ax.tick_params(labelbottom=True)
    figure.suptitle(title_of(result), fontsize=11)
    words = [f"{NAMES.get(k, k)} {np.nanmax(trace[k]):.3g}" for k in steady if k not in keys]
    if words:
        figure.supxlabel(f"the same at all levels: {', '.join(words)}", fontsize=8, color=GREY)
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
    tidy(ax)
