"""Generated problems over units, offsets, widths and priors: is ln Z right, or the run refused? Rerun to resume.

python docs/units.py run [FIRST LAST]    # problems FIRST to LAST - 1, 0 to 39 by default
python docs/units.py table               # writes docs/units.md from docs/results/units.jsonl
"""

import json
import math
import sys
import time
import warnings
from pathlib import Path

import numpy as np
from scipy.special import ndtr

import fusions
from fusions import priors as pr
from fusions.errors import FusionsError

HERE = Path(__file__).parent
ROWS = HERE / "results" / "units.jsonl"
EPOCHS = {"JD": (2457394.0, 1.0), "MJD": (59000.0, 1.0), "GPS": (1126259462.3, 0.2), "Unix ns": (1.7e18, 1e9)}  # start and range of times
HEAD = (
    "# Units, offsets, widths", "",
    "Problems made at random by `docs/units.py`: two to four parameters, uniform, log-uniform, normal or periodic, in units of 1e-40 to",
    "1e40 or times in days, GPS seconds or Unix nanoseconds; Gaussian likelihoods of 1e-12 to 1e-2 of the prior, with constants of up to",
    "1e12 in log L, as plain arithmetic (traced) or NumPy (black box), default settings. ln Z is known in closed form. *apart*: the error",
    "in claimed errors, to which the rounding of such constants is added.", "",
)  # fmt: skip


def parameter(rng):
    """Make one parameter: its description, prior, log L of plain arithmetic, and ln of its factor of the evidence."""
    kind = rng.choice(["uniform", "log-uniform", "normal", "periodic", "time"])
    width, place, unit = 10 ** rng.uniform(-12, -2), rng.uniform(0.1, 0.9), 10 ** rng.uniform(-40, 40)
    if kind == "log-uniform":
        span = rng.uniform(1, 10) * math.log(10)
        scale, centre = width * span, math.log(unit) + place * span
        factor = math.log(scale * math.sqrt(2 * math.pi) / span)
        return (
            f"log-uniform from {unit:.0e}, {width:.0e}", pr.log_uniform(unit, unit * math.exp(span)),
            lambda x, log: -0.5 * ((log(x / math.exp(centre))) / scale) ** 2, factor,
        )  # fmt: skip
    if kind == "normal":
        mean, centre, scale = unit * rng.normal(), 0.0, width * unit
        centre = mean + unit * (place - 0.5)
        both = math.hypot(unit, scale)
        factor = math.log(scale / both) - 0.5 * ((centre - mean) / both) ** 2
        return f"normal, {unit:.0e}, {width:.0e}", pr.normal(mean, unit), lambda x, log: -0.5 * ((x - centre) / scale) ** 2, factor
    name, (start, span) = (kind, (unit, unit)) if kind != "time" else list(EPOCHS.items())[rng.integers(len(EPOCHS))]
    centre, scale = start + place * span, width * span
    inside = ndtr((1 - place) / width) - ndtr(-place / width)
    factor = math.log(width * math.sqrt(2 * math.pi) * inside)
    prior = pr.uniform(start, start + span, periodic=kind == "periodic")
    return f"{name} from {start:.0e}, {width:.0e}", prior, lambda x, log: -0.5 * ((x - centre) / scale) ** 2, factor


def make(seed):
    """Make a problem: text, `Problem`, ln Z, constant in log L."""
    rng = np.random.default_rng(seed)
    parts = [parameter(rng) for _ in range(rng.integers(2, 5))]
    constant = float(rng.choice([-1, 1]) * 10 ** rng.uniform(0, 12)) if rng.random() < 0.5 else 0.0
    hosted = bool(rng.random() < 0.5)
    names = [f"x{i}" for i in range(len(parts))]

    def loglikelihood(p):
        log = np.log if hosted else jnp_log
        return sum(part[2](p[name], log) for name, part in zip(names, parts, strict=True)) + constant

    prior = fusions.Prior(**{name: part[1] for name, part in zip(names, parts, strict=True)})
    text = "; ".join(part[0] for part in parts) + (f"; log L {constant:+.0e}" if constant else "")
    problem = fusions.Problem(prior, loglikelihood, traceable=False if hosted else None)
    return text, problem, sum(part[3] for part in parts) + constant, constant


def jnp_log(x):
    """Take the logarithm of JAX's or Python's numbers."""
    import jax.numpy as jnp

    return jnp.log(x)


def measure(seed):
    """Run a problem; returns its row."""
    text, problem, exact, constant = make(seed)
    row = {"seed": seed, "text": text, "path": "traced" if problem.traceable else "hosted", "exact": exact}
    clock = time.process_time()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            result = fusions.run(problem, progress=False)
        except FusionsError as error:
            row["refused"] = str(error)
        else:
            row |= {
                "logZ": result.logZ, "err": result.logZ_err, "n_calls": result.n_calls, "status": result.status.name,
                "apart": abs(result.logZ - exact) / (result.logZ_err + np.spacing(abs(constant))),
                "warned": [*result.headline.warnings, *result.info["warnings"]],
            }  # fmt: skip
    return row | {"caught": [str(w.message) for w in caught if w.category is UserWarning], "cpu": round(time.process_time() - clock, 1)}


def load():
    """Read the rows measured so far."""
    return [json.loads(line) for line in ROWS.read_text().splitlines()] if ROWS.exists() else []


def run(first=0, last=40):
    """Measure what is missing, a row at a time."""
    done = {row["seed"] for row in load()}
    for seed in (s for s in range(int(first), int(last)) if s not in done):
        row = measure(seed)
        with ROWS.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print({name: row.get(name) for name in ("seed", "text", "path", "apart", "err", "refused", "cpu")}, flush=True)


def verdict(row):
    """Say in a few words what came of a row."""
    if "refused" in row:
        return "refused"
    return f"{row['apart']:.1f}" + ("" if row["apart"] < 4 else ", warned" if row["warned"] else ", **silent**")


def table():
    """Write the page."""
    rows = sorted(load(), key=lambda row: row["seed"])
    good = sum("refused" in row or row["apart"] < 4 for row in rows)
    silent = sum("silent" in verdict(row) for row in rows)
    refused = sum("refused" in row for row in rows)
    lines = [
        *HEAD,
        f"{good} of {len(rows)} are right within four claimed errors, or refused ({refused}); {silent} are wrong without a warning.",
        "",
    ]
    lines += [
        "| problem (start or unit, width of the posterior relative to the prior) | path | claimed | apart | calls |",
        "|---|---|--:|--:|--:|",
    ]
    for row in rows:
        claimed, calls = (f"{row['err']:.2g}", f"{row['n_calls']:,}") if "err" in row else ("", "")
        lines.append(f"| {row['text']} | {row['path']} | {claimed} | {verdict(row)} | {calls} |")
    (HERE / "units.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    {"run": run, "table": table}[sys.argv[1]](*sys.argv[2:])
