"""Bad inputs and faults, each with the error that it gets, and with what must survive it.

Here are those that no other file has; docs/faults.md lists all of them with their texts:

python tests/test_faults.py > docs/faults.md
"""

import errno
import functools
import hashlib
import io
import json
import math
import os
import random
import re
import sys
import tempfile
import warnings
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import jax
import numpy as np
import pool_models
import pytest
from ledgers import make_result

import fusions
from fusions import cli, kernels, plot
from fusions import priors as pr
from fusions.errors import FileError, FusionsError, LikelihoodError, OptionError, PrecisionError, PriorError, ProblemError, Status
from fusions.model.likelihood import make_evaluator, workers_of
from fusions.results.result import Result

SLICE = fusions.nested(n_live=20, kernel=kernels.HitAndRun(), kill=0.5, cost="cheap")
SQUARE = fusions.Prior(x=pr.uniform(0, 1), y=pr.uniform(0, 1))
SWITCH = pool_models.Switch(pool_models.quiet)
BOX = fusions.Problem(SQUARE, SWITCH, traceable=False)
OTHER = fusions.Problem(fusions.Prior(z=pr.uniform(0, 1)), lambda p: p["z"])


class Fault(NamedTuple):
    """What is done wrong, and what comes of it.

    Attributes
    ----------
    what : in words or code.
    do : function of an empty folder that does it.
    error : type of the error.
    match : pattern of its text.
    kept : what must survive, or "".
    """

    what: str
    do: Any
    error: type
    match: str
    kept: str = ""


def number(start, span, width, constant=0.0):
    """Make a problem of one number within a span, in the middle of which is a normal likelihood of a relative width."""
    prior = fusions.Prior(a=pr.uniform(start, start + span))
    return fusions.Problem(prior, lambda p: -0.5 * ((p["a"] - start - 0.5 * span) / (width * span)) ** 2 + constant, traceable=False)


HUGE = fusions.Problem(
    fusions.Prior(u=pr.uniform(0, 10), transform=lambda p: {"a": p["u"] * 1e308}), lambda p: -p["u"], traceable=False
)  # fmt: skip


class Refused(Exception):
    """The command line ended with exit code 2 and this text."""


@functools.cache
def result():
    return make_result(n_live=60, n_kill=20, info={"fingerprint": BOX.fingerprint()})


def saved(folder):
    """Save a result with another number of calls than `result` into a folder."""
    fusions.Result(**{**vars_of(result()), "n_calls": 7}).save(folder)
    return folder


def vars_of(thing):
    return {name: getattr(thing, name) for name in Result.__dataclass_fields__}


def changed(folder, **fields):
    """Load a saved run after a change of its manifest; None takes a field away."""
    path = saved(folder) / "result.json"
    manifest = {**json.loads(path.read_text()), "checksum": None, **fields}
    path.write_text(json.dumps({k: v for k, v in manifest.items() if v is not None}))
    return Result.load(folder)


def with_arrays(folder, data):
    """Load a saved run whose arrays were replaced by bytes that have the right checksum."""
    next(saved(folder).glob("*.npz")).write_bytes(data)
    name = json.loads((folder / "result.json").read_text())["arrays"]
    (folder / name).write_bytes(data)
    manifest = {**json.loads((folder / "result.json").read_text()), "sha256": hashlib.sha256(data).hexdigest()}
    del manifest["checksum"]
    (folder / "result.json").write_text(json.dumps(manifest))
    return Result.load(folder)


