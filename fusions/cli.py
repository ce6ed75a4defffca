"""Command line: fusions run | resume | summary | plot | export | check.

Exit codes: 0 done; 1 a file is damaged or can't be written; 2 wrong input or a failed likelihood; 3 incomplete, stopped by a limit;
128 + n stopped by signal n (130 SIGINT, 138 SIGUSR1, 143 SIGTERM). A run that exits with 3 or more has been saved and can be resumed.
"""

import argparse
import importlib.util
import json
import os
import sys
from pathlib import Path

from fusions.driver.signals import exit_code
from fusions.errors import FileError, FusionsError, LikelihoodError, OptionError, PrecisionError
from fusions.io import checkpoint
from fusions.io.files import write_atomically
from fusions.io.result_folder import MANIFEST
from fusions.report.exports import FORMATS

COMMAND = "command.json"  # what `fusions resume` needs to know
REMEMBERED = ("problem", "n_live", "seed", "no_refine")


def _split(spec):
    """Split FILE.py:NAME."""
    path, _, name = spec.partition(":")
    return Path(path), name or "problem"


def load_problem(spec):
    """Load 'model.py:problem': an attribute of a Python file, a Problem or a function that returns one."""
    from fusions.model.problem import Problem

    path, name = _split(spec)
    if not path.is_file() or path.suffix != ".py":
        raise OptionError(f"Expected FILE.py:NAME with an existing file, got {spec!r}. Type for example model.py:problem.")
    sys.path.insert(0, str(path.parent.resolve()))
    module_spec = importlib.util.spec_from_file_location(_module_name(path), path)
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[module_spec.name] = module
    module_spec.loader.exec_module(module)
    if not hasattr(module, name):
        raise OptionError(f"{path} has no {name!r}. Define `{name} = fusions.Problem(...)` there, or type {path}:OTHER_NAME.")
    found = getattr(module, name)
    found = found() if callable(found) else found
    if not isinstance(found, Problem):
        raise OptionError(f"Expected a fusions.Problem in {path}:{name}, got {type(found).__name__}. Type {path}:OTHER_NAME.")
    return found


def _module_name(path):
    """Name a file as workers of a pool can import it, or, if that is the name of something else, in a way that only we know."""
    known = importlib.util.find_spec(path.stem) if path.stem.isidentifier() else None
    is_it = known is not None and known.origin is not None and Path(known.origin).resolve() == path.resolve()
    return path.stem if is_it else f"_fusions_model_{path.stem}"


def _run(args):
    import fusions

    problem, algorithm = load_problem(args.problem), fusions.nested(n_live=args.n_live)
    options = {
        "key": args.seed,
        "max_calls": args.max_calls,
        "max_time": args.max_time,
        "progress": not args.quiet,
        "refine": not args.no_refine,
        "checkpoint": args.output,
        "checkpoint_every": args.checkpoint_every,
        "resume": not args.fresh,
        "pool": args.pool,
        "timeout": args.timeout,
        "devices": args.devices,
    }
    if args.fresh or not checkpoint.states(args.output):
        _remember(args)
    try:
        result = fusions.run(problem, algorithm, **options)
    except (LikelihoodError, PrecisionError) as error:
        if error.result is not None:
            error.result.save(args.output)
            print(f"What was computed before the failure is in {args.output}/.", file=sys.stderr)
        raise
    result.save(args.output)
    result.write_polychord(Path(args.output) / "chains")
    print(result)
    print(f"Saved in {args.output}/ (chains_* are PolyChord files for anesthetic.read_chains).")
    return _code(result, args.output)


def _remember(args):
    """Write down what `fusions resume` needs to know."""
    path, name = _split(args.problem)
    command = {**{option: getattr(args, option) for option in REMEMBERED}, "problem": f"{path.resolve()}:{name}"}
    Path(args.output).mkdir(parents=True, exist_ok=True)
    write_atomically(Path(args.output) / COMMAND, json.dumps(command).encode())


def _code(result, directory):
    """Choose the exit code, and say how to go on."""
    if result.status.complete and not result.info["cut"]:
        return 0
    print(f"Go on with `fusions resume {directory}`.")
    return exit_code(result.info["signal"]) if result.info["signal"] else 3


