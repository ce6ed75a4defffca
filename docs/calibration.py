"""Measure calibration: many seeds against exact evidences, row by row; rerun to resume.

python docs/calibration.py run default|flow|slice|badflow|eprv3|calls|refined|cheap|hot|planets|samples|dear [--seeds 20] [--only NAME ...]
python docs/calibration.py table        # writes docs/calibration.md from docs/results/calibration.jsonl
"""

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "tests"), str(HERE.parent / "examples")]

import oracles  # noqa: E402
from quantities import measured, quantities  # noqa: E402

import fusions  # noqa: E402
from fusions.flows.cnf import CNF  # noqa: E402
from fusions.flows.matching import Training  # noqa: E402
from fusions.kernels import Cycle, FlowKernel, HitAndRun, Jump  # noqa: E402

ROWS = HERE / "results" / "calibration.jsonl"
FOUR = ("rosenbrock2", "shells5", "box_funnel5", "linear_gaussian5")
DEFAULT = tuple(name for name in oracles.ORACLES if not name.startswith(("eprv3", "rv_a6", "constant")))
UNTRAINED = CNF(training=Training(rounds=0))
CONFIGS = {
    "default": (DEFAULT, 20, {}),
    "flow": (FOUR, 10, {"kernel": FlowKernel(n_moves=8)}),
    "slice": (FOUR, 10, {"kernel": HitAndRun(n_slices=15)}),
    "badflow": (FOUR, 10, {"kernel": Cycle((FlowKernel(flow=UNTRAINED), HitAndRun()))}),
    "eprv3": (tuple(f"eprv3_set{i}_planets{n}" for n in (0, 1) for i in (1, 2, 3, 4)), 5, {"n_live": 800}),
    "calls": (("rosenbrock4", "shells5", "gauss_corr10", "rosenbrock10"), 3, {"n_live": 1000}),
}
REFINED = {
    "rosenbrock2": 170, "rosenbrock4": 415, "shells2": 300, "eggbox": 850, "rv_a6": 375, "shells5": 500, "loggamma10": 300, "shells10": 400,
    "mixture10": 300, "box_funnel10": 300, "rosenbrock10": 500, "rosenbrock20": 300, "linear_gaussian32": 400,
    **{f"eprv3_set{i}_planets{n}": 500 for n in (0, 1) for i in (1, 2, 3, 4)},
}  # fmt: skip
CHEAP = dict.fromkeys(
    (
        "rosenbrock2", "rosenbrock4", "shells2", "eggbox", "rv_a6", "shells5", "loggamma2", "linear_gaussian5", "mixture5", "rosenbrock10",
        "rosenbrock20",
    ), 500,
)  # fmt: skip
OWN = {
    "rv_a6": ({"kernel": Cycle((FlowKernel(n_moves=2), Jump(), HitAndRun()))}, {}),
    "box_funnel10": ({"precision": 0.005}, {"max_calls": 200_000}),
    "rosenbrock20": ({"cost": "cheap", "kernel": HitAndRun()}, {}),
}  # settings of `nested` and of `run` besides n_live
HOT = dict.fromkeys(("rosenbrock2", "rosenbrock4", "mixture5", "eprv3_set1_planets1"), 2000)
PLANETS = {
    **{f"eprv3_set{i}_planets2": 1500 if i == 2 else 500 for i in (1, 2, 3, 4)},
    **{f"eprv3_set{i}_planets1_broad": 1000 for i in (1, 2, 3, 4)},
    **{f"eprv3_set{i}_planets3": 300 for i in (1, 2, 3, 4)},
}
SAMPLES = dict.fromkeys(
    ("rosenbrock2", "eggbox", "linear_gaussian5", "mixture5", "shells5", "loggamma2", "rosenbrock4", "mixture10", "loggamma10"), 500
)  # nested samples beside the headline, by default (samples) and with cost="expensive" (dear)
LIVE = {"refined": REFINED, "cheap": CHEAP, "hot": HOT, "planets": PLANETS, "samples": SAMPLES, "dear": SAMPLES}  # runs with a refine phase
EXTENDED = ("rosenbrock2", "rosenbrock4", "rosenbrock10", "shells5", "eggbox", "box_funnel10", "mixture10")  # of paper/benchmark.py
N_EFF = 10_000  # effective draws to which their runs are extended, as many as nautilus makes by default
POWER = 0.8  # of the likelihood of the run before a hot start: a posterior about 1.1 times as wide
HEAD = "| problem | seeds | exact | mean ln Z | rms error | mean claimed | mean pull | sd pull | worst | calls | s | gate |"
TITLES = {
    "default": "Default settings (n_live = 500), nested run alone (refine=False)",
    "flow": "Flow kernel alone (8 moves, n_live = 500), nested run alone",
    "slice": "Slice kernel alone (15 slices, n_live = 500), nested run alone",
    "badflow": "Default cycle with an untrained flow (n_live = 500), nested run alone",
    "eprv3": "EPRV3 challenge, narrow period priors (n_live = 800), nested run alone",
    "calls": "Likelihood calls at n_live = 1000, nested run alone",
}
REFINED_COLUMNS = (
    "problem", "n_live", "seeds", "rms volumes", "importance: rms, claimed, pull", "bridge: rms, pull", "headline: rms, pull", "warned",
    "calls", "s", "date",
)  # fmt: skip
REFINED_TITLE = (
    "## With the refine phase", "",
    'Settings: `nested(n_live=..., cost="expensive")`, calls and seconds of nested run and refine phase together. pull: mean and',
    "standard deviation; warned: runs whose headline carries a warning. The funnel has `precision=0.005` and `max_calls=200_000` besides,",
    'Rosenbrock-20 `cost="cheap"` and slices alone in the nested run (`kernel=HitAndRun()`), RV-A6 two flow moves a walk instead of',
    "three. Rows of 24 November are of code that the present one differs from for posteriors with long necks alone, which none of theirs",
    "has. Those of EPRV3",
    "without a planet are older: each fold had one fit a round with a velocity from the first round on, and components were fitted to",
    "half of the rows. On 29 November all seconds were two to three times as long.",
)  # fmt: skip
CHEAP_TITLE = (
    "## Default settings (n_live = 500), with the refine phase", "",
    "`fusions.run(problem)`: likelihoods traced by JAX count as cheap. Rows of the present code are those of 24 November; the others had",
    "one fit of each fold a round, and components fitted to half of the rows, Rosenbrock-10 with a velocity.",
)  # fmt: skip
HOT_TITLE = (
    "## Hot starts", "",
    f"The same settings for `hot_start(problem, result)`, the result being that of a run in which the likelihood had the power {POWER};",
    "calls of that run do not count.",
)  # fmt: skip
PLANETS_TITLE = (
    "## EPRV3 challenge: two planets, one with a broad period prior, three", "",
    "There is no exact value. log10 Z of the refine phase's headline beside a reference: for narrow period priors the value submitted to",
    "the challenge that came from variational Bayes with long importance sampling (Nelson et al. 2020, arXiv:1806.04683); for broad ones",
    "a lower bound, the quadrature over the narrow period range times its part of the broad prior. Scatter: between seeds; volumes:",
    "their difference from the headline.", "",
    "| problem | n_live | seeds | log10 Z | scatter | claimed | reference | difference | volumes | warned | calls | s | date |",
)  # fmt: skip
SAMPLES_COLUMNS = (
    "seeds", "headline: pull", "samples().logZ(): pull", "logZ(100).std()", "worst difference", "D_KL", "d_G", "posterior: pull",
    "samples: pull", "n_live", "rows", "date",
)  # fmt: skip
SAMPLES_TITLE = (
    "## What anesthetic reads", "",
    "`samples().logZ()` beside the headline, n_live = 500. The pull of `samples().logZ()` is in errors of the headline and 1/n_live, to",
    "which a replay is rounded; `logZ(100).std()` is what anesthetic itself claims. Worst difference: of both, in errors of the headline;",
    "D_KL and d_G: the same of these. posterior, samples: pulls of the probabilities and means of `quantities.py` in their Monte Carlo",
    "errors, from `result.posterior` and from `samples()`; equally weighted points scatter by up to sqrt(2) of these errors.", "",
)  # fmt: skip
QUANTITY_HEAD = "| problem | quantity | exact | mean over seeds | relative error of the mean | spread of seeds |"


