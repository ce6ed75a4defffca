"""The growing record of a run on the host: dead points, insertion ranks, history, cost."""

import time

import numpy as np

from fusions.evidence import Points, evaluate_ledger

TRACE = ("logL", "logX", "n_calls", "acceptance", "efficiency", "unmoved", "loss", "scale", "worth", "memory", "effort")


class Ledger:
    """Appends level by level; everything in float64, nothing is rewritten.

    Attributes
    ----------
    x, logL, logL_birth, blobs, slot : lists of blocks of dead points; slot is the place among the live points, -1 if never live.
    uniforms : list of blocks of insertion ranks as uniforms.
    trace : history, a list per quantity.
    n_calls : likelihood evaluations.
    seconds : time in "likelihood", "training" and "ode" of the nested run, and in the whole "refine" phase.
    """

    def __init__(self):
        """Start empty, with the clock running."""
        self.x, self.logL, self.logL_birth, self.blobs, self.slot, self.uniforms = [], [], [], [], [], []
        self.trace = {name: [] for name in TRACE}
        self.n_calls = 0
        self.seconds = dict.fromkeys(("likelihood", "training", "ode", "refine"), 0.0)
        self._start = time.perf_counter()

    def bury(self, x, logL, logL_birth, blobs, slot):
        """Append a block of dead points."""
        self.x.append(x)
        self.logL.append(logL)
        self.logL_birth.append(logL_birth)
        self.blobs.append(blobs)
        self.slot.append(slot)

    def remember(self, **values):
        """Append one level's history."""
        for name, value in values.items():
            self.trace[name].append(value)

    def elapsed(self):
        """Return the seconds since the start."""
        return time.perf_counter() - self._start

    def clocks(self):
        """Return the seconds of each part, "rest" and "total"."""
        total = self.elapsed()
        return {**self.seconds, "rest": total - sum(self.seconds.values()), "total": total}

    def joined(self, state):
        """Return x, logL, logL_birth, blobs of the dead followed by the live points of a NestedState, and the uniforms."""
        pairs = ((self.x, state.x), (self.logL, state.logL), (self.logL_birth, state.birth), (self.blobs, state.blobs))
        return *(np.concatenate([*dead, live]) for dead, live in pairs), np.concatenate([np.empty(0), *self.uniforms])

    def points(self, state):
        """Return the dead and live points as `Points` with their posterior weights."""
        x, logL, logL_birth, _, _ = self.joined(state)
        slot = np.concatenate([*self.slot, np.arange(len(state.logL))])
        return Points(x, logL, logL_birth, slot, (slot >= len(state.logL) // 2).astype(int), evaluate_ledger(logL, logL_birth).logw)
