"""Files of a finished run: our own folder, PolyChord's text files, and what both need to know of anesthetic.

Functions over arrays; `result.py` is the only caller. Nothing is pickled.
"""

import contextlib
import hashlib
import io
import json
import os
import zipfile
from pathlib import Path

import numpy as np

from fusions.errors import FileError

FORMAT, VERSION = "fusions-result", 1
MANIFEST = "result.json"
ANESTHETIC_LOGZERO = -1e30


def jsonable(value):
    """Turn numpy values into plain ones and whatever else into text."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    return str(value)


@contextlib.contextmanager
def writing(path):
    """Turn an error of the file system into one that says what to do."""
    try:
        yield
    except OSError as error:
        raise FileError(
            f"Can't write to {path} ({error.strerror or error}). Give a folder that exists or can be made, with room and permission; "
            "the result is still in memory, and an earlier `Result.save` there is unchanged."
        ) from error


def write_atomically(path, data):
    """Write bytes so that a crash leaves either the old file or the new one, never a part."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.part")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    _rename(temporary, path)


def _rename(temporary, path):
    """Give a file that is safe on disk its name, and make that safe too."""
    temporary.replace(path)
    if hasattr(os, "O_DIRECTORY"):
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _checksum(manifest):
    """Return the sha256 of a manifest's other entries."""
    rest = {key: value for key, value in manifest.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def pack(arrays):
    """Return named arrays as the bytes of an uncompressed npz file."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def unpack(data):
    """Return the named arrays of an npz file's bytes."""
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def write_run(directory, arrays, meta):
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
        _rename(temporary, directory / name)
        manifest = {"format": FORMAT, "version": VERSION, "arrays": name, "sha256": digest, **meta}
        manifest = json.loads(json.dumps(manifest, default=jsonable))
        text = json.dumps({**manifest, "checksum": _checksum(manifest)}, indent=1)
        write_atomically(directory / MANIFEST, text.encode())
    for old in directory.glob("arrays-*.npz"):
        if old.name != name:
            old.unlink()
    return directory / MANIFEST


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


def read_run(directory):
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


def _check_fields(path, manifest):
    """Say which field of a manifest has a wrong type."""
    kinds = {"names": list, "labels": dict, "n_live": int, "n_params": int, "n_calls": int, "seconds": dict, "info": dict}
    for name, kind in kinds.items():
        if name in manifest and not isinstance(manifest[name], kind):
            raise FileError(f"{path}: expected {name} to be of type {kind.__name__}, got {manifest[name]!r}. Restore it from a copy.")


def exported_births(logL, logL_birth, logzero=-np.inf):
    """Turn a ledger's births into those that anesthetic counts correctly.

    Without zero-likelihood points prior draws get -inf, as everywhere. With them, rows with
    log L = birth = -inf would be dropped, so prior draws keep NaN and replacements of zero-likelihood points
    have -inf.

    Parameters
    ----------
    logL, logL_birth : (N,) ledger [nats].
    logzero : log L at or below it counts as zero likelihood [nats].

    Returns
    -------
    (N,) births.
    """
    if np.any(logL <= logzero):
        return logL_birth.copy()
    return np.where(np.isnan(logL_birth), -np.inf, logL_birth)


def upright(text):
    """Set plain text upright inside of LaTeX's mathematics."""
    for character in "_%#&":
        text = text.replace(character, "\\" + character)
    return r"\mathrm{" + text.replace(" ", r"\ ") + "}" if text else ""


def math_label(label):
    r"""Rewrite a label as LaTeX mathematics without dollar signs, the form that PolyChord's files keep.

    Examples
    --------
    >>> math_label(r"$\omega$"), math_label(r"\omega")
    ('\\omega', '\\omega')
    >>> math_label(r"speed $v$ [m/s]")
    '\\mathrm{speed\\ }v\\mathrm{\\ [m/s]}'
    """
    if "$" in label:
        return "".join(piece if i % 2 else upright(piece) for i, piece in enumerate(label.split("$")))
    is_text = " " in label and not set(label) & set("\\^_{}")
    return upright(label) if is_text else label


def distinct_rows(rows):
    """Make equal rows differ in the last digits of their first column, for readers that drop repeats.

    Parameters
    ----------
    rows : (N, m) table; rows with a NaN are never equal.
    """
    return _set_apart(np.array(rows, np.float64))


def _set_apart(rows):
    """Do it in place."""
    for _ in range(8):
        _, place, count = np.unique(rows[:, 0], return_inverse=True, return_counts=True)
        alike = np.flatnonzero(count[place] > 1)  # only these can be equal
        _, first, inverse = np.unique(rows[alike], axis=0, return_index=True, return_inverse=True)
        if len(first) == len(alike):
            break
        order = np.argsort(inverse.ravel(), kind="stable")
        group = inverse.ravel()[order]
        occurrence = np.empty(len(alike))
        occurrence[order] = np.arange(len(alike)) - np.searchsorted(group, group)
        column = rows[alike, 0]
        rows[alike, 0] += occurrence * np.where(np.isfinite(column), np.spacing(np.abs(column)), 0.0)
    return rows


def paramnames(names, n_params, labels):
    """Return the text of .paramnames: no spaces or asterisks inside of a name, * after a derived one."""
    lines = []
    for i, name in enumerate(names):
        plain = "_".join(name.replace("*", "_").split())
        label = math_label(labels[name]) if labels.get(name) else upright(name) if plain != name else ""
        lines.append(f"{plain}{'*' if i >= n_params else ''} {label}".rstrip())
    return "\n".join(lines) + "\n"


def write_polychord(root, *, names, n_params, labels, theta, logL, logL_birth, n_live):
    """Write a ledger as PolyChord does; 17 digits keep every float64 as it is.

    Parameters
    ----------
    root : path without suffix, for example ``chains/run``.
    names, n_params, labels : columns, how many of them are parameters, and {name: LaTeX}.
    theta, logL, logL_birth : (N, m), (N,), (N,) ledger; its last `n_live` rows are the live points.
    n_live : number of live points.

    Returns
    -------
    list of the paths written.
    """
    root = Path(root)
    births = exported_births(logL, logL_birth, ANESTHETIC_LOGZERO)
    rows = _set_apart(np.column_stack([theta, logL, births]))
    n_dead = len(rows) - n_live if len(rows) > n_live else len(rows)
    paths = [root.with_name(root.name + end) for end in ("_dead-birth.txt", ".paramnames", "_phys_live-birth.txt")]
    with writing(root.parent):
        root.parent.mkdir(parents=True, exist_ok=True)
        np.savetxt(paths[0], rows[:n_dead], fmt="%.17g")
        paths[1].write_text(paramnames(names, n_params, labels), encoding="utf-8")
        if n_dead == len(rows):
            paths[2].unlink(missing_ok=True)
            return paths[:2]
        np.savetxt(paths[2], rows[n_dead:], fmt="%.17g")
    return paths
