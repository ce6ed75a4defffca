"""Compare samplers on the same problems by calls x squared error: one process and one JSON row per run; rerun to resume.

python paper/benchmark.py run [--samplers NAME ...] [--problems NAME ...] [--seeds 5] [--setting NAME] [--n-live 500] [--limit 1800]
python paper/benchmark.py table       # writes paper/benchmark.md from paper/results/ and the refined runs of docs/results/calibration.jsonl

Run it with an interpreter that has the sampler and jax (samplers: those of paper/samplers/); fusions need not be installed there.
"""

import argparse
import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
ROWS, PEERS, PAGE = HERE / "results" / "benchmark.jsonl", HERE / "results" / "peers.jsonl", HERE / "benchmark.md"
CALIBRATION, CALIBRATED = HERE.parent / "docs" / "results" / "calibration.jsonl", "as calibrated"
EXTENDED = "extended to 10,000 effective draws"
OURS = "fusions"
SAMPLERS = (OURS, "nautilus", "inessai", "pocomc", "nessai", "dynesty", "ultranest", "blackjax_nss")
PROBLEMS = ("rosenbrock2", "rosenbrock4", "rosenbrock10", "shells5", "eggbox2", "funnel10", "mixture10")
KEY = ("sampler", "setting", "problem", "seed")
ONE_CORE = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "JAX_PLATFORMS": "cpu"}
N_BOOTSTRAP = 10_000
INTERVAL = (16, 84)  # percentiles


def load(*paths):
    """Read rows; where two have the same key the later counts."""
    lines = [line for path in paths if path.exists() for line in path.read_text().splitlines()]
    return list({tuple(row[k] for k in KEY): row for row in map(json.loads, lines)}.values())


def calibrated(setting=CALIBRATED):
    """Read the runs of fusions on the calibration page, whose number of live points differs between problems; or these runs `EXTENDED`."""
    from targets import NAMES

    names = {oracle: problem for problem, oracle in NAMES.items()}
    runs = [r for r in map(json.loads, CALIBRATION.read_text().splitlines()) if r["config"] == "refined"]
    fixed = {"sampler": OURS, "setting": setting, "status": "ok"}
    if setting == EXTENDED:
        runs = [r | r["extended"] for r in runs if "extended" in r]
    return [r | fixed | {"problem": names.get(r["problem"], r["problem"])} for r in runs]


def append(row):
    """Add a row to the file."""
    ROWS.parent.mkdir(exist_ok=True)
    with ROWS.open("a") as file:
        file.write(json.dumps(row) + "\n")


# ---- Runs ----


def campaign(samplers, problems, seeds, setting, n_live, limit):
    """Run each seed of each problem in a process of its own; a problem that ran out of time gets no further seeds, an error another try."""
    for seed in seeds:
        for problem in problems:
            for sampler in samplers:
                name, options = settings_of(sampler, setting, n_live)
                mine = [r for r in load(ROWS) if (r["sampler"], r["setting"], r["problem"]) == (sampler, name, problem)]
                if any(r["status"] == "timeout" or (r["seed"] == seed and r["status"] == "ok") for r in mine):
                    continue
                job = {"sampler": sampler, "setting": name, "problem": problem, "seed": seed}
                row = attempt(job, options, limit)
                error = f"{row['logZ'] - row['exact']:+.3f} +- {row['err']:.3f}, {row['n_calls']:,} calls" if row["logZ"] else row["note"]
                print(f"{sampler} {name}, {problem} {seed}: {row['status']}, {error}, {row['seconds']} s", flush=True)


def settings_of(sampler, setting, n_live):
    """Return a setting's name and options; the default of fusions is one rule for all problems, named by its number of live points."""
    table = importlib.import_module(f"samplers.{sampler}").SETTINGS
    if sampler == OURS and setting is None:
        return f"n_live {n_live}", table["default"] | {"n_live": n_live}
    name = setting or next(iter(table))
    if name not in table:
        sys.exit(f"Expected --setting to be one of {', '.join(table)} for {sampler}, got {name}.")
    return name, table[name]


def environment(sampler):
    """Return the environment of a process that runs a sampler on one core."""
    precision = {} if sampler == OURS else {"JAX_ENABLE_X64": "1"}
    path = os.pathsep.join([str(HERE.parent), str(HERE), os.environ.get("PYTHONPATH", "")])
    return ONE_CORE | os.environ | precision | {"PYTHONPATH": path}


