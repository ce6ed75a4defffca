"""When and what a run saves, and what an earlier session left in the folder."""

import hashlib
import itertools
import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from fusions.driver import snapshot
from fusions.driver.signals import Signals
from fusions.driver.snapshot import RunState
from fusions.errors import FileError
from fusions.evidence.ledger import Particles
from fusions.results.result import Result

AT_ONCE = 32  # levels that are packed at once: they may take much of the memory
TARGET = ("logL", "blobs", "logprior", "n_calls")  # what is kept of a batch of draws


class Progress(NamedTuple):
    """What a run has to save at a moment.

    Attributes
    ----------
    state : RunState
    blocks : of the ledger, those of the state first.
    facts : JSON-able, what else the next session needs to know.
    """

    state: snapshot.RunState
    blocks: list
    facts: dict


class Saver:
    """Saves a run in a folder; without a folder it does nothing.

    Attributes
    ----------
    folder : Checkpoint, NullCheckpoint or None.
    probe : {"x", "logL"} of a few points, by which the next session sees whether the likelihood is the same.
    values : what the likelihood gave at draws of the refine phase, {digest of x: values}.
    final : what a final Result in the folder depends on, or None.
    trouble : why the last save failed, a sentence, or None.
    """

    def __init__(self, folder: Any, every: float, identity: dict | None, signals: Signals, progress: Callable):
        """Take a folder, and save nothing yet.

        Parameters
        ----------
        folder : Checkpoint, NullCheckpoint or None; every : seconds between saves.
        identity : of the run, {name: text}.
        signals : Signals, which wait until a file is written.
        progress : () -> `Progress`, or None before the live points are drawn.
        """
        self.folder, self.every, self.identity = folder, every, identity
        self._signals, self._progress = signals, progress
        self.probe: dict = {}
        self.values: dict = {}
        self.final: dict | None = None
        self.trouble: str | None = None
        self._unsaved: list = []
        self._n_saved, self._saved_at = 0, -np.inf
        self._written: tuple = (None, None)

    def begin(self, live: Particles):
        """Note what tells the likelihood at the highest of the live Particles; what an earlier run left in the folder is removed."""
        best = np.argsort(live.logL)[-snapshot.N_PROBES :]
        self.probe = {"x": live.x[best], "logL": live.logL[best]}
        if self.folder is not None:
            self.folder.clear()
            self.save()

    def go_on(self, state: RunState, facts: dict[str, Any], probe: dict, values: dict):
        """Go on from what the folder holds.

        Parameters
        ----------
        state : RunState; facts : metadata saved with it.
        probe, values : as the attributes.
        """
        self.probe, self.values, self.final = probe, values, facts["final"]
        self._n_saved, self._saved_at, self._written = state.n_blocks, time.perf_counter(), (state, self.final)

    def save_if_due(self):
        """Save if the last time is long enough ago."""
        if self.folder is not None and time.perf_counter() - self._saved_at >= self.every:
            with self._signals.protected():
                self.save()

    def save(self):
        """Save what the next session needs; a failure is told, and does not end the run."""
        progress = self._progress()
        if self.folder is None or progress is None:
            return
        state = progress.state
        if self._written[0] is state and self._written[1] == self.final and not self._unsaved:
            return
        meta, arrays = snapshot.pack_mark(state)
        meta |= {**progress.facts, "identity": self.identity, "final": self.final, "logZ": state.nested.running.logZ}
        arrays |= {f"probe/{name}": values for name, values in self.probe.items()}
        blocks = progress.blocks[self._n_saved : state.n_blocks]
        dead = (snapshot.pack_blocks(blocks[i : i + AT_ONCE]) for i in range(0, len(blocks), AT_ONCE))
        try:
            self.folder.save(meta, arrays, itertools.chain(dead, self._unsaved))
        except OSError as error:
            self.failed(error)
        else:
            self.trouble, self._n_saved, self._unsaved, self._written = None, state.n_blocks, [], (state, self.final)
        self._saved_at = time.perf_counter()

    def failed(self, error: Any):
        """Tell once that saving fails; it is tried again."""
        text = (
            f"The checkpoint in {self.folder.directory} could not be written ({error.strerror or error}); what was saved before is intact."
        )
        if self.trouble is None:
            warnings.warn(text, stacklevel=5)
        self.trouble = text

    def remembered(self, target: Callable):
        """Keep what a likelihood gave for each batch of draws, so that a resumed refine phase need not ask it again."""
        if self.folder is None:
            return target

        def asked_once(x):
            name = hashlib.sha256(x.tobytes()).hexdigest()
            if name not in self.values:
                self.values[name] = values = target(x)
                kept = zip(TARGET, values, strict=True)
                self._unsaved.append({"draws/name": name, **{f"draws/{k}": v for k, v in kept}})
                self.save_if_due()
            return self.values[name]

        return asked_once

    def keep(self, result: Result, final: dict | None):
        """Save a Result, and the state that it was made from.

        Parameters
        ----------
        result : Result
        final : what it depends on, if no later session need compute anything; None otherwise.
        """
        if self.folder is None:
            return
        try:
            self.folder.keep(result)
            self.final = final
        except FileError as error:
            self.failed(error.__cause__)
        self.save()
        result.info["warnings"].extend([self.trouble] if self.trouble else [])

    def finished(self, final: dict | None):
        """Return the Result of an earlier session if it depends on `final`, or None, and what there is to say of it."""
        if self.folder is None or self.final != final:
            return None, []
        try:
            return Result.load(self.folder.directory), []
        except FileError as error:
            return None, [f"The saved result was damaged and is made again from the checkpoint: {error}"]
