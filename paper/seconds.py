"""Compare the seconds of samplers on one core: whole processes with nothing cached, with programs on disk, and for a second problem.

python paper/seconds.py [--samplers NAME ...] [--problem rosenbrock2] [--second eggbox2] [--seeds 3]     # writes paper/seconds.md

Run it with an interpreter that has all of the samplers and jax, on an otherwise idle machine. Each process runs the first problem, then the
second one, of as many parameters; processor seconds are those of the whole process, imports included.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time

import numpy as np
from benchmark import HERE, OURS, environment, settings_of, today

SAMPLERS = ("fusions", "dynesty", "ultranest", "nautilus", "blackjax_nss", "jaxns")
PAGE, ROWS = HERE / "seconds.md", HERE / "results" / "seconds.jsonl"


def used():
    """Return the processor seconds of this process so far."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def child(job):
    """Run both problems here and print what they took, as JSON."""
    import importlib

    from targets import oracle

    adapter, rows, before = importlib.import_module(f"samplers.{job['sampler']}"), [], 0.0
    for problem in job["problems"]:
        found = adapter.run(problem, job["seed"], **job["options"])
        now = used()
        rows.append({"cpu": now - before, "error": float(found["logZ"]) - oracle(problem).logZ, "claimed": float(found["err"])})
        rows[-1] |= {"n_calls": int(found["n_calls"]), "version": found["version"]}
        before = now
    print(json.dumps(rows))


def attempt(sampler, seed, problems, cache):
    """Run a sampler in a process of its own, with compiled programs kept in a folder; returns the rows of both problems."""
    name, options = settings_of(sampler, "plain" if sampler == OURS else None, 500)
    job = {"sampler": sampler, "seed": seed, "problems": problems, "options": options}
    kept = {"JAX_COMPILATION_CACHE_DIR": cache, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, __file__, "--job", json.dumps(job)], stdout=subprocess.PIPE, text=True, check=True,
        env=environment(sampler) | kept,
    )  # fmt: skip
    return name, json.loads(done.stdout.splitlines()[-1]), time.perf_counter() - start


def measure(samplers, problems, seeds):
    """Measure each sampler in turn, seed by seed, and append a row for each process; what there is a row of is left out."""
    ROWS.parent.mkdir(exist_ok=True)
    for seed in seeds:
        for sampler in samplers:
            if any((row["sampler"], row["seed"], row["problems"]) == (sampler, seed, problems) for row in load()):
                continue
            with tempfile.TemporaryDirectory() as cache:
                for state in ("cold", "warm"):
                    setting, found, wall = attempt(sampler, seed, problems, cache)
                    row = {
                        "sampler": sampler,
                        "setting": setting,
                        "state": state,
                        "seed": seed,
                        "problems": problems,
                        "wall": round(wall, 1),
                    }
                    with ROWS.open("a") as file:
                        file.write(json.dumps(row | {"rows": found, "date": today()}) + "\n")
                    print(sampler, seed, state, *(f"{r['cpu']:.1f} s {r['error']:+.3f} +- {r['claimed']:.3f}" for r in found), flush=True)


def load():
    """Read all rows."""
    return [json.loads(line) for line in ROWS.read_text().splitlines()] if ROWS.exists() else []


HEAD = """# Seconds

Processor seconds of whole processes on one core, medians over seeds: {0} with nothing cached (cold) and with programs on disk (warm), then
{1} in the cold and in the warm process. Errors are rms over the seeds; made by `python paper/seconds.py`.

| sampler | version | seeds | cold | warm | second, cold | second, warm | wall, both, cold | error of {0} (claimed) | calls |
|---|---|--:|--:|--:|--:|--:|--:|--:|--:|
"""


def page(problems):
    """Write the table."""
    runs = [row for row in load() if row["problems"] == problems]
    names = dict.fromkeys(row["sampler"] for row in runs)
    PAGE.write_text(HEAD.format(*problems) + "".join(line([row for row in runs if row["sampler"] == name]) for name in names))


def line(runs):
    """Write the line of one sampler."""
    seconds = [[row["rows"][i]["cpu"] for row in runs if row["state"] == state] for i in range(2) for state in ("cold", "warm")]
    first = [row["rows"][0] for row in runs if row["state"] == "cold"]
    wall = np.median([row["wall"] for row in runs if row["state"] == "cold"])
    error, claimed = np.sqrt(np.mean([r["error"] ** 2 for r in first])), np.mean([r["claimed"] for r in first])
    cells = [
        runs[0]["sampler"],
        first[0]["version"],
        str(len(first)),
        *(f"{np.median(s):.1f}" if s else "-" for s in seconds),
        f"{wall:.1f}",
    ]
    return f"| {' | '.join(cells)} | {error:.3f} ({claimed:.3f}) | {np.mean([r['n_calls'] for r in first]):,.0f} |\n"


def main():
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samplers", nargs="+", choices=SAMPLERS, default=SAMPLERS)
    parser.add_argument("--problem", default="rosenbrock2")
    parser.add_argument("--second", default="eggbox2")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--job", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.job:
        child(json.loads(args.job))
        return
    measure(args.samplers, [args.problem, args.second], range(args.seeds))
    page([args.problem, args.second])


if __name__ == "__main__":
    main()