def attempt(job, options, limit):
    """Run one job in a child process and append its row, whatever becomes of it."""
    command = [sys.executable, __file__, "one", "--job", json.dumps(job | {"options": options})]
    start = time.perf_counter()
    try:
        done = subprocess.run(command, timeout=limit, capture_output=True, text=True, env=environment(job["sampler"]))
        status, note = "error", (done.stderr.strip().splitlines() or ["no message"])[-1][:200]
        if done.returncode == 0:
            return next(row for row in load(ROWS) if all(row[k] == job[k] for k in KEY))
    except subprocess.TimeoutExpired:
        status, note = "timeout", f"limit {limit:.0f} s"
    seconds = round(time.perf_counter() - start, 1)
    nothing = dict.fromkeys(("exact", "logZ", "err", "n_calls", "version"))
    append(row := job | {"status": status, "note": note, **nothing, "seconds": seconds, "options": options, "date": today()})
    return row


def one(job):
    """Run one job here and append its row; the clock starts after the imports of this file and includes compilation."""
    adapter = importlib.import_module(f"samplers.{job['sampler']}")
    start = time.perf_counter()
    found = adapter.run(job["problem"], job["seed"], **job["options"])
    seconds = round(time.perf_counter() - start, 1)
    from targets import oracle

    found |= {key: float(found[key]) for key in ("logZ", "err")}
    append(job | {"status": "ok", "exact": oracle(job["problem"]).logZ, **found, "seconds": seconds, "date": today()})


def today():
    """Return the date."""
    return time.strftime("%Y-%m-%d")


# ---- Table ----


def score(rows):
    """Sum up the runs of one sampler with one setting on one problem; W = calls x rms error squared, infinite after a timeout or error.

    Returns
    -------
    dict of figures; "low" and "high" bound W with 68 % by a bootstrap over seeds, nan with one seed.
    """
    ok = [r for r in rows if r["status"] == "ok"]
    lost = [r for r in rows if r["status"] != "ok"]
    out = {"rows": rows, "seeds": len(rows), "lost": lost, "W": np.inf, "low": np.nan, "high": np.nan}
    if lost or not ok:
        return out
    calls, err = (np.array([r[key] for r in ok], float) for key in ("n_calls", "err"))
    error = np.array([r["logZ"] - r["exact"] for r in ok])
    if len(ok) > 1:
        pick = np.random.default_rng(0).integers(len(ok), size=(N_BOOTSTRAP, len(ok)))
        out["low"], out["high"] = np.percentile(calls[pick].mean(1) * (error[pick] ** 2).mean(1), INTERVAL)
    return out | {
        "calls": calls.mean(), "mean": error.mean(), "rms": np.sqrt(np.mean(error**2)), "err": err.mean(), "pull": np.mean(error / err),
        "W": calls.mean() * np.mean(error**2), "seconds": np.median([r["seconds"] for r in ok]),
    }  # fmt: skip


def scores(rows):
    """Score every (problem, sampler, setting)."""
    groups = {}
    for row in rows:
        groups.setdefault((row["problem"], row["sampler"], row["setting"]), []).append(row)
    return {key: score(mine) for key, mine in groups.items()}


def best(table, problem, sampler):
    """Return the setting with which a sampler does best on a problem, or None if it was not measured there."""
    settings = [key[2] for key in table if key[:2] == (problem, sampler)]
    return min(settings, key=lambda setting: table[problem, sampler, setting]["W"], default=None)


def figure(value):
    """Write W to two digits."""
    return "-" if np.isnan(value) else f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def cells(sampler, setting, s):
    """Set one line of a problem's table."""
    if s["lost"]:
        why = ", ".join(f"seed {r['seed']}: {r['status']} after {r['seconds']:.0f} s" for r in s["lost"])
        return [f"{sampler}, {setting}", str(s["seeds"]), *[""] * 5, f"loss ({why})", "", ""]
    return [
        f"{sampler}, {setting}", str(s["seeds"]), f"{s['calls']:,.0f}", f"{s['mean']:+.4f}", f"{s['rms']:.4f}", f"{s['err']:.4f}",
        f"{s['pull']:+.1f}", figure(s["W"]), "one seed" if s["seeds"] == 1 else f"{figure(s['low'])} to {figure(s['high'])}",
        f"{s['seconds']:.0f}",
    ]  # fmt: skip


