"""A folder that holds a run while it goes on: written so that no crash, torn write or full disk loses the last good state.

Files: `journal.bin`, to which dead points are appended and never rewritten; `state-NUMBER-DIGEST.npz`, the live points and everything
else that the next level depends on, named after its own content, of which the last two are kept; `lock`. A state says how much of the
journal belongs to it and what the checksum of that part is. Arrays and JSON only.
"""

import contextlib
import errno
import hashlib
import io
import json
import os
import re
import socket
import warnings
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fusions.errors import CheckpointError
from fusions.io.files import jsonable, pack, unpack, write_atomically
from fusions.io.result_folder import MANIFEST

FORMAT = 2
JOURNAL, LOCK = "journal.bin", "lock"
STATE = re.compile(r"state-(\d{8})-([0-9a-f]{16})\.npz")
KEPT = 2  # states
HEAD = 8  # bytes of a record's length
CHUNK = 1 << 24  # bytes read at once
_locks: weakref.WeakSet = weakref.WeakSet()
if hasattr(os, "register_at_fork"):
    # workers that outlive a killed run don't keep its lock
    os.register_at_fork(after_in_child=lambda: [file.close() for file in _locks])


class Saved(NamedTuple):
    """What a folder holds.

    Attributes
    ----------
    number : of the save, counted from 1.
    meta : dict, what was saved as JSON.
    arrays : {name: array}, the state.
    records : list of {name: array}, what was appended, in order.
    length, digest : bytes of the journal that belong to it, hash object of these.
    damaged : newer states that could not be used, as sentences.
    """

    number: int
    meta: dict
    arrays: dict
    records: list
    length: int
    digest: object
    damaged: tuple


class Checkpoint:
    """One writer's hold of a folder; close it to let go.

    Attributes
    ----------
    directory : Path
    """

    def __init__(self, directory: Any):
        """Make the folder if it is missing and lock it against a second writer."""
        self.directory = Path(directory)
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._lock = (self.directory / LOCK).open("a+")
        except OSError as error:
            raise CheckpointError(
                f"Can't write a checkpoint into {self.directory} ({error.strerror}). Give a folder that can be written, checkpoint=..."
            ) from error
        try:
            _take(self._lock, self.directory)
        except CheckpointError:
            self._lock.close()
            raise
        _locks.add(self._lock)
        self._number, self._length, self._digest = 0, 0, hashlib.sha256()

    def __enter__(self):
        """Return the checkpoint."""
        return self

    def __exit__(self, *exc):
        """Let go of the folder."""
        _let_go(self._lock)

    def clear(self):
        """Remove what earlier runs left in the folder: states first, so that no crash leaves a state without its journal."""
        left = (*states(self.directory), *self.directory.glob(".*.part"), self.directory / JOURNAL, self.directory / MANIFEST)
        for path in left:
            path.unlink(missing_ok=True)
        self._number, self._length, self._digest = 0, 0, hashlib.sha256()

    def load(self):
        """Read the newest state that is whole and go on writing after it.

        Returns
        -------
        Saved, or None if nothing was saved yet.

        Raises
        ------
        CheckpointError
            If there are states and none of them is whole.
        """
        saved = read(self.directory)
        if saved is not None:
            self._number, self._length, self._digest = saved.number, saved.length, saved.digest
            for path in (*states(self.directory)[: len(saved.damaged)], *self.directory.glob(".*.part")):
                path.unlink()
        return saved and saved._replace(digest=None)  # hash objects can't be sent to other processes

    def save(self, meta: dict[str, Any], arrays: dict[str, Any], records: Iterable):
        """Append records to the journal and write a new state; the state before stays until this one is on disk.

        Parameters
        ----------
        meta : dict, stored as JSON.
        arrays : {name: array}, the state; replaces the one before.
        records : {name: array} each, appended one after another.

        Raises
        ------
        OSError
            If the disk is full or fails; the last good state is still there, and the next save writes what this one could not.
        """
        digest = self._digest.copy()
        length = self._length + _append(self.directory / JOURNAL, self._length, map(pack, records), digest)
        number = self._number + 1
        journal = {"length": length, "sha256": digest.hexdigest()}
        text = json.dumps({**meta, "format": FORMAT, "number": number, "journal": journal}, default=jsonable)
        data = pack({**arrays, "meta": np.frombuffer(text.encode(), np.uint8)})
        write_atomically(self.directory / f"state-{number:08d}-{hashlib.sha256(data).hexdigest()[:16]}.npz", data)
        self._number, self._length, self._digest = number, length, digest
        for path in states(self.directory)[KEPT:]:
            path.unlink(missing_ok=True)

    def keep(self, result: Any):
        """Save a `Result` in the folder."""
        result.save(self.directory)


