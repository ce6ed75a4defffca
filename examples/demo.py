"""Count planets in real input: evidences of 0 and 1 planet for data set 1 of the EPRV3 challenge.

Writes runs/demo/: both results, data.png (data and posterior orbits), corner.png and summary.json.

python examples/demo.py [n_live]
"""

import json
import math
import sys
from pathlib import Path

import eprv3
import jax
import jax.numpy as jnp
import matplotlib as mpl
import numpy as np

import fusions

DATA_SET = 1
NAMES = ("zero_planets", "one_planet")
N_CURVES = 60
INK, BLUE = "#333333", "#2a6fb0"


def log_evidence(result):
    """Return ln Z and its error."""
    return result.logZ, result.logZ_err


def in_log10(*values):
    """Convert natural to decimal logarithms."""
    return [value / math.log(10) for value in values]


def compare(results):
    """Format the published values of log10 Z beside ours, and the Bayes factor, as a table."""
    lines = [f"{'log10 Z':<28}{'0 planets':>18}{'1 planet':>18}{'log10 B':>18}", "-" * 82]

    def row(name, cells):
        lines.append(f"{name:<28}" + "".join(f"{cell:>18}" for cell in cells))

    zero, one = (results[name] for name in NAMES)
    ours = [in_log10(*pair) for pair in (log_evidence(zero), log_evidence(one), one.log_bayes_factor(zero))]
    row("fusions (this run)", [f"{value:.3f} +- {error:.3f}" for value, error in ours])
    for method, published in eprv3.PUBLISHED.items():
        known = [published[n][DATA_SET - 1] if n in published else None for n in (0, 1)]
        known.append(known[1] - known[0] if None not in known else None)
        row(method, ["-" if value is None else f"{value:.3f}" for value in known])
    return "\n".join(lines)


def curves(result, t):
    """Evaluate posterior orbits at times t (n,) [days since the epoch]: (draws, n) velocities [m/s]."""
    draws = result.equal_weights(N_CURVES, key=0)
    theta = {name: jnp.asarray(draws[:, i]) for i, name in enumerate(result.names)}
    return np.asarray(jax.vmap(lambda p: p["C"] + eprv3.planets(jnp.asarray(t), p, 1))(theta))


def data_figure(data, result):
    """Draw the velocities over time and folded at the median period, with posterior orbits."""
    from matplotlib.figure import Figure

    t = data.t - eprv3.epoch(data)
    period = float(np.median(result.equal_weights(1000, key=0)[:, result.names.index("P1")]))
    figure = Figure(figsize=(10, 6.5), layout="constrained")
    top, bottom = figure.subplots(2)
    grid = np.linspace(t.min() - 5, t.max() + 5, 2000)
    phase = np.linspace(-0.5, 0.5, 300)
    folded = (t / period + 0.5) % 1 - 0.5
    errors = {"fmt": ".", "color": INK, "elinewidth": 0.7, "markersize": 4, "zorder": 3}
    for ax, x, y, at in ((top, t, grid, grid), (bottom, folded, phase, phase * period)):
        ax.plot(y, curves(result, at).T, color=BLUE, alpha=0.12, linewidth=0.8)
        ax.errorbar(x, data.v, data.sigma, **errors)
        ax.set_ylabel("radial velocity [m/s]")
        ax.spines[["top", "right"]].set_visible(False)
        ax.margins(x=0.01)
    top.set_title(f"EPRV3 data set {DATA_SET} and {N_CURVES} posterior orbits; bars: sigma alone")
    top.set_xlabel("time since the middle of the data [days]")
    bottom.set_xlabel(f"orbital phase at the median period of {period:.2f} days")
    return figure


def summarise(result):
    """Return what summary.json keeps of a result."""
    keys = ("logZ", "logZ_err", "n_calls")
    return {key: getattr(result, key) for key in keys} | {"seconds": result.seconds["total"]}


def main(n_live=500, folder="runs/demo"):
    """Run both models, print and save everything."""
    mpl.use("Agg")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    results = {}
    for n_planets, name in enumerate(NAMES):
        print(f"\n{name.replace('_', ' ').capitalize()}\n")
        results[name] = fusions.run(eprv3.problem(DATA_SET, n_planets), fusions.nested(n_live=n_live), key=0)
        print(results[name])
        results[name].save(folder / name)
    print(f"\n{compare(results)}")
    summary = {name: summarise(result) for name, result in results.items()}
    (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    data_figure(eprv3.load(DATA_SET), results["one_planet"]).savefig(folder / "data.png", dpi=150)
    fusions.plot.corner(results["one_planet"]).savefig(folder / "corner.png", dpi=120)
    print(f"Results, figures and summary.json are in {folder}/.")
    return results


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