def verdict(table, setting, peer):
    """Compare fusions with one peer's best setting: won and lost problems, with those where the 68 % intervals are apart too."""
    won, clear, lost, timeouts, unknown = [], [], [], [], []
    for problem in PROBLEMS:
        ours, name = table.get((problem, OURS, setting)), best(table, problem, peer)
        if ours is None or name is None:
            unknown.append(problem)
            continue
        theirs = table[problem, peer, name]
        if not ours["W"] < theirs["W"]:
            lost.append(problem)
            continue
        won.append(problem)
        bounds = [s[side] if np.isfinite(s[side]) else s["W"] for s, side in ((ours, "high"), (theirs, "low"))]
        clear += [problem] if bounds[0] < bounds[1] else []
        timeouts += [problem] if theirs["lost"] else []
    named = [f"{len(won)} of {len(PROBLEMS)}", str(len(clear)), ", ".join(lost), ", ".join(timeouts), ", ".join(unknown)]
    return f"| {peer} | {' | '.join(cell or '-' for cell in named)} |"


def page(n_live):
    """Write benchmark.md."""
    table = scores([*load(PEERS, ROWS), *calibrated(), *calibrated(EXTENDED)])
    columns = ("sampler, setting", "seeds", "calls", "mean error", "rms error", "claimed", "mean pull", "W", "68 % interval of W", "s")
    lines = [
        "# Side by side with public samplers", "",
        "Written by `python paper/benchmark.py table` from rows in `results/benchmark.jsonl`, measured by `python paper/benchmark.py run`,",
        "and in `results/peers.jsonl`. The latter were measured before, with the same problems and settings but other code around them, on",
        "another shared machine of two cores: calls and errors can be compared, seconds can't. Of a seed in both the former counts.", "",
        "Errors are those of ln Z against the exact value (`tests/oracles.py`). W = mean calls x mean squared error: the calls that an",
        "error of 1 takes if errors fall with the root of the calls; small is good. Its interval is a bootstrap over seeds, too short with",
        "few; of one seed W itself is compared. All calls count, warm-up and refine phase too. A timeout or an error is a loss. nautilus",
        "claims no error; 1/sqrt(effective size) stands for it. Settings are listed in `samplers/`. A peer is compared by that of its",
        "settings which has the smallest W on the problem, and by however few seeds: both flatter it. The setting of fusions is",
        f'`nested(cost="expensive")` with the refine phase; "n_live {n_live}" has one number of live points for all, "{CALIBRATED}" takes',
        "the runs of `docs/calibration.md`, with 170 to 850 live points by problem, and on the funnel with `precision=0.005` and",
        "`max_calls=200_000`. These stop at an error of about 0.01, so that calls",
        f'for finding the posterior weigh much; "{EXTENDED}" are the same runs after',
        "`result.extend(n_eff=10_000)`, as many as nautilus draws by default.", "",
    ]  # fmt: skip
    ours = {setting for _, sampler, setting in table if sampler == OURS}
    for setting in (s for s in (f"n_live {n_live}", CALIBRATED, EXTENDED) if s in ours):
        lines += [
            f"## On how many problems W of fusions, {setting}, is below a peer's", "",
            "| peer | W below | intervals apart too | W above | peer's timeouts | not measured |", "|---|--:|--:|---|---|---|",
            *(verdict(table, setting, peer) for peer in SAMPLERS if peer != OURS), "",
        ]  # fmt: skip
    for problem in PROBLEMS:
        mine = sorted((key for key in table if key[0] == problem), key=lambda key: table[key]["W"])
        lines += [f"## {problem}", "", f"| {' | '.join(columns)} |", "|---" + "|--:" * (len(columns) - 1) + "|"]
        lines += [f"| {' | '.join(cells(*key[1:], table[key]))} |" for key in mine] + [""]
    PAGE.write_text("\n".join(lines).rstrip() + "\n")


def main():
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["run", "one", "table"])
    parser.add_argument("--samplers", nargs="+", choices=SAMPLERS, default=SAMPLERS[:1])
    parser.add_argument("--problems", nargs="+", choices=PROBLEMS, default=PROBLEMS)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first", type=int, default=0, help="first seed")
    parser.add_argument("--setting", help="default the first in the table of a sampler")
    parser.add_argument("--n-live", type=int, default=500, help="live points of fusions")
    parser.add_argument("--limit", type=float, default=1800, help="seconds per run")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.action == "one":
        one(json.loads(args.job))
        return
    if args.action == "run":
        campaign(args.samplers, args.problems, range(args.first, args.first + args.seeds), args.setting, args.n_live, args.limit)
    page(args.n_live)


if __name__ == "__main__":
    main()