class NullCheckpoint:
    """Stands for a folder that another process writes.

    Attributes
    ----------
    directory : Path
    """

    def __init__(self, directory: Any):
        """Touch nothing."""
        self.directory = Path(directory)

    def clear(self):
        """Leave it to the other process."""

    load = clear

    def save(self, meta: dict[str, Any], arrays: dict[str, Any], records: Iterable):
        """Leave it to the other process.

        Parameters
        ----------
        meta, arrays, records : as of `Checkpoint.save`.
        """

    def keep(self, result: Any):
        """Leave it to the other process."""


def _append(path, offset, records, digest):
    """Write records of bytes from an offset on, where the file then ends, and add them to a digest; returns the bytes written.

    What an interrupted save left behind the offset is dropped.
    """
    with path.open("r+b" if path.exists() else "w+b") as file:
        file.seek(offset)
        file.truncate()
        for record in records:
            for part in (len(record).to_bytes(HEAD, "little"), record):
                file.write(part)
                digest.update(part)
        file.flush()
        os.fsync(file.fileno())
        return file.tell() - offset


def _take(file, directory):
    """Lock an open file; the kernel lets go of it when the process ends, however it ends."""
    try:
        import fcntl
    except ImportError:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            warnings.warn(f"{directory} is on a file system without locks: see to it that no two runs write there.", stacklevel=6)
            return
        file.seek(0)
        raise CheckpointError(
            f"{directory} is in use by another run ({file.read().strip() or 'unknown process'}). Wait for its end, or give another folder "
            "as checkpoint."
        ) from error
    file.seek(0)
    file.truncate()
    with contextlib.suppress(OSError):
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()


def _let_go(file):
    """Unlock and close: a close alone leaves the lock to a child that was forked a moment ago and still has the file open."""
    if file.closed:
        return
    try:
        import fcntl
    except ImportError:
        pass
    else:
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_UN)
    file.close()


def states(directory: Any):
    """Return the paths of the states in a folder, the newest first."""
    found = [path for path in Path(directory).glob("state-*.npz") if STATE.fullmatch(path.name)]
    return sorted(found, key=lambda path: path.name, reverse=True)


def read(directory: Any):
    """Read the newest whole state of a folder without locking it; None if nothing was saved yet.

    Raises
    ------
    CheckpointError
        If there are states and none of them is whole.
    """
    damaged: list[str] = []
    for path in states(directory):
        try:
            return read_state(path)._replace(damaged=tuple(damaged))
        except (ValueError, KeyError, OSError) as error:
            damaged.append(f"{path.name}: {error}")
    if damaged:
        raise CheckpointError(
            f"No state in {directory} is whole ({'; '.join(damaged)}). Restore the folder from a copy, or type run(..., resume=False) to "
            "start afresh there."
        )
    return None


def read_state(path: Path):
    """Read one state and its part of the journal; a ValueError says what is wrong."""
    _, number, digest = re.split(STATE, path.name)[:3]
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest()[:16] != digest:
        raise ValueError("it is truncated or changed")
    arrays = unpack(data)
    meta = json.loads(arrays.pop("meta").tobytes())
    if meta["format"] != FORMAT:
        raise ValueError(f"it has format {meta['format']}, this fusions reads format {FORMAT}; install the fusions that wrote it")
    hashed, records = _read_journal(path.with_name(JOURNAL), meta["journal"])
    return Saved(int(number), meta, arrays, records, meta["journal"]["length"], hashed, ())


def _read_journal(path, wanted):
    """Return the hash object and the records of a journal's first bytes, as many as a state says belong to it."""
    hashed, rest = hashlib.sha256(), wanted["length"]
    with path.open("rb") if rest else io.BytesIO() as file:
        while data := file.read(min(rest, CHUNK)):
            hashed.update(data)
            rest -= len(data)
        if hashed.hexdigest() != wanted["sha256"]:
            raise ValueError(f"{JOURNAL} is truncated or changed")
        file.seek(0)
        records = []
        while file.tell() < wanted["length"]:
            records.append(unpack(file.read(int.from_bytes(file.read(HEAD), "little"))))
    return hashed, records
