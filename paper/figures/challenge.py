"""Evidences of the EPRV3 challenge beside the published ones: python paper/figures/challenge.py.

Reads ../docs/results/calibration.jsonl, refined runs; published values with their sources are in examples/eprv3.py.
"""

import math

import numpy as np
from common import CALIBRATION, COLORS, new, rows, save
from eprv3 import PUBLISHED

SETS = (1, 2, 3, 4)
METHODS = tuple(name for name in PUBLISHED if name != "quadrature")


def runs(data_set, n_planets):
    """Return log10 Z and its error of each run, both (seeds,)."""
    wanted = f"eprv3_set{data_set}_planets{n_planets}"
    mine = [row for row in rows(CALIBRATION) if (row["config"], row["problem"]) == ("refined", wanted)]
    found = [(row["logZ"], row["err"]) for row in mine]
    return np.array(found).T / math.log(10)


def draw():
    """Draw log10 Z minus the value by quadrature, for no planet and for one."""
    figure = new(10, 3.8)
    axes = figure.subplots(1, 2, width_ratios=(1, 2))
    for ax, n_planets in zip(axes, (0, 1), strict=True):
        exact = PUBLISHED["quadrature"][n_planets]
        for i, data_set in enumerate(SETS):
            value, err = runs(data_set, n_planets)
            x = i + np.linspace(-0.3, 0, len(value))
            label = "fusions, each run" if i == 0 else None
            ax.errorbar(x, value - exact[i], yerr=err, fmt="o", color=COLORS[0], markersize=3.5, linewidth=1, label=label)
            for k, method in enumerate(METHODS):
                if n_planets in PUBLISHED[method]:
                    label = method if i == 0 else None
                    error = PUBLISHED[method][n_planets][i] - exact[i]
                    ax.plot(i + 0.15 + 0.1 * k, error, "sD^"[k], color=COLORS[k + 1], markersize=6, label=label)
        ax.axhline(0, color="black", linewidth=1, label="quadrature")
        ax.set_xticks(range(len(SETS)), [f"data set {s}" for s in SETS])
        ax.set_title(f"{n_planets} planets" if n_planets != 1 else "1 planet", fontsize=11)
    axes[0].set_ylabel("log10 Z - quadrature")
    axes[0].set_xticks(range(len(SETS)), [str(s) for s in SETS])
    axes[0].set_xlabel("data set")
    axes[1].legend(fontsize=8, frameon=False)
    save(figure, "challenge")


if __name__ == "__main__":
    draw()
