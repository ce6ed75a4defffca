"""Rosenbrock against dimension: calls, and error of ln Z beside the exact curve: python paper/figures/dimension.py.

Reads results/peers.jsonl, results/benchmark.jsonl (if there) and refined runs of ../docs/results/calibration.jsonl. Rows of further
dimensions, samplers and seeds join by themselves.
"""

from collections import defaultdict

import numpy as np
from common import LOOKS, benchmark, new, oracles, save

FAMILY, LARGEST = "rosenbrock", 20


def collect():
    """Gather {sampler: {dimension: [row]}} of the runs that ended; of fusions, those with the refine phase."""
    found = defaultdict(lambda: defaultdict(list))
    measured = benchmark.load(benchmark.PEERS, benchmark.ROWS)
    for row in measured if any(row["sampler"] == benchmark.OURS for row in measured) else [*measured, *benchmark.calibrated()]:
        if row["problem"].startswith(FAMILY) and row["status"] == "ok" and row["setting"] != "tight":
            setting = "" if row["setting"] in ("default", "slice") or row["sampler"] == benchmark.OURS else f" ({row['setting']})"
            found[row["sampler"] + setting][int(row["problem"].removeprefix(FAMILY))].append(row)
    return found


def draw():
    """Draw calls, ln Z and its error of every sampler."""
    figure = new(13, 4.2)
    calls, values, errors = figure.subplots(1, 3)
    exact = {d: logZ for d, logZ in sorted(oracles.ROSENBROCK.items()) if d <= LARGEST}
    values.plot(list(exact), list(exact.values()), color="black", linewidth=1, label="exact")
    errors.axhline(0, color="black", linewidth=1)
    found = sorted(collect().items(), key=lambda item: item[0] != benchmark.OURS)
    for i, (sampler, by_dim) in enumerate(found):
        look = LOOKS[i] | {"zorder": 3 if sampler == benchmark.OURS else 2}
        dims = sorted(by_dim)
        calls.plot(dims, [np.mean([row["n_calls"] for row in by_dim[d]]) for d in dims], label=sampler, **look)
        points = [(d, row["logZ"], row["logZ"] - exact[d], row["err"]) for d in dims for row in by_dim[d]]
        d, logZ, error, err = (np.array(column, float) for column in zip(*points, strict=True))
        dots = look | {"linestyle": "none", "linewidth": 1}
        values.plot(d, logZ, **dots)
        errors.errorbar(d * (1 + 0.03 * (i - len(found) / 2)), error, yerr=err, **dots)
    errors.set_yscale("symlog", linthresh=0.1)
    for ax, label in ((calls, "likelihood calls (mean over seeds)"), (values, "ln Z"), (errors, "ln Z - exact [nats]")):
        ax.set(xscale="log", ylabel=label, xlabel="dimension of the Rosenbrock valley")
        ax.set_xticks(list(exact), [str(d) for d in exact])
        ax.minorticks_off()
    calls.set_yscale("log")
    values.legend(*(a + b for a, b in zip(values.get_legend_handles_labels(), calls.get_legend_handles_labels(), strict=True)),
                  fontsize=8, frameon=False, loc="lower left")  # fmt: skip
    save(figure, "dimension")


if __name__ == "__main__":
    draw()