def _resume(args):
    try:
        remembered = json.loads((Path(args.output) / COMMAND).read_text())
    except (OSError, ValueError) as error:
        raise FileError(
            f"Can't read {COMMAND} in {args.output} ({error}). Give the folder of `fusions run -o`, or type that command again; a run that "
            "a script began goes on when you start the script again."
        ) from error
    for name in REMEMBERED:
        setattr(args, name, remembered[name])
    args.fresh = False
    return _run(args)


def _load(directory):
    """Load a result, or say that the run has none yet."""
    from fusions.results.result import Result

    if not (Path(directory) / MANIFEST).is_file() and checkpoint.states(directory):
        again = f"Type `fusions resume {directory}`" if (Path(directory) / COMMAND).is_file() else "Start the script again that began it"
        raise FileError(f"{directory} holds a run that was killed or still goes on, no result yet. {again}.")
    return Result.load(directory)


def _export(args):
    result = _load(args.directory)
    root = args.output or str(Path(args.directory) / "chains")
    for path in result.export(args.format, root):
        print(path)
    return 0


def _check(args):
    from fusions.results.integrity import verify

    findings = verify(args.directory)
    for finding in findings:
        print(f"{finding.verdict:4}  {finding.text}")
    return int(any(finding.verdict == "bad" for finding in findings))


def _summary(args):
    print(_load(args.directory))
    return 0


def _plot(args):
    from fusions import plot

    for path in plot.save_all(_load(args.directory), args.directory):
        print(path)
    return 0


def _add_execution(command):
    """Add the options that steer a run without changing its numbers."""
    command.add_argument("--max-calls", type=int, help="stop after this many likelihood calls")
    command.add_argument("--max-time", type=float, help="stop after this many seconds")
    command.add_argument("--checkpoint-every", type=float, default=60.0, metavar="S", help="seconds between saves (default 60)")
    command.add_argument("--pool", type=int, metavar="N", help="processes that call a black-box likelihood")
    command.add_argument("--timeout", type=float, metavar="S", help="seconds that a call in a pool may take")
    command.add_argument("--devices", type=int, metavar="N", help="devices that share what JAX compiles (default 1)")
    command.add_argument("-q", "--quiet", action="store_true", help="no progress bar")


def make_parser():
    """Describe the commands."""
    parser = argparse.ArgumentParser(prog="fusions", description="Bayesian evidence by diffusion-augmented nested sampling.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    codes = (
        "Exit codes: 0 done, 1 disk trouble, 2 wrong input, 3 stopped by a limit, 130, 138 or 143 stopped by SIGINT, SIGUSR1 or SIGTERM."
    )
    run = commands.add_parser("run", help="compute the evidence of a problem in a Python file; again: resume", description=codes)
    run.add_argument("problem", help="FILE.py:NAME of a fusions.Problem (or of a function that returns one)")
    run.add_argument("-o", "--output", required=True, metavar="DIR", help="folder for the checkpoint and the result")
    run.add_argument("--n-live", type=int, default=500, help="live points (default 500)")
    run.add_argument("--seed", type=int, default=0, help="random seed (default 0)")
    run.add_argument("--no-refine", action="store_true", help="stop after the nested run, without importance and bridge estimates")
    run.add_argument("--fresh", action="store_true", help="start afresh, removing the run that is in DIR")
    _add_execution(run)
    run.set_defaults(action=_run)
    again = commands.add_parser("resume", help="go on with a run that was killed or stopped", description=codes)
    again.add_argument("output", metavar="DIR")
    _add_execution(again)
    again.set_defaults(action=_resume)
    for name, action, text in (
        ("summary", _summary, "print a saved result"),
        ("plot", _plot, "draw a saved result's figures into its folder"),
        ("export", _export, "write a saved result in another format"),
        ("check", _check, "verify checksums, ledger and diagnostics; exit code 1 if something is damaged"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("directory", metavar="DIR")
        command.set_defaults(action=action)
        if action is _export:
            command.add_argument("--format", required=True, choices=tuple(FORMATS))
            command.add_argument("-o", "--output", metavar="ROOT", help="path of the files without suffix (default DIR/chains)")
    return parser


def main(argv=None):
    """Run the command line; returns the exit code."""
    args = make_parser().parse_args(argv)
    try:
        return args.action(args)
    except FusionsError as error:
        print(f"fusions: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # nobody reads any more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        print(f"fusions: {error}. The last good state of the run is intact.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("fusions: interrupted", file=sys.stderr)
        return exit_code("SIGINT")


if __name__ == "__main__":
    sys.exit(main())
