"""Compiled programs: kept on disk between processes, and how long compiling them takes.

JAX compiles a program for each shape; its persistent cache finds one again that it has compiled before, in this or another process. The
cache is JAX's own and holds all programs of a process that has used fusions, not only ours.
"""

import contextlib
import functools
import hashlib
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.monitoring
from jax.experimental.compilation_cache import compilation_cache

from fusions.errors import OptionError

VARIABLE, OFF = "FUSIONS_CACHE", "off"
LARGEST = 2 << 30  # bytes of a folder, above which the programs that were used least lately are removed when a process begins
COMPILING = ("jaxpr_to_mlir_module_duration", "backend_compile_duration")  # JAX's names of what compiling takes; tracing nests
_seconds = [0.0]


def compile_seconds() -> float:
    """Return the seconds that JAX has spent on compiling in this process since this module was imported."""
    return _seconds[0]


class Stopwatch:
    """Measures seconds since it was made, those of compiling apart."""

    def __init__(self):
        """Start."""
        self._start, self._compiled = time.perf_counter(), compile_seconds()

    def read(self) -> tuple[float, float]:
        """Return the seconds without those of compiling, and these."""
        compiled = compile_seconds() - self._compiled
        return time.perf_counter() - self._start - compiled, compiled


def _listen(event: str, duration_secs: float, **_: Any) -> None:
    if event.rsplit("/", 1)[-1] in COMPILING:
        _seconds[0] += duration_secs


jax.monitoring.register_event_duration_secs_listener(_listen)


@functools.cache
def keep_programs(version: str) -> None:
    """Let JAX keep compiled programs on disk, unless the user or the environment has chosen a cache or `FUSIONS_CACHE` is "off".

    Parameters
    ----------
    version : of fusions; there is a folder for each, and for each version of JAX and kind of processor.
    """
    chosen = os.environ.get(VARIABLE, "")
    config: Any = jax.config  # its options are not in its type
    if chosen.lower() != OFF and not config.jax_compilation_cache_dir:
        use_cache(Path(chosen).expanduser() if chosen else _user_folder() / "fusions", version)


def use_cache(directory: str | Path | None, version: str) -> None:
    """Keep compiled programs in a folder; a disk that is full or can't be written costs time, never a result.

    Parameters
    ----------
    directory : path, of which a folder for the versions is used; None to keep none.
    version : of fusions.
    """
    if directory is None:
        jax.config.update("jax_compilation_cache_dir", None)
        compilation_cache.reset_cache()
        return
    if not isinstance(directory, (str, os.PathLike)):
        raise OptionError(f'Expected the path of a folder or None, got {directory!r}. Type fusions.cache_programs("~/.cache/fusions").')
    folder = Path(directory).expanduser() / f"{version}-jax-{jax.__version__}-{_processor()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _prune(folder)
    except OSError:
        return
    if not os.access(folder, os.W_OK):
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    compilation_cache.reset_cache()  # JAX looks once whether there is one


def _user_folder():
    """Return the folder for caches of this platform."""
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    variable, usual = ("LOCALAPPDATA", "~/AppData/Local") if sys.platform == "win32" else ("XDG_CACHE_HOME", "~/.cache")
    return Path(os.environ.get(variable) or Path(usual).expanduser())


def _processor():
    """Name the kind of processor: programs compiled for another one may not run."""
    text = platform.machine() + platform.processor()
    with contextlib.suppress(OSError):
        text += next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith(("flags", "Features"))), "")
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _prune(folder):
    """Remove the files that were used least lately until the rest is no larger than `LARGEST`."""
    files = []
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another process prunes too
            facts = path.stat()
            files.append((max(facts.st_atime, facts.st_mtime), facts.st_size, path))
    total = sum(size for _, size, _ in files)
    for _, size, path in sorted(files):
        if total <= LARGEST:
            return
        path.unlink(missing_ok=True)
        total -= size