def oracle(name):
    """Look an oracle up, in the table of quick problems or as a family's name with the dimension behind it."""
    if name in oracles.ORACLES:
        return oracles.ORACLES[name]()
    if name in PLANETS:
        data_set, n_planets = (int(part[-1]) for part in name.split("_")[1:3])
        return oracles.eprv3(data_set, n_planets, broad=name.endswith("broad"))
    family = name.rstrip("0123456789")
    return getattr(oracles, family)(int(name.removeprefix(family)))


def load():
    """Read the rows measured so far."""
    return [json.loads(line) for line in ROWS.read_text().splitlines()] if ROWS.exists() else []


def run(config, seeds, only, first):
    """Measure seed by seed, problem by problem, so that an interrupted campaign is balanced."""
    live = LIVE.get(config)
    refined = live is not None
    dear = {} if config in ("cheap", "samples") else {"cost": "expensive"}
    names, default_seeds, options = (tuple(live), 5, dear) if refined else CONFIGS[config]
    names = only or names
    problems = {name: oracle(name) for name in names}
    for seed in range(first, first + (seeds or default_seeds)):
        for name in names:
            if any((r["config"], r["problem"], r["seed"]) == (config, name, seed) for r in load()):
                continue
            problem = changed(problems[name].problem, seed) if config == "hot" else problems[name].problem
            start = time.perf_counter()
            own, limits = OWN.get(name, ({}, {})) if config == "refined" else ({}, {})
            settings = options | own | ({"n_live": live[name]} if refined else {})
            result = fusions.run(problem, fusions.nested(**settings), key=seed, refine=refined, progress=False, **limits)
            if result.info["signal"]:
                sys.exit(f"Stopped by {result.info['signal']}; the rows so far are kept.")
            row = {
                "config": config, "problem": name, "seed": seed, "exact": problems[name].logZ, "logZ": result.logZ,
                "err": result.logZ_err, "n_calls": result.n_calls, "insertion_p": result.insertion_pvalue,
                "status": result.status.name, "version": fusions.__version__,
                "seconds": round(time.perf_counter() - start, 1), "date": time.strftime("%Y-%m-%d"),
            }  # fmt: skip
            if refined:
                found = result.refined.to_json() if result.refined else {}
                kept = ("importance", "bridge", "coverage", "missed_mass", "ess", "khat", "n_draws", "chains")
                row |= {key: found.get(key) for key in kept}
                volumes = result.evidence.logZ, result.evidence.logZ_err
                row |= {
                    "n_live": live[name],
                    "volumes": volumes,
                    "headline": result.headline.name,
                    "warnings": len(result.headline.warnings),
                    "quantities": {} if config == "hot" else measured(name, *result.posterior),
                }
            if config in ("samples", "dear"):
                row["read"] = read(name, result)
            if config == "refined" and name in EXTENDED and result.source is not None:
                more = result.extend(n_eff=N_EFF)
                seconds = round(time.perf_counter() - start, 1)
                row["extended"] = {"logZ": more.logZ, "err": more.logZ_err, "n_calls": more.n_calls, "seconds": seconds}
            ROWS.parent.mkdir(exist_ok=True)
            with ROWS.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(f"{config} {name} {seed}: {(result.logZ - problems[name].logZ) / max(result.logZ_err, 1e-9):+.2f} sigma", flush=True)


