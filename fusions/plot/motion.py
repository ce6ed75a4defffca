"""Pictures of motion in two dimensions: points that the flow carries, live points that climb."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.animation import PillowWriter
from matplotlib.figure import Figure

from fusions.errors import OptionError
from fusions.io.files import writing
from fusions.plot.base import BLUE, GREY, ORANGE, chosen_columns, message, new_figure, tidy

N_TIMES = 33  # points of a trajectory
FRAMES_PER_SECOND = 12
LAST_FRAME = 12  # times that the last picture is shown


def _pair(result, params):
    """Return two columns: those asked for, else the first two that vary."""
    chosen = chosen_columns(result, params)
    if params is not None and len(chosen) != 2:
        raise OptionError(f"Expected params to name two columns, got {params!r}. Type params={list(result.names[:2])}.")
    return chosen[:2]


def _label_axes(ax, result, pair):
    """Name both axes in LaTeX."""
    labels = result.samples().get_labels_map()
    ax.set(xlabel=labels[pair[0]], ylabel=labels[pair[1]])


def flow_plot(result: Any, params: Sequence[str] | None = None, n: int = 300, key: int = 0) -> Figure:
    """Draw how the flow carries points from its base to the posterior, in two parameters, if it has learned to.

    Parameters
    ----------
    result : Result with flows and its problem (see `fusions.attach`).
    params : two names of parameters; default the first two that vary.
    n : number of points.
    key : seed.

    Returns
    -------
    matplotlib.figure.Figure
    """
    pair = _pair(result, params)
    if result.source is None or len(pair) < 2:
        return message("No flow to show: run with refine=True, or attach the problem with\nfusions.attach(result, problem).")
    if not result.source.has_velocity:
        return message(
            'The flow is at rest: kernels and Gaussians were enough.\nWith cost="expensive" it learns a velocity if they are not.'
        )
    if not set(pair) <= set(result.names[: result.n_params]):
        raise OptionError(
            f"Expected two parameters out of {list(result.names[: result.n_params])}, got {pair}: flows carry no derived ones."
        )
    theta = result.source.paths(n, np.linspace(0, 1, N_TIMES), key)
    x, y = (_cut_at_jumps(theta[:, :, result.names.index(name)]) for name in pair)
    figure = new_figure(10.5, 4)
    axes = figure.subplots(1, 3, sharex=True, sharey=True)
    axes[1].plot(x, y, color=GREY, linewidth=0.5, alpha=0.5)
    for ax, step, color in ((axes[0], 0, ORANGE), (axes[1], 0, ORANGE), (axes[1], -1, BLUE), (axes[2], -1, BLUE)):
        ax.plot(x[step], y[step], "o", color=color, markersize=2.5, markeredgewidth=0)
    for ax, title in zip(axes, ("base (t = 0)", "paths", "flow (t = 1)"), strict=True):
        ax.set_title(title, fontsize=11)
        _label_axes(ax, result, pair)
        tidy(ax)
        ax.label_outer()
    return figure


def _cut_at_jumps(values):
    """Break lines (times, n) where a periodic parameter goes round."""
    values = values.copy()
    step = np.abs(np.diff(values, axis=0))
    values[1:][step > 0.5 * np.ptp(values)] = np.nan
    return values


def animate(result: Any, path: str | Path, params: Sequence[str] | None = None, n_frames: int = 60) -> Path:
    """Write an animation (gif) of the live points of `Result.replay` on their way up, dead points staying behind in grey.

    Parameters
    ----------
    result : Result.
    path : of the file, for example "live.gif".
    params : two names of columns; default the first two parameters that vary.
    n_frames : number of pictures, equally spaced in -ln X.

    Returns
    -------
    pathlib.Path
    """
    pair = _pair(result, params)
    if len(pair) < 2 or not np.isfinite(result.evidence.logZ):
        raise OptionError("Expected a run with two columns that vary and a point of finite log L. Give params=[name, name].")
    figure = new_figure(5, 4.6)
    writer, path = PillowWriter(fps=FRAMES_PER_SECOND), Path(path)
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        with writer.saving(figure, str(path), dpi=80):
            for logX in _frames(result, n_frames):
                _draw_frame(figure, result, pair, logX)
                writer.grab_frame()
    return path


def _frames(result, n):
    """Choose ln X of the pictures, from the whole prior to where posterior mass ends; the last one stays for a while."""
    logX, p = result.replay.evidence.logX, np.exp(result.replay.evidence.logw)
    order = np.argsort(-logX)
    end = logX[order][np.searchsorted(np.cumsum(p[order]), 0.99 * p.sum())]
    return [*np.linspace(0, end, n), *[end] * LAST_FRAME]


def _draw_frame(figure, result, pair, logX):
    """Draw the points that are alive inside of a volume, and the dead."""
    points = result.replay
    dead = points.evidence.logX > logX
    contour = np.max(points.logL[dead], initial=-np.inf)
    alive = ~dead & ~(points.logL_birth > contour)
    x, y = (points.theta[:, result.names.index(name)] for name in pair)
    figure.clear()
    ax = figure.subplots()
    ax.plot(x[dead], y[dead], ".", color="0.8", markersize=2, markeredgewidth=0)
    ax.plot(x[alive], y[alive], "o", color=BLUE, markersize=3, markeredgewidth=0)
    for side, values in ((ax.set_xlim, x), (ax.set_ylim, y)):
        pad = 0.03 * np.ptp(values)
        side(values.min() - pad, values.max() + pad)
    _label_axes(ax, result, pair)
    ax.set_title(rf"$-\ln X = {-logX + 0:.1f}$,  $\ln L > {contour:.4g}$" if np.isfinite(contour) else "the whole prior", fontsize=11)
    ax.spines[["top", "right"]].set_visible(False)
