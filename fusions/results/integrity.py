"""Look whether what a folder holds is whole and consistent: checksums, ledger, diagnostics."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from fusions.errors import FileError
from fusions.io import checkpoint
from fusions.io.result_folder import MANIFEST
from fusions.results.result import Result

LOW = 1e-3  # p-value of the insertion ranks that is worth a word


class Finding(NamedTuple):
    """One thing looked at: "ok", "note" (believe the result less) or "bad" (damaged or contradictory), and a sentence."""

    verdict: str
    text: str


def verify(directory: str | Path):
    """Look at a folder's checkpoint and result.

    Returns
    -------
    list of `Finding`

    Raises
    ------
    FileError
        If the folder holds neither.
    """
    directory = Path(directory)
    paths, has_result = checkpoint.states(directory), (directory / MANIFEST).is_file()
    if not (paths or has_result):
        raise FileError(f"Expected a checkpoint or a saved run in {directory}, found neither. Give the folder of `fusions run -o`.")
    findings = [finding for path in paths for finding in _state(path)]
    return findings + (_result(directory) if has_result else [Finding("note", "no result yet: the run was killed, or still goes on")])


def _state(path):
    """Look at one state with its part of the journal."""
    try:
        saved = checkpoint.read_state(path)
    except (ValueError, KeyError, OSError) as error:
        return [Finding("bad", f"{path.name}: {error}")]
    dead = [{k.removeprefix("dead/"): v for k, v in record.items()} for record in saved.records if "dead/logL" in record]
    logL, birth, uniforms = (np.concatenate([d[name] for d in dead]) for name in ("logL", "logL_birth", "uniforms"))
    live = {name: saved.arrays[f"live/{name}"] for name in ("logL", "birth")}
    what = f"{path.name}: {saved.meta['iteration']:,} levels, {len(logL):,} dead points, {saved.meta['n_calls']:,} calls"
    return [Finding("ok", what), *_ledger(path.name, np.append(logL, live["logL"]), np.append(birth, live["birth"]), uniforms)]


def _result(directory):
    """Look at a saved result."""
    try:
        result = Result.load(directory)
    except FileError as error:
        return [Finding("bad", str(error))]
    what = f"{MANIFEST}: {len(result.logL):,} points, {result.n_calls:,} calls. {result.status.value}"
    notes = [*result.info.get("warnings", ()), *result.headline.warnings]
    p = result.insertion_pvalue
    if p is not None and p < LOW:
        notes.append(f"the insertion ranks are not uniform (p = {p:.2g})")
    found = _ledger(MANIFEST, result.logL, result.logL_birth, result.insertion_uniforms)
    return [Finding("ok", what), *found, *(Finding("note", note) for note in notes)]


def _ledger(name, logL, birth, uniforms):
    """Look for values that no run can make."""
    replaced = ~np.isnan(birth)
    faults = (
        (np.isnan(logL).any() or (logL == np.inf).any(), "a log-likelihood is NaN or +inf"),
        ((birth[replaced] >= logL[replaced]).any(), "a point lies below the contour that it was born at"),
        (len(uniforms) != replaced.sum(), f"{replaced.sum():,} replacements have {len(uniforms):,} insertion ranks"),
        (((uniforms < 0) | (uniforms >= 1)).any(), "an insertion rank is outside of [0, 1)"),
    )
    return [Finding("bad", f"{name}: {text}") for fault, text in faults if fault]
