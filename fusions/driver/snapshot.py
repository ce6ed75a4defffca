"""What is saved of a run, how it is read back, and when a checkpoint is refused because it is of another run."""

import dataclasses
import re
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fusions import __version__
from fusions.algorithms.nested import level as nested
from fusions.algorithms.nested.level import Nested
from fusions.driver.compiled import Engine
from fusions.errors import CheckpointError
from fusions.evidence.ledger import Deaths, Particles, merge_blocks, with_names_of_today
from fusions.evidence.volumes import Running
from fusions.model.likelihood import Evaluator, describe
from fusions.model.problem import Problem

N_PROBES = 4  # points whose likelihood is compared when a run is resumed
FORMER_OPTIONS = re.compile(r", probes=0, coupling=<function independent>")  # of a flow, in settings before December 2026
FORMER_COLUMN = {"logL_birth": "birth"}  # names in files of columns of the live points
CLOSE = {"traced": 1e-4, "hosted": 1e-8}  # difference of log L, relative to max(1, |log L|), that another machine may make
ADVICE = "Type run(..., resume=False) to start afresh in that folder, which removes what is there, or give another folder as checkpoint."


class RunState(NamedTuple):
    """Where a run stands between two levels: all that the next level depends on, and what the run has cost.

    Attributes
    ----------
    nested : NestedState
    iteration : levels done.
    n_blocks, n_calls : blocks of the ledger and likelihood calls that belong to it.
    seconds, elapsed : clocks of the ledger.
    passed : smallest ln of the remaining share of the evidence at the marks before, where the run did not stop.
    """

    nested: nested.NestedState
    iteration: int
    n_blocks: int
    n_calls: int
    seconds: dict
    elapsed: float
    passed: float


def path_of(problem: Problem):
    """Name the path that the likelihood takes."""
    return "traced" if problem.traceable else "hosted"


# Another run ------------------------------------------------------------------------------------------------


def identity(problem: Problem, algorithm: Nested, key: int):
    """Describe a run by what its numbers depend on, {name: text or list}; what only steers its execution, or when it stops, is left out.

    Parameters
    ----------
    problem : Problem; algorithm : Nested; key : seed.
    """
    settings = {field.name: getattr(algorithm, field.name) for field in dataclasses.fields(algorithm) if field.name != "precision"}
    return {
        "the version of fusions": __version__,
        "the names of the parameters": list(problem.names),
        "the prior": repr(problem.prior),
        "the path of the likelihood": path_of(problem),
        "the precision": str(jnp.result_type(float)),
        "key": key,
        **{name: re.sub(r" at 0x[0-9a-f]+", "", repr(value)) for name, value in settings.items()},
        "the hash of the prior at fixed points": problem.fingerprint(labels=False),
        **({} if problem.data is None else {"the hash of the data": problem.data_digest()}),
    }


def refuse_other(directory: str | Path, there: dict, here: dict):
    """Raise an error that names the first difference between two identities.

    Parameters
    ----------
    directory : path of the checkpoint.
    there, here : identities of the run saved in it and of the one at hand.
    """
    for name, value in here.items():
        before = there.get(name)
        if (FORMER_OPTIONS.sub("", before) if isinstance(before, str) else before) != value:
            raise CheckpointError(f"The checkpoint in {directory} is of another run: {name} was {before}, now is {value}. {ADVICE}")


def refuse_coarser(directory: str | Path, passed: float, before: float, precision: float):
    """Raise an error if a run with this precision would have stopped at a mark where the one there, with the precision before, went on.

    Parameters
    ----------
    directory : path of the checkpoint.
    passed : of the `RunState` saved in it, ln of a share of the evidence.
    before, precision : shares of the evidence at which its last session and this one stop.
    """
    if passed < np.log(precision):
        raise CheckpointError(
            f"The checkpoint in {directory} is of another run: it has gone on beyond precision = {precision:g}. Expected that of its last "
            f"session, {before:g}, or less. {ADVICE}"
        )


def check_likelihood(directory: str | Path, problem: Problem, evaluator: Evaluator, chunk: int, probe: dict):
    """Compare the likelihood with what it was at a few points when the run began; the calls are not counted.

    Parameters
    ----------
    directory : path of the checkpoint.
    problem : Problem; evaluator : Evaluator.
    chunk : rows that are computed at once.
    probe : {"x": (n, d), "logL": (n,)}.
    """
    if problem.noisy:
        return
    x, before = probe["x"], probe["logL"]
    now = np.concatenate([logL for logL, _ in evaluator.batches(x, chunk)])
    differ = ~(np.abs(now - before) <= CLOSE[path_of(problem)] * np.maximum(1, np.abs(before)))
    if differ.any():
        i = int(np.argmax(differ))
        raise CheckpointError(
            f"The checkpoint in {directory} is of another run: the log-likelihood was {before[i]:.10g}, now is {now[i]:.10g} at "
            f"{describe(problem, x[i])}. Its code or its data have changed. {ADVICE}"
        )