def read(name, result):
    """Read ln Z, D_KL, d_G and the quantities of a problem as anesthetic does from `samples()`, beside what the result says."""
    samples, found = result.samples(), result.information
    theta, w = samples.to_numpy()[:, : len(result.names)], samples.get_weights() / samples.get_weights().sum()
    known = {}
    for label, (f, exact) in quantities(name).items():
        value, err = result.expectation(lambda p, f=f: f(np.column_stack(list(p.values()))).astype(float))
        known[label] = (exact, value, err, float(w @ f(theta)))
    return {
        "n_live": result.replay.n_live, "rows": len(samples), "logZ": samples.logZ(), "err": samples.logZ(100).std(),
        "D_KL": (found.D_KL, found.D_KL_err, samples.D_KL()), "d_G": (found.d_G, found.d_G_err, samples.d_G()), "quantities": known,
    }  # fmt: skip


def changed(problem, seed):
    """Start a problem hot, from a run in which its likelihood had a lower power."""
    before = fusions.Problem(problem.prior, lambda p: POWER * problem.loglikelihood(p), array=problem.array)
    result = fusions.run(before, fusions.nested(n_live=500, cost="expensive"), key=1000 + seed, progress=False)
    return fusions.hot_start(problem, result)


def gate(pull):
    """Judge a row: |mean| <= 3/sqrt(n) and the spread within its range (0.50 to 1.56 at n = 20, 0.33 to 1.82 at n = 10)."""
    n, sd = len(pull), pull.std(ddof=1)
    low, high = (0.50, 1.56) if n >= 20 else (0.33, 1.82)
    return abs(pull.mean()) <= 3 / np.sqrt(n) and low <= sd <= high


