"""Command line: fusions run | summary | plot."""

import argparse
import importlib.util
import sys
from pathlib import Path

from fusions.errors import FusionsError, LikelihoodError, OptionError


def load_problem(spec):
    """Load 'model.py:problem': an attribute of a Python file, a Problem or a function that returns one."""
    path, _, name = spec.partition(":")
    path, name = Path(path), name or "problem"
    if not path.is_file() or path.suffix != ".py":
        raise OptionError(f"Expected FILE.py:NAME with an existing file, got {spec!r}. Type for example model.py:problem.")
    module_spec = importlib.util.spec_from_file_location(f"_fusions_model_{path.stem}", path)
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[module_spec.name] = module
    sys.path.insert(0, str(path.parent.resolve()))
    module_spec.loader.exec_module(module)
    if not hasattr(module, name):
        raise OptionError(f"{path} has no {name!r}. Define `{name} = fusions.Problem(...)` there, or type {path}:OTHER_NAME.")
    found = getattr(module, name)
    return found() if callable(found) else found


def _run(args):
    import fusions

    algorithm = fusions.nested(n_live=args.n_live)
    options = {
        "key": args.seed,
        "max_calls": args.max_calls,
        "max_time": args.max_time,
        "progress": not args.quiet,
        "refine": not args.no_refine,
    }
    try:
        result = fusions.run(load_problem(args.problem), algorithm, **options)
    except LikelihoodError as error:
        if error.result is not None:
            error.result.save(args.output)
            print(f"What was computed before the failure is in {args.output}/.", file=sys.stderr)
        raise
    result.save(args.output)
    result.write_polychord(Path(args.output) / "chains")
    print(result)
    print(f"Saved in {args.output}/ (chains_* are PolyChord files for anesthetic.read_chains).")
    return 0 if result.status.complete else 3


def _summary(args):
    from fusions.result import Result

    print(Result.load(args.directory))
    return 0


def _plot(args):
    from fusions import plot
    from fusions.result import Result

    for path in plot.save_all(Result.load(args.directory), args.directory):
        print(path)
    return 0


def make_parser():
    """Describe the commands."""
    parser = argparse.ArgumentParser(prog="fusions", description="Bayesian evidence by diffusion-augmented nested sampling.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="compute the evidence of a problem in a Python file", description="Exit code 3: incomplete run.")
    run.add_argument("problem", help="FILE.py:NAME of a fusions.Problem (or of a function that returns one)")
    run.add_argument("-o", "--output", required=True, metavar="DIR", help="folder for the result")
    run.add_argument("--n-live", type=int, default=500, help="live points (default 500)")
    run.add_argument("--seed", type=int, default=0, help="random seed (default 0)")
    run.add_argument("--max-calls", type=int, help="stop after this many likelihood calls")
    run.add_argument("--max-time", type=float, help="stop after this many seconds")
    run.add_argument("--no-refine", action="store_true", help="stop after the nested run, without importance and bridge estimates")
    run.add_argument("-q", "--quiet", action="store_true", help="no progress bar")
    run.set_defaults(action=_run)
    for name, action, text in (
        ("summary", _summary, "print a saved result"),
        ("plot", _plot, "draw a saved result's figures into its folder"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("directory", metavar="DIR")
        command.set_defaults(action=action)
    return parser


def main(argv=None):
    """Run the command line; returns the exit code: 0 done, 2 wrong input, 3 incomplete run."""
    args = make_parser().parse_args(argv)
    try:
        return args.action(args)
    except FusionsError as error:
        print(f"fusions: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
