"""The course of a run: contours against volumes, insertion ranks."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fusions.plot.base import BLUE, GREY, RED, message, new_figure, tidy, title_of


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


def run_plot(result: Any) -> Figure:
    """Draw log L against -ln X, coloured by posterior weight, above the posterior mass per unit of ln X.

    The peak of the mass must lie well inside of the run; if the last points still rise, the run is too short.
    """
    if not can_show_run(result):
        return message("No run to show: fewer than two points have a finite log L.")
    figure = new_figure(7, 5.5)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(2.2, 1))
    draw_run(top, bottom, result)
    top.set_title(title_of(result))
    return figure


def can_show_run(result: Any) -> bool:
    """Decide whether there are points to draw."""
    return bool(np.isfinite(result.evidence.logZ) and np.isfinite(result.replay.logL).sum() >= 2)


def draw_run(top: Axes, bottom: Axes, result: Any) -> None:
    """Draw the points of a run into the upper axes, its posterior mass into the lower ones.

    Parameters
    ----------
    top, bottom : axes.
    result : Result with at least two points of finite log L.
    """
    evidence, logL, n_live = result.replay.evidence, result.replay.logL, result.replay.n_live
    shown = np.isfinite(logL)
    weight = np.exp(evidence.logw - np.max(evidence.logw))
    order = np.flatnonzero(shown)[np.argsort(weight[shown], kind="stable")]
    look: dict[str, Any] = {"s": 6, "cmap": "viridis", "vmin": 0, "vmax": 1, "rasterized": True}
    dots = top.scatter(-evidence.logX[order], logL[order], c=weight[order], **look)
    top.figure.colorbar(dots, ax=[top, bottom], label="posterior weight / largest", pad=0.01)
    live = np.arange(len(logL)) >= len(logL) - n_live
    hidden = _limit_logL(top, logL[shown], evidence.logw[shown]) + np.count_nonzero(~shown)
    look = {"color": RED, "markersize": 5, "label": "final live points"}
    top.plot(-evidence.logX[live & shown], logL[live & shown], "|", **look)
    top.legend(loc="lower right", frameon=False, title=f"{hidden:,} points lie below" if hidden else None)
    top.set_ylabel(r"$\ln L$")
    _draw_mass(bottom, evidence)
    for ax in (top, bottom):
        tidy(ax)


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


def insertion_plot(result: Any) -> Figure:
    """Draw the histogram of insertion ranks with the bands of 68 % and 95 % of bars if all is well.

    A slope or a cup means that replacements do not sample the constrained prior, and that ln Z is biased.
    """
    if result.insertion_pvalue is None:
        return message(f"No insertion ranks to show: {len(result.insertion_uniforms)} replacements, 20 are needed.")
    figure = new_figure(6, 3.8)
    draw_insertion(figure.subplots(), result)
    return figure


def draw_insertion(ax: Axes, result: Any) -> None:
    """Draw the insertion ranks into axes."""
    from scipy.stats import binom

    uniforms = result.insertion_uniforms
    bins = int(np.clip(len(uniforms) // 50, 5, 40))
    for level, alpha in ((0.95, 0.18), (0.68, 0.3)):
        band = binom.interval(level, len(uniforms), 1 / bins)
        ax.axhspan(*band, color=GREY, alpha=alpha, linewidth=0, label=f"{100 * level:.0f} % of bars if unbiased")
    counts, edges = np.histogram(uniforms, bins=bins, range=(0, 1))
    ax.stairs(counts, edges, color=BLUE, linewidth=1.8, baseline=None, label="replacements")
    middle = len(uniforms) / bins
    ax.axhline(middle, color=GREY, linestyle="--", linewidth=1)
    spread = max(np.max(np.abs(counts - middle)), 3 * np.sqrt(middle))
    ax.set(xlim=(0, 1), ylim=(max(0, middle - 1.15 * spread), middle + 1.6 * spread))
    ax.set(xlabel="insertion rank among live points (0 lowest, 1 highest)", ylabel="replacements")
    ax.set_title(f"{len(uniforms):,} replacements: p = {result.insertion_pvalue:.2g} against uniform", fontsize=11)
    ax.legend(loc="upper center", ncols=3, frameon=False, fontsize=8, columnspacing=1.2)
    ax.spines[["top", "right"]].set_visible(False)