def table():
    """Write docs/calibration.md."""
    rows = load()
    lines = [
        "# Calibration", "",
        "Written by `python docs/calibration.py table` from the committed rows in `results/calibration.jsonl`, measured by",
        "`python docs/calibration.py run CONFIG`; one row per run, with its date. pull = (ln Z - exact) / claimed error.",
        "The gate: |mean pull| <= 3/sqrt(n) and its standard deviation in [0.50, 1.56] for n = 20 seeds, [0.33, 1.82] for n = 10.",
        "Exact values: see `tests/oracles.py`. Seconds are those of one core, shared with other work.", "",
    ]  # fmt: skip
    for config, title in TITLES.items():
        mine = [r for r in rows if r["config"] == config]
        if not mine:
            continue
        lines += [f"## {title}", "", HEAD, "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|---|"]
        pulls = []
        for name in dict.fromkeys(r["problem"] for r in mine):
            these = [r for r in mine if r["problem"] == name]
            z, err, exact = np.array([r["logZ"] for r in these]), np.array([r["err"] for r in these]), these[0]["exact"]
            pull = (z - exact) / err
            pulls.append(pull)
            calls, seconds = np.mean([r["n_calls"] for r in these]), np.median([r["seconds"] for r in these])
            verdict = ("pass" if gate(pull) else "FAIL") if len(pull) >= 10 else "-"
            lines.append(
                f"| {name} | {len(pull)} | {exact:.4f} | {z.mean():.4f} | {np.sqrt(np.mean((z - exact) ** 2)):.3f} | {err.mean():.3f} | "
                f"{pull.mean():+.2f} | {pull.std(ddof=1) if len(pull) > 1 else np.nan:.2f} | {pull[np.argmax(abs(pull))]:+.1f} | "
                f"{calls:,.0f} | {seconds:.0f} | {verdict} |"
            )
        pulls = np.concatenate(pulls)
        lines += ["", f"Pooled over {len(pulls)} runs: mean pull {pulls.mean():+.3f} (limit {3 / np.sqrt(len(pulls)):.3f}), rms pull "
                  f"{np.sqrt(np.mean(pulls**2)):.3f}.", ""]  # fmt: skip
    refined, cheap, hot, planets, samples, dear = ([r for r in rows if r["config"] == config] for config in LIVE)
    lines += [*refined_table(REFINED_TITLE, refined), *quantity_table(refined), *planets_table(planets)]
    lines += [*refined_table(CHEAP_TITLE, cheap), *refined_table(HOT_TITLE, hot), *SAMPLES_TITLE]
    lines += [*samples_table("by default", samples), *samples_table('cost="expensive"', dear)]
    (HERE / "calibration.md").write_text("\n".join(lines) + "\n")


def refined_table(title, rows):
    """Tabulate the three estimates of runs with a refine phase."""
    lines = [
        *title, "",
        f"| {' | '.join(REFINED_COLUMNS)} |", "|---" * len(REFINED_COLUMNS) + "|",
    ]  # fmt: skip
    for name in dict.fromkeys(r["problem"] for r in rows):
        mine = [r for r in rows if r["problem"] == name and r["importance"]]
        exact = mine[0]["exact"]

        def figures(pairs, exact=exact):
            z, err = np.array(pairs).T
            pull = (z - exact) / err
            return np.sqrt(np.mean((z - exact) ** 2)), err.mean(), pull.mean(), pull.std(ddof=1) if len(pull) > 1 else np.nan

        volumes, imp, bri = (figures([r[key] for r in mine]) for key in ("volumes", "importance", "bridge"))
        head = figures([(r["logZ"], r["err"]) for r in mine])
        calls, seconds = np.mean([r["n_calls"] for r in mine]), np.median([r["seconds"] for r in mine])
        cells = [
            name, mine[0]["n_live"], len(mine), f"{volumes[0]:.3f}", f"{imp[0]:.4f}, {imp[1]:.4f}, {imp[2]:+.1f} +- {imp[3]:.1f}",
            *(f"{f[0]:.4f}, {f[2]:+.1f} +- {f[3]:.1f}" for f in (bri, head)),
            sum(r["warnings"] > 0 for r in mine), f"{calls:,.0f}", f"{seconds:.0f}", mine[0]["date"],
        ]  # fmt: skip
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return [*lines, ""] if rows else []


