"""Pulls of ln Z over seeds, (ln Z - exact) / claimed error: python paper/figures/calibration.py.

Reads ../docs/results/calibration.jsonl: the nested run alone at default settings, and the headline with the refine phase.
"""

import numpy as np
from common import CALIBRATION, COLORS, new, rows, save

PANELS = {"default": "nested run alone, default settings", "refined": "headline with the refine phase"}

LINEAR = 4  # pulls up to which the axis is linear


def pulls(config):
    """Return {problem: pulls (seeds,)} of a configuration, in the order of the file."""
    found = {}
    for row in rows(CALIBRATION):
        if row["config"] == config:
            found.setdefault(row["problem"], []).append((row["logZ"] - row["exact"]) / row["err"])
    return {problem: np.array(values) for problem, values in found.items()}


def draw():
    """Draw every pull as a dot, mean and standard deviation as a bar, over the band of one."""
    figure = new(10, 4.4)
    for ax, (config, title), color in zip(figure.subplots(1, 2), PANELS.items(), COLORS, strict=False):
        found = pulls(config)
        for i, values in enumerate(found.values()):
            ax.plot(values, np.full(len(values), i), ".", color=color, alpha=0.4)
            spread = values.std(ddof=1) if len(values) > 1 else 0.0
            ax.errorbar(values.mean(), i, xerr=spread, fmt="o", color="black", markersize=3.5, linewidth=1, capsize=2)
        ax.axvspan(-1, 1, color="0.9", zorder=0)
        ax.axvline(0, color="0.5", linewidth=1)
        ax.set_yticks(range(len(found)), list(found), fontsize=8)
        ax.invert_yaxis()
        rms = np.sqrt(np.mean(np.concatenate(list(found.values())) ** 2))
        ax.set_title(f"{title}\nrms pull {rms:.2f} over {sum(map(len, found.values()))} runs", fontsize=10)
        ax.set_xlabel("(ln Z - exact) / claimed error")
        if max(np.abs(values).max() for values in found.values()) > LINEAR:
            ax.set_xscale("symlog", linthresh=LINEAR, linscale=2)
            ax.set_xticks([-30, -10, -4, -2, 0, 2, 4], ["-30", "-10", "-4", "-2", "0", "2", "4"])
            ax.set_xlim(right=LINEAR)
    save(figure, "calibration")


if __name__ == "__main__":
    draw()