# Arrays and JSON ----------------------------------------------------------------------------------------------


def pack_mark(mark: RunState):
    """Turn a mark into JSON-able metadata and {name: array}."""
    state = mark.nested
    meta = {
        "iteration": mark.iteration, "n_calls": mark.n_calls, "seconds": mark.seconds,
        "elapsed": mark.elapsed, "passed": mark.passed, "running": list(state.running),
        "pool_next": list(state.pool.place), **{name: float(value) for name, value in state.controller._asdict().items()},
    }  # fmt: skip
    arrays = {f"live/{FORMER_COLUMN.get(name, name)}": column for name, column in state.live._asdict().items()}
    arrays |= {"live/pool_x": state.pool.x, "live/pool_logL": state.pool.logL}
    for group in ("params", "info"):
        arrays |= {f"{group}/{i}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(getattr(state, group)))}
    return meta, arrays


def unpack_mark(meta: dict[str, Any], arrays: dict[str, Any], engine: Engine, n_blocks: int):
    """Rebuild a mark; an engine tells how what its kernel has learned is laid out.

    Parameters
    ----------
    meta, arrays : as from `pack_mark`.
    engine : Engine
    n_blocks : blocks of the ledger that belong to it.

    Returns
    -------
    RunState
    """
    meta = with_names_of_today(meta)
    live = Particles(*(arrays[f"live/{FORMER_COLUMN.get(name, name)}"] for name in Particles._fields))
    pool = nested.Pool(arrays["live/pool_x"], arrays["live/pool_logL"], tuple(meta["pool_next"]))
    people = nested.population(live.x, np.ones(len(live.x), bool), pool, np.inf, 0)
    like = {"params": (jax.eval_shape(engine.init_params, jax.random.key(0), people),) * 2, "info": (engine.blank_info,) * 2}
    learned = {group: engine.layout.placed(_tree(like[group], arrays, group)) for group in like}
    controller = nested.Controller(meta["parent_correlation"], meta["walk_scale"])
    state = nested.NestedState(live, pool, Running(*meta["running"]), controller, **learned)
    return RunState(state, meta["iteration"], n_blocks, meta["n_calls"], meta["seconds"], meta["elapsed"], meta["passed"])


def _tree(like, arrays, group) -> Any:
    """Put saved leaves into the structure of another tree."""
    leaves, tree = jax.tree.flatten(like)
    known = [arrays[f"{group}/{i}"] for i in range(len(leaves))]
    if [(leaf.shape, leaf.dtype) for leaf in leaves] != [(leaf.shape, leaf.dtype) for leaf in known]:
        raise CheckpointError(f"The checkpoint's {group} do not fit the kernel, although its settings are the same. {ADVICE}")
    return jax.tree.unflatten(tree, known)


def pack_blocks(blocks: list):
    """Turn blocks of the ledger into one {name: array} to append."""
    block = merge_blocks(blocks)
    dead = {**block.dead._asdict(), "slot": block.slot, "uniforms": block.uniforms}
    return {**{f"dead/{k}": v for k, v in dead.items()}, **{f"trace/{k}": v for k, v in block.trace.items()}}


def unpack_records(records: list):
    """Turn what was appended into blocks of the ledger and the target's values at draws of the refine phase, {digest of x: values}."""
    groups = [{name: _group(record, name) for name in ("dead", "trace", "draws")} for record in records]
    blocks, draws = [_block(g["dead"], g["trace"]) for g in groups if g["dead"]], {}
    for values in (g["draws"] for g in groups if g["draws"]):
        draws[str(values["name"])] = values["logL"], values["blobs"], values["logprior"], int(values["n_calls"])
    return blocks, draws


def _block(dead, trace):
    """Rebuild a block of the ledger from its columns."""
    particles = Particles(*(dead[name] for name in Particles._fields))
    return Deaths(particles, dead["slot"], dead["uniforms"], with_names_of_today(trace))


def _group(record, name):
    return {key.removeprefix(f"{name}/"): value for key, value in record.items() if key.startswith(f"{name}/")}
