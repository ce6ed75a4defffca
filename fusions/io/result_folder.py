"""The folder of a finished run: a manifest in JSON and a file of arrays named after its content, both with checksums."""

import hashlib
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from fusions.errors import FileError
from fusions.io.files import jsonable, rename_durably, unpack, write_atomically, writing

FORMAT, VERSION = "fusions-result", 1
MANIFEST = "result.json"


def write_run(directory: str | Path, arrays: dict[str, Any], meta: dict[str, Any]):
    """Write named arrays and JSON-able metadata into a folder.

    The arrays' file is named after its content and the manifest is replaced last, so a crash at any
    moment leaves a readable run.

    Parameters
    ----------
    directory : path of the folder; made if missing.
    arrays : dict of arrays, stored as npz.
    meta : dict, stored as JSON in the manifest.

    Returns
    -------
    Path of the manifest.
    """
    directory = Path(directory)
    with writing(directory):
        directory.mkdir(parents=True, exist_ok=True)
        temporary = directory / ".arrays.part"
        with temporary.open("w+b") as file:  # not in memory, of which points may take much
            np.savez_compressed(file, **arrays)
            file.flush()
            os.fsync(file.fileno())
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        name = f"arrays-{digest[:12]}.npz"
        rename_durably(temporary, directory / name)
        manifest = {"format": FORMAT, "version": VERSION, "arrays": name, "sha256": digest, **meta}
        manifest = json.loads(json.dumps(manifest, default=jsonable))
        text = json.dumps({**manifest, "checksum": _checksum(manifest)}, indent=1)
        write_atomically(directory / MANIFEST, text.encode())
    for old in directory.glob("arrays-*.npz"):
        if old.name != name:
            old.unlink()
    return directory / MANIFEST


def read_run(directory: str | Path):
    """Read what `write_run` wrote.

    Returns
    -------
    arrays, meta : dicts; the arrays' checksum has been compared.

    Raises
    ------
    FileError
        If the folder is missing, foreign, damaged or of another format version.
    """
    directory = Path(directory)
    manifest = _read_manifest(directory)
    path = directory / str(manifest.get("arrays"))
    if not path.is_file():
        raise FileError(f"{directory / MANIFEST} names {path.name}, which is missing. Copy the whole folder, not only the manifest.")
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != manifest.get("sha256"):
        raise FileError(f"{path} is truncated or changed: its checksum is not the one in {MANIFEST}. Restore it from a copy, or run again.")
    try:
        arrays = unpack(data)
    except (ValueError, zipfile.BadZipFile) as error:
        raise FileError(f"{path} holds something else than arrays of numbers. Restore it from a copy, or run again.") from error
    _check_fields(directory / MANIFEST, manifest)
    return arrays, manifest


def _read_manifest(directory):
    """Return the manifest of a folder, or say what is wrong with it."""
    path = directory / MANIFEST
    if not path.is_file():
        raise FileError(
            f"Expected a saved run in {directory}, found no {MANIFEST} there. Give the folder that was given "
            "to Result.save, or to `fusions run -o`."
        )
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise FileError(f"{path} is damaged ({error}). Restore it from a copy, or run again.") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise FileError(f'{path} was not written by fusions: expected "format": "{FORMAT}". Give a folder written by Result.save.')
    if manifest.get("version") != VERSION:
        raise FileError(
            f"{path} has format version {manifest.get('version')}, this fusions reads version {VERSION}. Install the fusions that wrote it."
        )
    if manifest.get("checksum", wanted := _checksum(manifest)) != wanted:
        raise FileError(f"{path} is damaged or was edited: its checksum is wrong. Restore it from a copy, or run again.")
    return manifest


def _check_fields(path, manifest):
    """Say which field of a manifest has a wrong type."""
    kinds = {"names": list, "labels": dict, "n_live": int, "n_params": int, "n_calls": int, "seconds": dict, "info": dict}
    for name, kind in kinds.items():
        if name in manifest and not isinstance(manifest[name], kind):
            raise FileError(f"{path}: expected {name} to be of type {kind.__name__}, got {manifest[name]!r}. Restore it from a copy.")


def _checksum(manifest):
    """Return the sha256 of a manifest's other entries."""
    rest = {key: value for key, value in manifest.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def split_groups(arrays: dict, groups: tuple):
    """Part arrays with names like "group/name" from the others: returns these, and {group: {name: array}}."""
    parted = {group: {k.removeprefix(f"{group}/"): v for k, v in arrays.items() if k.startswith(f"{group}/")} for group in groups}
    return {k: v for k, v in arrays.items() if "/" not in k}, parted
