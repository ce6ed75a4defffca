"""The growing record of a run on the host: dead points, insertion ranks, history, cost."""

import time
from typing import Any, NamedTuple

import numpy as np

from fusions.evidence.volumes import Points, evaluate_ledger

TRACE = ("logL", "logX", "n_calls", "acceptance", "efficiency", "unmoved", "loss", "scale", "skill", "parent_correlation", "walk_scale")
FORMER = {"worth": "skill", "memory": "parent_correlation", "effort": "walk_scale"}  # names in files before December 2026


class Particles(NamedTuple):
    """Points and what is known of each.

    Attributes
    ----------
    x : (n, d) internal coordinates.
    logL, logL_birth : (n,) float64 [nats]; the birth of a draw from the prior is NaN.
    blobs : (n, b) derived parameters.
    """

    x: np.ndarray
    logL: np.ndarray
    logL_birth: np.ndarray
    blobs: np.ndarray

    def take(self, index: np.ndarray):
        """Return the particles at an index (m,) or of flags (n,)."""
        return Particles(*(column[index] for column in self))

    def put(self, index: np.ndarray, others: "Particles"):
        """Return the particles with those at an index (m,) replaced."""
        columns = Particles(*(column.copy() for column in self))
        for column, values in zip(columns, others, strict=True):
            column[index] = values
        return columns


class Deaths(NamedTuple):
    """What one level (or several, after a checkpoint was read) adds to the ledger.

    Attributes
    ----------
    dead : Particles (m,).
    slot : (m,) place among the live points, -1 if never live.
    uniforms : (r,) insertion ranks as values in [0, 1).
    trace : history, {name: (levels,)}.
    """

    dead: Particles
    slot: np.ndarray
    uniforms: np.ndarray
    trace: dict


class Ledger:
    """Appends block by block; everything in float64, nothing is rewritten.

    Attributes
    ----------
    blocks : list of `Deaths`.
    seconds : time in "compile", in "likelihood", "training" and "ode" of the nested run, and in the rest of the "refine" phase.
    """

    def __init__(self):
        """Start empty, with the clock running."""
        self.blocks = []
        self.seconds = dict.fromkeys(("compile", "likelihood", "training", "ode", "refine"), 0.0)
        self._start = time.perf_counter()

    def append(self, dead: Particles, slot: np.ndarray, uniforms: Any = (), trace: dict | None = None):
        """Append dead particles, the ranks of their replacements and one level's history, all together.

        Parameters
        ----------
        dead : Particles (m,); slot : (m,) their places among the live points, -1 if never live.
        uniforms : (r,) insertion ranks; trace : {name: number} of one level, or None.
        """
        history = {name: np.array([value]) for name, value in (trace or {}).items()}
        self.blocks.append(Deaths(dead, slot, np.asarray(uniforms, np.float64), history))

    def trace(self):
        """Return the history, {name: (levels,)}."""
        return {name: np.concatenate([np.empty(0, int), *(b.trace[name] for b in self.blocks if b.trace)]) for name in TRACE}

    def elapsed(self):
        """Return the seconds since the start, earlier sessions included."""
        return time.perf_counter() - self._start

    def wind(self, elapsed: float):
        """Set the clock, to go on after earlier sessions."""
        self._start = time.perf_counter() - elapsed

    def clocks(self):
        """Return the seconds of each part, "rest" and "total"."""
        total = self.elapsed()
        return {**self.seconds, "rest": total - sum(self.seconds.values()), "total": total}

    def parts(self, live: Particles, name: str):
        """List a column of the dead block by block, then that of the live Particles."""
        return [*(getattr(block.dead, name) for block in self.blocks), getattr(live, name)]

    def joined(self, live: Particles, name: str):
        """Return a column of the dead followed by the live Particles."""
        return np.concatenate(self.parts(live, name))

    def slots(self, live: Particles):
        """Return the places among the live points of the dead, -1 for one that never lived, followed by those of the live Particles."""
        return np.concatenate([*(block.slot for block in self.blocks), np.arange(len(live.logL))])

    def points(self, live: Particles):
        """Return the dead and live Particles as `Points` with their posterior weights."""
        x, logL, logL_birth = (self.joined(live, name) for name in ("x", "logL", "logL_birth"))
        evidence = evaluate_ledger(logL, logL_birth)
        return Points(x, logL, (self.slots(live) >= len(live.logL) // 2).astype(int), evidence.logw, evidence.logZ)


def merge_blocks(blocks: list):
    """Join blocks into one."""
    dead = Particles(*map(np.concatenate, zip(*(block.dead for block in blocks), strict=True)))
    names = dict.fromkeys(name for block in blocks for name in block.trace)
    trace = {name: np.concatenate([block.trace[name] for block in blocks if block.trace]) for name in names}
    slot, uniforms = (np.concatenate([getattr(block, name) for block in blocks]) for name in ("slot", "uniforms"))
    return Deaths(dead, slot, uniforms, trace)


def with_names_of_today(columns: dict[str, Any]):
    """Return {name: value} of a history that may have been written under former names."""
    return {FORMER.get(name, name): value for name, value in columns.items()}
