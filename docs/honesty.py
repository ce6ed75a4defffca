"""Measure whether runs that went wrong say so, and whether good ones keep quiet: runs made to fail, and default runs.

python docs/honesty.py run failing|good [--seeds N] [--first K] [--settings NAME ...] [--only PROBLEM ...]
python docs/honesty.py table      # writes docs/honesty.md from docs/results/honesty.jsonl
python docs/honesty.py silent     # prints what is known of each run that failed without a warning

Rows are appended one by one; a run that has one is not repeated.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from honesty_problems import PROBLEMS  # noqa: E402

import fusions  # noqa: E402
from fusions.kernels import FlowKernel, HitAndRun  # noqa: E402

ROWS, PAGE = HERE / "results" / "honesty.jsonl", HERE / "honesty.md"
FAILED = 3  # claimed errors
DOUBTFUL = 0.01  # p-value of the insertion ranks below which the printed table calls them doubtful or biased
LEAST_MASS = 0.0099  # of a mode that must be visited
LOST = 0.1  # of its exact mass, below which a mode counts as lost in the posterior
HASTY, HURRIED = fusions.Refine(max_rounds=2), fusions.Refine(max_rounds=1)
FAILING = {  # options of `nested`, and the refine phase
    "25 points": ({"n_live": 25, "cost": "expensive"}, True),
    "50 points": ({"n_live": 50, "cost": "expensive"}, True),
    "one slice": ({"n_live": 50, "cost": "expensive", "kernel": HitAndRun(n_slices=1)}, True),
    "one flow move": ({"n_live": 50, "cost": "expensive", "kernel": FlowKernel(n_moves=1)}, True),
    "one flow move, one round": ({"n_live": 30, "cost": "expensive", "kernel": FlowKernel(n_moves=1)}, HURRIED),
    "one slice, two rounds": ({"n_live": 100, "cost": "expensive", "kernel": HitAndRun(n_slices=1)}, HASTY),
}
GOOD = {"default": ({"n_live": 500}, True)}
SETTINGS = FAILING | GOOD
HARD = ("grid5", "trio4", "students4", "minor2", "spike4", "banana4", "ridge4", "twist", "grid3", "trio2", "ridge2", "ring")
EASY = ("minor2", "trio2", "grid3", "banana2", "students2", "ring", "twist", "corner3", "chain4", "spike2")
TRACED = ("unmoved", "parent_correlation", "walk_scale", "acceptance", "skill")


def load():
    """Read the rows measured so far."""
    return [json.loads(line) for line in ROWS.read_text().splitlines()] if ROWS.exists() else []


def run(settings, names, seeds):
    """Measure problem by problem, setting by setting: programs compiled for one seed serve the next."""
    done = {(r["setting"], r["problem"], r["seed"]) for r in load()}
    ROWS.parent.mkdir(exist_ok=True)
    for name in names:
        known = PROBLEMS[name]()
        for setting in settings:
            for seed in seeds:
                if (setting, name, seed) in done:
                    continue
                row = measure(setting, known, seed)
                with ROWS.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                said = f"warned ({len(row['warnings'])}, p {row['insertion_p']:.2g})" if warned(row) else "quiet"
                missing = f", never visited {row['unvisited']}" if row["unvisited"] else ""
                print(
                    f"{setting}, {name} {seed}: {pull(row):+.1f} sigma by {row['headline']}, {said}{missing}, {row['seconds']} s",
                    flush=True,
                )


def measure(setting, known, seed):
    """Run one problem and note what came out and every check."""
    start = time.perf_counter()
    options, refine = SETTINGS[setting]
    result = fusions.run(known.problem, fusions.nested(**options), key=seed, refine=refine, progress=False)
    p = result.insertion_pvalue
    theta, logw = result.posterior
    w = np.exp(logw - logw.max())
    masses = (w / w.sum()) @ known.inside(theta)
    count = [k for k, mass in enumerate(known.masses) if mass >= LEAST_MASS]
    seen = known.inside(result.theta).any(axis=0)
    refined = result.refined.to_json() if result.refined else {}
    return {
        "setting": setting, "problem": known.name, "seed": seed, "exact": known.logZ, "logZ": result.logZ, "err": result.logZ_err,
        "headline": result.headline.name, "warnings": list(result.headline.warnings), "insertion_p": 1.0 if p is None else p,
        "unvisited": [k for k in count if not seen[k]], "lost": [k for k in count if masses[k] < LOST * known.masses[k]],
        "notes": result.info["warnings"], "volumes": (result.evidence.logZ, result.evidence.logZ_err), "D_KL": result.D_KL,
        **{key: refined.get(key) for key in ("importance", "bridge", "coverage", "ess", "n_draws", "khat", "ode_error", "rounds")},
        **{key: round(float(np.nanmean(result.level_trace[key])), 4) for key in TRACED if np.any(np.isfinite(result.level_trace[key]))},
        "unique_live": result.n_unique_live, "n_live": result.n_live, "n_calls": result.n_calls, "status": result.status.name,
        "seconds": round(time.perf_counter() - start, 1), "version": fusions.__version__, "date": time.strftime("%Y-%m-%d"),
    }  # fmt: skip


def pull(row, key=None):
    """Return the error in claimed errors, of the headline or of one estimator."""
    logZ, err = row[key] if key else (row["logZ"], row["err"])
    return (logZ - row["exact"]) / max(err, 1e-9)


def failed(row):
    """Tell whether the headline is wrong although live points have visited every mode."""
    return abs(pull(row)) > FAILED and not row["unvisited"]


def warned(row):
    """Tell whether the printed table warns: by the checks of the headline or by the insertion ranks."""
    return bool(row["warnings"]) or row["insertion_p"] <= DOUBTFUL


def good(row):
    """Tell whether a run was one of the default settings and came out right."""
    return row["setting"] in GOOD and abs(pull(row)) <= FAILED and not row["unvisited"]


def share(part, whole):
    """Write how many of how many, with the percentage."""
    return f"{part} of {whole} ({100 * part / whole:.0f} %)" if whole else "none"


def table():
    """Write docs/honesty.md."""
    rows = load()
    wrong, right, unseen = [r for r in rows if failed(r)], [r for r in rows if good(r)], [r for r in rows if r["unvisited"]]
    clones = [r for r in wrong if r["status"] == "PLATEAU"]
    silent = [r for r in unseen if abs(pull(r)) > FAILED and not warned(r)]
    lines = [
        "# Does a run say so when it is wrong?", "",
        "Written by `python docs/honesty.py table` from the rows in `results/honesty.jsonl`, measured by `python docs/honesty.py run",
        "failing` and `run good`, all with the refine phase. Problems and exact evidences: `honesty_problems.py`; none of them was used to",
        f"choose a check. A run fails if its headline ln Z is more than {FAILED} claimed errors off, whatever its settings. A warning is",
        f"any of the headline's, or insertion ranks that the table calls doubtful or biased (p <= {DOUBTFUL}). Listed apart are runs in",
        "which no live point, dead ones included, ever lay in the core of a mode of 1 % or more: a run can't know of such a mode.",
        "", "| | runs | warned | limit |", "|---|--:|--:|--:|",
        f"| failed, every mode visited | {len(wrong)} | {share(sum(map(warned, wrong)), len(wrong))} | at least 90 % of at least 30 |",
        f"| default settings, not failed | {len(right)} | {share(sum(map(warned, right)), len(right))} | at most 5 % of at least 100 |",
        f"| a mode never visited | {len(unseen)} | {share(sum(map(warned, unseen)), len(unseen))} | not counted |", "",
        f"Of the failed runs {len(clones)} ended on a plateau: their live points had all become clones of one or two. Of the runs with a",
        f"mode never visited {len(silent)} are more than {FAILED} errors off without a warning.", "",
    ]  # fmt: skip
    for setting in dict.fromkeys(r["setting"] for r in rows):
        mine = [r for r in rows if r["setting"] == setting]
        lines += [f"## {setting.capitalize()}", "", described(*SETTINGS[setting]), "", *classes(mine)]
    PAGE.write_text("\n".join(lines).rstrip() + "\n")


def described(options, refine):
    """Write settings as they are typed."""
    words = [f"{key}={type(value).__name__}(...)" if key == "kernel" else f"{key}={value!r}" for key, value in options.items()]
    limit = "" if refine is True else f", at most {refine.max_rounds} round{'s' * (refine.max_rounds > 1)} in the refine phase"
    return f"`nested({', '.join(words)})`" + limit


def classes(rows):
    """Tabulate the rows of one setting by problem."""
    head = ("problem", "runs", "failed", "of these warned", "warned in all", "mode never visited", "rms error", "worst pull", "calls", "s")
    lines = [f"| {' | '.join(head)} |", "|---" + "|--:" * (len(head) - 1) + "|"]
    for name in dict.fromkeys(r["problem"] for r in rows):
        mine = [r for r in rows if r["problem"] == name]
        wrong, pulls = [r for r in mine if failed(r)], np.array([pull(r) for r in mine])
        cells = [
            name, len(mine), len(wrong), sum(map(warned, wrong)), sum(map(warned, mine)), sum(bool(r["unvisited"]) for r in mine),
            f"{np.sqrt(np.mean([(r['logZ'] - r['exact']) ** 2 for r in mine])):.3f}", f"{pulls[np.argmax(abs(pulls))]:+.1f}",
            f"{np.mean([r['n_calls'] for r in mine]):,.0f}", f"{np.median([r['seconds'] for r in mine]):.0f}",
        ]  # fmt: skip
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return [*lines, ""]


def silent_failures():
    """Print every check of the runs that failed without a warning."""
    for r in load():
        if not failed(r) or warned(r):
            continue
        print(f"{r['setting']}, {r['problem']} {r['seed']}: {r['headline']} {r['logZ']:.3f} +- {r['err']:.3f}, exact {r['exact']:.3f}")
        keys = [key for key in ("volumes", "importance", "bridge") if r[key]]
        print("   pulls    ", ", ".join(f"{key} {pull(r, key):+.1f} (+- {r[key][1]:.3f})" for key in keys))
        if r["importance"]:
            rounds = " ".join(f"{z - r['exact']:+.3f}/{fraction:.2f}" for z, _, fraction in r["rounds"])
            print(f"    draws      share {r['ess'] / r['n_draws']:.2f} of {r['n_draws']}, k-hat {r['khat']:.2f}, coverage {r['coverage']}")
            print(f"    rounds     {rounds} (error / effective fraction)")
        traced = ", ".join(f"{key} {r[key]:.2f}" for key in TRACED if key in r)
        print(f"    nested run p {r['insertion_p']:.2g}, {traced}, unique {r['unique_live']} of {r['n_live']}, lost modes {r['lost']}")
        print(f"    notes      {r['notes']}")


def main():
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["run", "table", "silent"])
    parser.add_argument("kind", choices=["failing", "good"], nargs="?", default="failing")
    parser.add_argument("--seeds", type=int, help="seeds of each problem and setting")
    parser.add_argument("--first", type=int, default=0, help="first seed")
    parser.add_argument("--settings", nargs="*", choices=list(SETTINGS))
    parser.add_argument("--only", nargs="*", choices=list(PROBLEMS), help="problems")
    args = parser.parse_args()
    if args.action == "silent":
        silent_failures()
        return
    if args.action == "run":
        settings, names, seeds = (FAILING, HARD, 3) if args.kind == "failing" else (GOOD, EASY, 11)
        run(args.settings or list(settings), args.only or names, range(args.first, args.first + (args.seeds or seeds)))
    table()


if __name__ == "__main__":
    main()
