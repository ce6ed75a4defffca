"""Files in general: values as JSON, arrays as bytes, writing without leaving parts. Nothing is pickled."""

import contextlib
import io
import os
from pathlib import Path
from typing import Any

import numpy as np

from fusions.errors import FileError


def jsonable(value: Any):
    """Turn numpy values into plain ones and whatever else into text."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    return str(value)


@contextlib.contextmanager
def writing(path: Path):
    """Turn an error of the file system into one that says what to do."""
    try:
        yield
    except OSError as error:
        raise FileError(
            f"Can't write to {path} ({error.strerror or error}). Give a folder that exists or can be made, with room and permission; "
            "the result is still in memory, and an earlier `Result.save` there is unchanged."
        ) from error


def write_atomically(path: Path, data: bytes):
    """Write bytes so that a crash leaves either the old file or the new one, never a part."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.part")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    rename_durably(temporary, path)


def rename_durably(temporary: Path, path: Path):
    """Give a file that is safe on disk its name, and make that safe too."""
    temporary.replace(path)
    if hasattr(os, "O_DIRECTORY"):
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def pack(arrays: dict[str, Any]):
    """Return named arrays as the bytes of an uncompressed npz file."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def unpack(data: bytes):
    """Return the named arrays of an npz file's bytes."""
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        return {name: file[name] for name in file.files}
