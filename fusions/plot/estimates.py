"""Estimates of ln Z side by side, and what their errors and their time are made of."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fusions.errors import OptionError
from fusions.plot.base import BLUE, GREEN, GREY, ORANGE, RED, message, new_figure, tidy, title_of

CLOCKS = {"compile": "#56B4E9", "likelihood": BLUE, "training": ORANGE, "ode": GREEN, "refine": "#CC79A7", "rest": GREY}
MOST_ROUNDS = 3  # of the refine phase, the last ones
LEAST_ERROR = 1e-6  # nats that still are worth a bar


def evidence_plot(result: Any, others: Mapping[str, tuple[float, float]] | None = None) -> Figure:
    """Draw every estimate of ln Z with its error; the reported one is a band across.

    Parameters
    ----------
    result : Result.
    others : {name: (ln Z, error)} to set beside them, for example published or exact values; default none.

    Returns
    -------
    matplotlib.figure.Figure
    """
    if not np.isfinite(result.logZ):
        return message("No evidence to show: no point has a finite log L.")
    rows = _estimates(result) | _checked(others or {})
    figure = new_figure(6.5, 1.4 + 0.32 * len(rows))
    ax = figure.subplots()
    draw_evidence(ax, result, rows)
    ax.set_title(title_of(result), fontsize=11)
    return figure


def _estimates(result):
    """Collect {name: (ln Z, error)} of a result, with the last rounds of the refine phase."""
    refined, volumes = result.refined, (result.evidence.logZ, result.evidence.logZ_err)
    if refined is None:
        return {"volumes": volumes}
    rounds = {f"round {i}": (row.logZ, row.logZ_err) for i, row in enumerate(refined.rounds, start=1)}
    rounds = dict(list(rounds.items())[-MOST_ROUNDS:])
    return {"volumes": volumes, **rounds, "bridge": refined.bridge, "importance": refined.importance}


def _checked(others):
    """Complain about what is not {name: (value, error)}."""
    for name, pair in others.items():
        if np.shape(pair) != (2,):
            raise OptionError(f"Expected others={{name: (ln Z, error)}}, got {name!r}: {pair!r}. An exact value has the error 0.")
    return others


def draw_evidence(ax: Axes, result: Any, rows: Mapping[str, tuple[float, float]] | None = None) -> None:
    """Draw estimates {name: (ln Z, error)} into axes, the first on top.

    Parameters
    ----------
    ax : axes; result : Result.
    rows : {name: (ln Z, error)}; None for the estimates of the result.
    """
    rows = _estimates(result) if rows is None else rows
    own = _estimates(result)
    band = (result.logZ - result.logZ_err, result.logZ + result.logZ_err)
    ax.axvspan(*band, color=BLUE, alpha=0.15, linewidth=0)
    for i, (name, (logZ, err)) in enumerate(rows.items()):
        color = BLUE if name == result.headline.name else GREY if name.startswith("round ") else "black" if name in own else RED
        ax.errorbar(logZ, -i, xerr=err, fmt="o", color=color, capsize=3, markersize=4.5)
    ax.set_yticks(-np.arange(len(rows)), list(rows))
    for tick, name in zip(ax.get_yticklabels(), rows, strict=True):
        tick.set_fontweight("bold" if name == result.headline.name else "normal")
    ax.set(ylim=(0.6 - len(rows), 0.6), xlabel=r"$\ln Z$")
    ax.ticklabel_format(axis="x", useOffset=False)
    tidy(ax)


def budget_plot(result: Any) -> Figure:
    """Draw what the error of ln Z is made of, and where the time went."""
    sources = _sources(result)
    clocks = {k: v for k, v in result.seconds.items() if k in CLOCKS}
    if not np.isfinite(result.logZ) or not sum(clocks.values()):
        return message("No budget to show: the run has no evidence or no clocks.")
    figure = new_figure(7, 3.4)
    top, bottom = figure.subplots(2, 1, height_ratios=(2, 1))
    draw_sources(top, sources, result.headline.name)
    _draw_clocks(bottom, clocks, result.seconds.get("total", sum(clocks.values())))
    figure.suptitle(title_of(result), fontsize=11)
    return figure


def _sources(result):
    """Collect {source: standard error [nats]}."""
    sources = {"shrinkage of volumes": result.evidence.logZ_err}
    if result.refined is not None:
        sources |= {
            "importance sampling": result.refined.importance[1],
            "coverage (bridge)": result.refined.coverage[1],
            "missed mass": result.refined.missed_mass,
            "ODE solver": result.refined.ode_error,
        }
        sources |= {"found above": result.headline.excess} if result.headline.excess else {}
    return sources


def draw_sources(ax: Axes, sources: Mapping[str, float], headline: str) -> None:
    """Draw errors as bars on a logarithmic axis; that of the reported estimate is blue.

    Parameters
    ----------
    ax : axes; sources : {source: standard error [nats]}.
    headline : name of the reported estimate, "volumes" or "importance".
    """
    reported = {"volumes": "shrinkage of volumes", "importance": "importance sampling"}[headline]
    values = [max(value, LEAST_ERROR) for value in sources.values()]
    low = 10 ** np.floor(np.log10(min(values)) - 0.2)
    ax.barh(list(sources), values, color=[BLUE if name == reported else "0.72" for name in sources], height=0.6)
    for i, value in enumerate(values):
        ax.annotate(f"{value:.2g}", (value, i), xytext=(4, 0), textcoords="offset points", va="center", fontsize=9)
    ax.set(xscale="log", xlim=(low, 4 * max(values)), xlabel=r"error of $\ln Z$ [nats]")
    ax.invert_yaxis()
    tidy(ax)


def _draw_clocks(ax, clocks, total):
    """Draw shares of the time in one bar."""
    start = 0.0
    for name, seconds in clocks.items():
        label = f"{'moves' if name == 'ode' else name} {100 * seconds / total:.0f} %"
        ax.barh(0, seconds, left=start, color=CLOCKS[name], label=label)
        start += seconds
    ax.set(xlim=(0, total), yticks=[], xlabel=f"time [s], {total:.3g} in all")
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=5, frameon=False, fontsize=8, columnspacing=1.2)
    ax.spines[["top", "right", "left"]].set_visible(False)
