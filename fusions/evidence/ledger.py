"""The growing record of a run on the host: dead points, insertion ranks, history, cost."""

import time
from typing import NamedTuple

import numpy as np

from fusions.evidence.volumes import Points, evaluate_ledger

TRACE = ("logL", "logX", "n_calls", "acceptance", "efficiency", "unmoved", "loss", "scale", "skill", "parent_correlation", "walk_scale")
FORMER = {"worth": "skill", "memory": "parent_correlation", "effort": "walk_scale"}  # names in files before December 2026


class Deaths(NamedTuple):
    """What one level (or several, after a checkpoint was read) adds to the ledger.

    Attributes
    ----------
    x : (m, d) dead points; logL, logL_birth : (m,) float64; blobs : (m, b).
    slot : (m,) place among the live points, -1 if never live.
    uniforms : (r,) insertion ranks as values in [0, 1).
    trace : history, {name: (levels,)}.
    """

    x: np.ndarray
    logL: np.ndarray
    logL_birth: np.ndarray
    blobs: np.ndarray
    slot: np.ndarray
    uniforms: np.ndarray
    trace: dict


class Ledger:
    """Appends block by block; everything in float64, nothing is rewritten.

    Attributes
    ----------
    blocks : list of `Deaths`.
    n_calls : likelihood evaluations.
    seconds : time in "compile", in "likelihood", "training" and "ode" of the nested run, and in the rest of the "refine" phase.
    """

    def __init__(self):
        """Start empty, with the clock running."""
        self.blocks = []
        self.n_calls = 0
        self.seconds = dict.fromkeys(("compile", "likelihood", "training", "ode", "refine"), 0.0)
        self._start = time.perf_counter()

    def append(self, x, logL, logL_birth, blobs, slot, uniforms=(), trace=None):
        """Append a block of dead points, the ranks of their replacements and one level's history, all together."""
        history = {name: np.array([value]) for name, value in (trace or {}).items()}
        self.blocks.append(Deaths(x, logL, logL_birth, blobs, slot, np.asarray(uniforms, np.float64), history))

    def trace(self):
        """Return the history, {name: (levels,)}."""
        return {name: np.concatenate([np.empty(0, int), *(b.trace[name] for b in self.blocks if b.trace)]) for name in TRACE}

    def elapsed(self):
        """Return the seconds since the start, earlier sessions included."""
        return time.perf_counter() - self._start

    def wind(self, elapsed):
        """Set the clock, to go on after earlier sessions."""
        self._start = time.perf_counter() - elapsed

    def clocks(self):
        """Return the seconds of each part, "rest" and "total"."""
        total = self.elapsed()
        return {**self.seconds, "rest": total - sum(self.seconds.values()), "total": total}

    def parts(self, state, name):
        """List a column block by block, then that of the live points of a NestedState; "x", "logL", "logL_birth" or "blobs"."""
        live = {"x": state.x, "logL": state.logL, "logL_birth": state.birth, "blobs": state.blobs}
        return [*(getattr(b, name) for b in self.blocks), live[name]]

    def joined(self, state, *names):
        """Return columns of the dead followed by the live points of a NestedState."""
        return tuple(np.concatenate(self.parts(state, name)) for name in names)

    def points(self, state):
        """Return the dead and live points as `Points` with their posterior weights."""
        x, logL, logL_birth = self.joined(state, "x", "logL", "logL_birth")
        slot = np.concatenate([*(b.slot for b in self.blocks), np.arange(len(state.logL))])
        evidence = evaluate_ledger(logL, logL_birth)
        return Points(x, logL, (slot >= len(state.logL) // 2).astype(int), evidence.logw, evidence.logZ)


def merge_blocks(blocks):
    """Join blocks into one."""
    columns = [np.concatenate(column) for column in zip(*(b[:-1] for b in blocks), strict=True)]
    names = dict.fromkeys(name for b in blocks for name in b.trace)
    return Deaths(*columns, {name: np.concatenate([b.trace[name] for b in blocks if b.trace]) for name in names})


def with_names_of_today(columns):
    """Return {name: value} of a history that may have been written under former names."""
    return {FORMER.get(name, name): value for name, value in columns.items()}