def flipped(folder):
    path = next(saved(folder).glob("*.npz"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    return Result.load(folder)


def pickled():
    buffer = io.BytesIO()
    np.savez(buffer, theta=np.array([{}], dtype=object))
    return buffer.getvalue()


def manifest_of(folder, data):
    (saved(folder) / "result.json").write_bytes(data)
    return Result.load(folder)


def failing(what, number, nth=1):
    """Let the n-th call of a function of the file system fail."""
    calls = []
    original = getattr(os, what)

    def fail(*args, **options):
        calls.append(1)
        if len(calls) == nth:
            raise OSError(number, os.strerror(number))
        return original(*args, **options)

    return mock.patch.object(os, what, fail)


def save_over(folder, patch):
    saved(folder)
    with patch:
        result().save(folder)


def file_at(folder):
    (folder / "file").write_text("no folder")
    return folder / "file"


def run(*args, **options):
    return fusions.run(*(args or (BOX, SLICE)), **{"progress": False, "refine": False, **options})


def likelihood(function, **options):
    """Run with a black box."""
    return run(fusions.Problem(SQUARE, function, **({"traceable": False} if not options.get("vectorized") else {}), **options), SLICE)


def later(function, n=60, **options):
    """Run a black box that behaves for n calls; BOX is compiled once."""
    calls = []

    def loglikelihood(p):
        calls.append(1)
        return pool_models.quiet(p) if len(calls) <= n else function(p)

    SWITCH.function = loglikelihood
    try:
        return run(**options)
    finally:
        SWITCH.function = pool_models.quiet


def in_pool(function, **options):
    """Evaluate a few points in a pool."""
    rows = np.array([[0.1, 0.1], [-0.1, 0.3]])  # x = 0.54, 0.46
    problem = fusions.Problem(SQUARE, function, traceable=False)
    with workers_of(problem, 2, options.get("timeout")):
        return make_evaluator(problem).rows(rows)


def sometimes(u):
    return u if float(u) < 0.9 else 1 / 0


def infinite(u):
    return u if float(u) < 0.9 else math.inf


def raise_(error):
    raise error


def command(*words):
    """Call the command line."""
    text = io.StringIO()
    with redirect_stderr(text), redirect_stdout(io.StringIO()):
        try:
            code = cli.main([str(word) for word in words])
        except SystemExit as error:
            code = error.code
    if code == 2:
        raise Refused(" ".join(text.getvalue().split()))


def model(folder, text):
    path = folder / "model.py"
    path.write_text(text)
    return path


EARLIER = "the run saved there before loads"
COMPUTED = "error.result holds what was computed"

FILES = [
    Fault("Result.load of a file", lambda t: Result.load(file_at(t)), FileError, "Expected a saved run in .*found no result.json"),
    Fault("one bit of the arrays flipped", flipped, FileError, "truncated or changed: its checksum"),
    Fault("arrays that are no archive, checksum right", lambda t: with_arrays(t, b"hello"), FileError, "something else than arrays"),
    Fault("an archive cut short, checksum right", lambda t: with_arrays(t, pickled()[:99]), FileError, "something else than arrays"),
    Fault("pickled objects among the arrays", lambda t: with_arrays(t, pickled()), FileError, "something else than arrays of numbers"),
    Fault("empty manifest", lambda t: manifest_of(t, b""), FileError, "result.json is damaged"),
    Fault("manifest that is no text", lambda t: manifest_of(t, b"\xff\xfe\x00"), FileError, "result.json is damaged"),
    Fault("manifest without a status", lambda t: changed(t, status=None), FileError, "lacks or contradicts a field"),
    Fault("manifest without names", lambda t: changed(t, names=None), FileError, "lacks or contradicts a field"),
    Fault("manifest without a format", lambda t: changed(t, format=None), FileError, "was not written by fusions"),
    Fault("manifest that names no arrays", lambda t: changed(t, arrays=None), FileError, "names None, which is missing"),
    Fault("n_live as a text", lambda t: changed(t, n_live="many"), FileError, "n_live to be of type int, got 'many'"),
    Fault("info as a number", lambda t: changed(t, info=3), FileError, "info to be of type dict, got 3"),
    Fault("seconds as a list", lambda t: changed(t, seconds=[1]), FileError, "seconds to be of type dict"),
    Fault("labels as a list", lambda t: changed(t, labels=["a"]), FileError, "labels to be of type dict"),
    Fault("refine phase as a number", lambda t: changed(t, refined=3), FileError, "lacks or contradicts a field"),
    Fault("refine phase without its estimate", lambda t: changed(t, refined={"ess": 9.0}), FileError, "a field .'importance'"),
    Fault("refine phase of a newer version", lambda t: changed(t, refined={"version": 9}), FileError, "in version 9 .*Install the fusions"),
    Fault("save into a folder under a file", lambda t: result().save(file_at(t) / "a"), FileError, "Can't write to .*still in memory"),
    Fault("save where a file is", lambda t: result().save(file_at(t)), FileError, "Can't write to .*File exists"),
    Fault("write_csv under a file", lambda t: result().write_csv(file_at(t) / "a"), FileError, "Can't write to"),
    Fault("write_polychord under a file", lambda t: result().write_polychord(file_at(t) / "a"), FileError, "Can't write to"),
    Fault("disk full at the arrays", lambda t: save_over(t, failing("fsync", errno.ENOSPC)), FileError, "No space left", EARLIER),
    Fault("disk full at the manifest", lambda t: save_over(t, failing("fsync", errno.ENOSPC, 2)), FileError, "No space left", EARLIER),
    Fault("quota exceeded", lambda t: save_over(t, failing("fsync", errno.EDQUOT)), FileError, "quota", EARLIER),
    Fault("input/output error", lambda t: save_over(t, failing("fsync", errno.EIO)), FileError, "Input/output error", EARLIER),
    Fault("read-only folder", lambda t: save_over(t, failing("replace", errno.EROFS)), FileError, "Read-only", EARLIER),
    Fault("no permission at the manifest", lambda t: save_over(t, failing("replace", errno.EACCES, 2)), FileError, "Permission", EARLIER),
]
RESULTS = [
    Fault('equal_weights("a")', lambda t: result().equal_weights("a"), OptionError, "n >= 1 draws, got 'a'"),
    Fault("equal_weights(2.5)", lambda t: result().equal_weights(2.5), OptionError, "n >= 1 draws, got 2.5"),
    Fault("draw(5) without flows", lambda t: result().draw(5), OptionError, "has no flows.*fusions.attach"),
    Fault("draw(0)", lambda t: result().draw(0), OptionError, "positive integer, got 0"),
    Fault("draw(True)", lambda t: result().draw(True), OptionError, "positive integer, got True"),  # noqa: FBT003
    Fault("extend without flows", lambda t: result().extend(n_eff=9), OptionError, "has no flows"),
    Fault("reweight to one number", lambda t: result().reweight(lambda p: 0.0), OptionError, r"return \(\d+,\) values.*got shape \(\)"),
    Fault("reweight to NaN", lambda t: result().reweight(lambda p: np.full(len(result().logL), np.nan)), OptionError, "not NaN"),
    Fault(
        "reweight to nothing",
        lambda t: result().reweight(lambda p: np.full(len(result().logL), -np.inf)),
        OptionError,
        "zero at all of them",
    ),
    Fault("attach(result, prior)", lambda t: fusions.attach(result(), SQUARE), OptionError, "Expected a fusions.Problem, got Prior"),
    Fault("attach to another problem", lambda t: fusions.attach(result(), OTHER), OptionError, "not the one of this result"),
    Fault("hot_start(prior, result)", lambda t: fusions.hot_start(SQUARE, result()), OptionError, "Expected a fusions.Problem, got Prior"),
    Fault("hot_start without flows", lambda t: fusions.hot_start(BOX, result()), OptionError, "Run with refine=True"),
    Fault("attach without flows", lambda t: fusions.attach(result(), BOX), OptionError, "no flows that fit"),
    Fault("merge([3])", lambda t: fusions.merge([3]), OptionError, "non-empty list of Results"),
    Fault('plot.corner(result, ["q"])', lambda t: plot.corner(result(), ["q"]), OptionError, r"list out of .*got \['q'\]"),
    Fault("fusions.nest", lambda t: fusions.nest, AttributeError, "has no attribute 'nest'; it has"),
]
OPTIONS = [
    Fault('run(..., refine="no")', lambda t: run(refine="no"), OptionError, "refine to be True, False or"),
    Fault("run(..., refine=None)", lambda t: run(refine=None), OptionError, "refine to be True, False or"),
    Fault("run(..., refine=Refine)", lambda t: run(refine=fusions.Refine), OptionError, "refine to be True, False or"),
    Fault("Refine(error=0)", lambda t: run(refine=fusions.Refine(error=0)), OptionError, "error of Refine to be > 0, got 0"),
    Fault("Refine(error=nan)", lambda t: run(refine=fusions.Refine(error=math.nan)), OptionError, "error of Refine to be > 0, got nan"),
    Fault("Refine(max_rounds=0)", lambda t: run(refine=fusions.Refine(max_rounds=0)), OptionError, "max_rounds of Refine to be >= 1"),
    Fault("Refine(max_draws=-5)", lambda t: run(refine=fusions.Refine(max_draws=-5)), OptionError, "max_draws of Refine to be >= 1"),
    Fault("Refine(kernel=Jump)", lambda t: run(refine=fusions.Refine(kernel=kernels.Jump)), OptionError, "kernel of Refine to be a kernel"),
    Fault("Jump(slides=2)", lambda t: kernels.Jump(slides=2), OptionError, "slides of Jump to be between 0 and 1, got 2"),
    Fault("Jump(components=0)", lambda t: kernels.Jump(components=0), OptionError, "components of Jump to be a positive integer"),
    Fault("devices=0", lambda t: run(devices=0), OptionError, "devices to be between 1 and"),
    Fault('devices="cpu"', lambda t: run(devices="cpu"), OptionError, "a number, a list of JAX devices or None, got 'cpu'"),
    Fault("devices=[]", lambda t: run(devices=[]), OptionError, "a number, a list of JAX devices or None"),
    Fault("devices=[first, first]", lambda t: run(devices=jax.devices()[:1] * 2), OptionError, "different devices of one kind"),
    Fault("max_batch=0", lambda t: run(max_batch=0), OptionError, "max_batch to be a positive number of rows or None, got 0"),
    Fault("max_batch=1.5", lambda t: run(max_batch=1.5), OptionError, "max_batch to be a positive number of rows or None, got 1.5"),
    Fault("run(problem, nested)", lambda t: run(BOX, fusions.nested), OptionError, r"Expected fusions.nested\(...\), got"),
    Fault("run(problem, kernel)", lambda t: run(BOX, kernels.HitAndRun()), OptionError, r"Expected fusions.nested\(...\), got"),
    Fault("run(loglikelihood)", lambda t: run(pool_models.quiet), ProblemError, "Expected a fusions.Problem, got function"),
    Fault("key=2**70", lambda t: run(key=2**70), OptionError, "seed below 2\\^63, got 118"),
    Fault('key="a"', lambda t: run(key="a"), OptionError, "integer seed.*got 'a'"),
    Fault("max_calls=nan", lambda t: run(max_calls=math.nan), OptionError, "max_calls > 0 or None, got nan"),
    Fault("max_time=nan", lambda t: run(max_time=math.nan), OptionError, "max_time > 0 or None, got nan"),
    Fault('nested(n_live="500")', lambda t: fusions.nested(n_live="500"), OptionError, "n_live to be an integer >= 20, got '500'"),
    Fault("nested(precision=nan)", lambda t: fusions.nested(precision=math.nan), OptionError, "0 < precision < 1"),
    Fault("Cycle(())", lambda t: kernels.Cycle(()), OptionError, r"non-empty sequence of kernels, got \(\)"),
    Fault('Cycle("ab")', lambda t: kernels.Cycle("ab"), OptionError, r"sequence of kernels, got \('a', 'b'\)"),
    Fault("Cycle((HitAndRun,))", lambda t: kernels.Cycle((kernels.HitAndRun,)), OptionError, "sequence of kernels, got"),
    Fault("FlowKernel(n_moves=0)", lambda t: kernels.FlowKernel(n_moves=0), OptionError, "n_moves of FlowKernel to be a positive"),
    Fault("FlowKernel(flow=3)", lambda t: kernels.FlowKernel(flow=3), OptionError, "flow to be settings of a flow, got 3"),
    Fault("HitAndRun(0)", lambda t: kernels.HitAndRun(0), OptionError, "n_slices of HitAndRun to be a positive"),
    Fault("HitAndRun(max_tries=-1)", lambda t: kernels.HitAndRun(max_tries=-1), OptionError, "max_tries of HitAndRun"),
    Fault("RandomWalk(2.5)", lambda t: kernels.RandomWalk(2.5), OptionError, "n_moves of RandomWalk to be a positive integer, got 2.5"),
]
LIKELIHOODS = [
    Fault("a text", lambda t: likelihood(lambda p: "-1.5"), LikelihoodError, "at x=.*log L to be a number, got '-1.5'"),
    Fault("True", lambda t: likelihood(lambda p: p["x"] >= 0), LikelihoodError, "at x=.*log L to be a number, got True"),
    Fault("a dict", lambda t: likelihood(lambda p: {"logL": 1.0}), LikelihoodError, "returned a dict of 1, expected log L alone"),
    Fault("a generator", lambda t: likelihood(lambda p: (v for v in [1.0])), LikelihoodError, "log L to be a number, got <generator"),
    Fault("a function", lambda t: likelihood(lambda p: math.log), LikelihoodError, "log L to be a number, got <built-in"),
    Fault("an integer beyond floats", lambda t: likelihood(lambda p: 10**400), LikelihoodError, "log L to be a number, got 1000"),
    Fault("endless recursion", lambda t: likelihood(lambda p: raise_(RecursionError("depth"))), LikelihoodError, "raised RecursionError"),
    Fault("MemoryError", lambda t: likelihood(lambda p: raise_(MemoryError("8 GB"))), LikelihoodError, "raised MemoryError: 8 GB at x="),
    Fault("missing data file", lambda t: likelihood(lambda p: open(t / "data")), LikelihoodError, "raised FileNotFoundError.*data.* at x="),
    Fault("domain error", lambda t: likelihood(lambda p: math.log(p["x"] - 2)), LikelihoodError, "raised ValueError: .* at x="),
    Fault("vectorized, 3 rows", lambda t: likelihood(lambda p: p["x"][:3], vectorized=True), LikelihoodError, r"shape \(20,\), got"),
    Fault("vectorized, a column", lambda t: likelihood(lambda p: p["x"][:, None], vectorized=True), LikelihoodError, r"shape \(20, 1\)"),
    Fault("vectorized, NaN once", lambda t: likelihood(lambda p: np.where(p["x"] < 0.5, p["x"], np.nan), vectorized=True), LikelihoodError,
          r"is nan at x=0\.[5-9]"),
    Fault("array of strings", lambda t: likelihood(lambda p: np.array("a")), LikelihoodError, "log L to be a number"),
    Fault("blobs forgotten", lambda t: likelihood(lambda p: 1.0, blobs=["b"]), LikelihoodError, r"to return \(logL, blobs\)"),
    Fault("text as a blob", lambda t: likelihood(lambda p: (1.0, {"b": "c"}), blobs=["b"]), LikelihoodError, "blob 'b' to be a number"),
    Fault("a text, later", lambda t: later(lambda p: "-1.5"), LikelihoodError, "log L to be a number", COMPUTED),
    Fault("MemoryError, later", lambda t: later(lambda p: raise_(MemoryError("8 GB"))), LikelihoodError, "raised MemoryError", COMPUTED),
    Fault("a list, later", lambda t: later(lambda p: [1.0, 2.0]), LikelihoodError, "returned a list of 2", COMPUTED),
]  # fmt: skip
NUMBERS = [
    Fault('precision="half"', lambda t: run(precision="half"), OptionError, 'precision of run to be "double" or "single", got \'half\''),
    Fault(
        "Julian days in single precision", lambda t: run(number(2457394, 1, 1e-3), precision="single"), PrecisionError, "in a: subtract"
    ),
    Fault("1000 ns in Unix time", lambda t: run(number(1.7e18, 1e9, 1e-6)), PrecisionError, "in a: subtract a ref"),
    Fault("log L with a constant of -1e15", lambda t: run(number(0, 1, 0.1, -1e15)), PrecisionError, "in log L: leave a constant out"),
    Fault("log L = -1e30 at all draws", lambda t: run(fusions.Problem(SQUARE, lambda p: -1e30)), LikelihoodError, "a stand-in for -inf"),
    Fault("a prior of numbers beyond 1e308", lambda t: run(HUGE), LikelihoodError, "The prior gave u=.*, a=inf"),
    Fault(
        "random numbers in plain arithmetic", lambda t: run(fusions.Problem(SQUARE, lambda p: p["x"] + random.random())), LikelihoodError,
        "not deterministic",
    ),
    Fault("cache_programs(3)", lambda t: fusions.cache_programs(3), OptionError, "the path of a folder or None, got 3"),
]  # fmt: skip
PRIORS = [
    Fault(
        "a transform that gives infinity at some points",
        lambda t: run(fusions.Problem(fusions.Prior(x=pr.icdf(infinite)), lambda p: 0.0), SLICE),
        LikelihoodError,
        "The prior gave x=inf at one of its draws",
    ),
    Fault(
        "a transform that fails at some points",
        lambda t: run(fusions.Problem(fusions.Prior(x=pr.icdf(sometimes)), lambda p: 0.0, traceable=False), SLICE),
        LikelihoodError,
        "The prior failed at one of 20 points: ZeroDivisionError",
    ),
    Fault("a prior drawn by scipy's frozen discrete law", lambda t: fusions.Prior(x=__import__("scipy.stats").stats.poisson(2)), PriorError,
          "is discrete"),
]  # fmt: skip
POOLS = [
    Fault("a call that exits in a worker", lambda t: in_pool(pool_models.leave), LikelihoodError, "raised SystemExit: good bye at x="),
    Fault("os._exit in a worker", lambda t: in_pool(pool_models.Fault("leave")), LikelihoodError, "ended its worker process"),
    Fault(
        "kill -9 of a worker, at each attempt", lambda t: in_pool(pool_models.Fault("kill")), LikelihoodError, r"\(exit code -9\) at x=0.5"
    ),
    Fault("a hanging call, timeout=0.3", lambda t: in_pool(pool_models.Fault("hang"), timeout=0.3), LikelihoodError, "longer than timeout"),
    Fault("an error at each attempt", lambda t: in_pool(pool_models.Fault("fail")), LikelihoodError, "raised OSError: .* at x=0.5"),
    Fault("a return value that can't be sent", lambda t: in_pool(pool_models.unpicklable), LikelihoodError, "raised .*pickle"),
]
COMMANDS = [
    Fault("fusions run ... --n-live many", lambda t: command("run", "m.py", "-o", t, "--n-live", "many"), Refused, "invalid int"),
    Fault("fusions run ... --max-time soon", lambda t: command("run", "m.py", "-o", t, "--max-time", "soon"), Refused, "float"),
    Fault("fusions run ... --fast", lambda t: command("run", "m.py", "-o", t, "--fast"), Refused, "unrecognized arguments: --fast"),
    Fault("fusions run FOLDER -o DIR", lambda t: command("run", t, "-o", t), Refused, "Expected FILE.py:NAME with an existing file"),
    Fault("a model that is None", lambda t: command("run", model(t, "problem = None"), "-o", t / "out"), Refused, "got NoneType"),
    Fault("a function without a problem", lambda t: command("run", model(t, "def problem(): pass"), "-o", t / "out"), Refused, "NoneType"),
    Fault(
        "fusions run ... --seed -1",
        lambda t: command(
            "run", model(t, "import fusions\nproblem = fusions.Problem(fusions.Prior(x=fusions.priors.uniform(0, 1)), lambda p: p['x'])"),
            "-o", t / "out", "--seed", "-1",
        ),
        Refused,
        "non-negative integer seed",
    ),
    Fault("fusions summary of an empty folder", lambda t: command("summary", t), Refused, "found no result.json"),
    Fault("fusions plot of a damaged run", lambda t: (saved(t) / "result.json").write_text("{")
          and command("plot", t), Refused, "is damaged"),
]  # fmt: skip
GROUPS = {
    "Saved runs": FILES, "Results": RESULTS, "Options": OPTIONS, "Likelihoods": LIKELIHOODS, "Numbers": NUMBERS,
    "Priors": PRIORS, "Pools": POOLS,
    "Command line": COMMANDS,
}  # fmt: skip
FAULTS = {f"{group}: {fault.what}": fault for group, faults in GROUPS.items() for fault in faults}


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_fault_gets_its_error(name, tmp_path):
    fault = FAULTS[name]
    with pytest.raises(fault.error, match=fault.match) as caught:
        fault.do(tmp_path)
    check_kept(fault, caught.value, tmp_path)


def check_kept(fault, error, folder):
    """Look at what must survive."""
    if fault.kept == EARLIER:
        assert Result.load(folder).n_calls == 7
    if fault.kept == COMPUTED:
        assert error.result.status is Status.FAILED
        assert np.isfinite(error.result.logZ)


def test_enough_faults_of_different_kinds():
    assert len(FAULTS) == sum(map(len, GROUPS.values())) > 100
    assert sum(issubclass(fault.error, (FusionsError, Refused)) for fault in FAULTS.values()) >= len(FAULTS) - 1


# The page ------------------------------------------------------------------------------------------------------


def source(function):
    """Return the code of a lambda in a table, on one line."""
    import inspect

    text = " ".join(inspect.getsource(function).split())
    return re.sub(r"\),?$", ")", re.sub(r",\s*$", "", text.split("lambda: ", 1)[-1].split('": (', 1)[-1]))


def borrowed():
    """Return the faults of other files: title, file, [(code, function that does it)]."""
    import test_priors
    import test_problem

    calls = [
        (source(function), lambda f=function, o=options: fusions.Problem(test_problem.PRIOR, f, **o).call_rows(test_problem.THETA))
        for function, options in test_problem.BAD_CALLS.values()
    ]
    return [
        ("Descriptions of a prior", "priors/test_priors.py", [(source(do), do) for do in test_priors.WRONG.values()]),
        ("Descriptions of a problem", "model/test_problem.py", [(source(do), do) for do in test_problem.WRONG.values()]),
        ("What a likelihood returns or raises", "model/test_problem.py", calls),
    ]


def told(do):
    """Return the type and text of the error that a fault gets."""
    try:
        do()
    except Exception as error:
        return f"{'exit code 2' if isinstance(error, Refused) else type(error).__name__}: {error}"
    return "no error"


def cell(text, width=400):
    text = " ".join(str(text).split()).replace("|", "\\|")
    return text if len(text) <= width else text[: width - 3] + "..."


def page():
    """Write the page of all faults."""
    warnings.simplefilter("ignore")
    lines, n = [], 0
    for title, faults in GROUPS.items():
        lines += [f"\n## {title}\n", "| fault | error | kept |", "|---|---|---|"]
        for fault in faults:
            with tempfile.TemporaryDirectory() as folder:
                text = told(lambda f=fault, d=folder: f.do(Path(d))).replace(folder, "DIR")
            n += 1
            lines.append(f"| {cell(fault.what)} | {cell(re.sub(r'0x[0-9a-f]+', '0x...', text))} | {fault.kept} |")
    for title, file, faults in borrowed():
        lines += [f"\n## {title} (`tests/{file}`)\n", "| fault | error |", "|---|---|"]
        lines += [f"| `{cell(code, 120)}` | {cell(re.sub(r'0x[0-9a-f]+', '0x...', told(do)))} |" for code, do in faults]
        n += len(faults)
    return HEAD.format(n=n) + "\n".join(lines) + "\n"


HEAD = """# Bad inputs and faults

{n} faults and the errors they get, written by `python tests/test_faults.py > docs/faults.md`; the tests compare the texts. All of them end
with such an error, none with a wrong answer, and what was computed or saved before is kept. Faults that a run mends by itself (a worker
that dies, a call that hangs or raises once) and their limits are in `pools.md`; more runs that fail on the way are in
`tests/driver/test_run.py` and `tests/parallel/test_pool.py`.
"""

if __name__ == "__main__":
    sys.path += [str(Path(__file__).parent / room) for room in ("model", "priors")]
    print(page(), end="")  # noqa: T201