def samples_table(setting, rows):
    """Tabulate what anesthetic reads beside the headline, in errors of the headline, and posterior probabilities in their own errors."""
    lines = [f"| {setting} | {' | '.join(SAMPLES_COLUMNS)} |", "|---" * (len(SAMPLES_COLUMNS) + 1) + "|"]
    pooled, unseen = [], 0
    for name in dict.fromkeys(r["problem"] for r in rows):
        mine = [r for r in rows if r["problem"] == name]
        reads = [r["read"] for r in mine]
        exact, logZ, err = (np.array([r[key] for r in mine]) for key in ("exact", "logZ", "err"))
        read, own, n_live = (np.array([r[key] for r in reads]) for key in ("logZ", "err", "n_live"))
        gaps = [np.array([(r[key][2] - r[key][0]) / r[key][1] for r in reads]) for key in ("D_KL", "d_G")]
        known = np.array([row for r in reads for row in r["quantities"].values()]).reshape(-1, 4)
        seen = known[:, 2] > 0
        unseen += int(np.sum(~seen))
        pulls = [(known[seen, column] - known[seen, 0]) / known[seen, 2] for column in (1, 3)]
        pooled.append(np.array(pulls))
        cells = [
            name, len(mine), pull_of((logZ - exact) / err), pull_of((read - exact) / np.hypot(err, 1 / n_live)), f"{own.mean():.2f}",
            f"{np.max(np.abs(read - logZ) / err):.2f}", *(f"{np.max(np.abs(gap)):.2f}" for gap in gaps), *map(pull_of, pulls),
            f"{n_live.mean():,.0f}", f"{np.mean([r['rows'] for r in reads]):,.0f}", mine[0]["date"],
        ]  # fmt: skip
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    if rows:
        rms = [np.sqrt(np.mean(values**2)) for values in np.concatenate(pooled, axis=1)]
        missed = f" Without a draw, and left out: {unseen}." if unseen else ""
        lines += ["", f"Pooled rms pull of probabilities and means: {rms[0]:.2f} from `posterior`, {rms[1]:.2f} from `samples()`.{missed}"]
    return [*lines, ""] if rows else []


def pull_of(pull):
    """Write mean and standard deviation of pulls."""
    return f"{pull.mean():+.2f} +- {pull.std(ddof=1):.2f}" if len(pull) > 1 else "-"


def planets_table(rows):
    """Tabulate log10 Z of problems without an exact value beside a reference."""
    lines = [*PLANETS_TITLE, "|---" * 13 + "|"]
    for name in dict.fromkeys(r["problem"] for r in rows):
        mine = [r for r in rows if r["problem"] == name]
        log10_Z, volumes = (np.array(z) / np.log(10) for z in ([r["logZ"] for r in mine], [r["volumes"][0] for r in mine]))
        reference = mine[0]["exact"] / np.log(10)
        claimed, calls, seconds = (np.mean([r[key] for r in mine]) for key in ("err", "n_calls", "seconds"))
        cells = [
            name, mine[0]["n_live"], len(mine), f"{log10_Z.mean():.4f}", f"{log10_Z.std(ddof=1) if len(mine) > 1 else np.nan:.4f}",
            f"{claimed / np.log(10):.4f}", f"{reference:.3f}", f"{log10_Z.mean() - reference:+.4f}",
            f"{volumes.mean() - log10_Z.mean():+.2f}", sum(r["warnings"] > 0 for r in mine),
            f"{calls:,.0f}", f"{seconds:.0f}", mine[0]["date"],
        ]  # fmt: skip
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return [*lines, ""]


def quantity_table(rows):
    """Tabulate posterior probabilities and means of the headline against their exact values."""
    lines = [
        "Posterior probabilities and means (`quantities.py`), from the points that the headline comes from.",
        "",
        QUANTITY_HEAD,
        "|---" * 6 + "|",
    ]
    for name in dict.fromkeys(r["problem"] for r in rows):
        mine = [r for r in rows if r["problem"] == name]
        for label, (_, exact) in quantities(name).items():
            found = np.array([r["quantities"][label] for r in mine])
            spread = found.std(ddof=1) if len(found) > 1 else np.nan
            lines.append(f"| {name} | {label} | {exact:.4g} | {found.mean():.4g} | {found.mean() / exact - 1:+.1%} | {spread:.2g} |")
    return [*lines, ""]


def main():
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["run", "table"], nargs="?", default="table")
    parser.add_argument("config", choices=[*CONFIGS, *LIVE], nargs="?", default="default")
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--first", type=int, default=0, help="first seed")
    parser.add_argument("--only", nargs="*")
    args = parser.parse_args()
    if args.action == "run":
        run(args.config, args.seeds, args.only, args.first)
    table()


if __name__ == "__main__":
    main()
