"""What a run shows of itself while it goes on."""

import sys
import warnings
from typing import NamedTuple

import numpy as np


class Snapshot(NamedTuple):
    """The state of a run after a level, for progress bars and callbacks.

    Attributes
    ----------
    iteration : levels done.
    logL : contour [nats].
    logX : ln of the prior volume inside of it.
    logZ : ln evidence of the dead points so far [nats].
    log_remaining : ln of the share of the evidence that the live points' volume could hold at their highest likelihood.
    n_calls : likelihood evaluations.
    efficiency : replacements per call.
    elapsed : seconds.
    """

    iteration: int
    logL: float
    logX: float
    logZ: float
    log_remaining: float
    n_calls: int
    efficiency: float
    elapsed: float


class Bar:
    """A tqdm bar in a terminal or notebook; silent if `shown` is False."""

    def __init__(self, *, shown: bool):
        """Open the bar."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a notebook without widgets gets the bar as text
            from tqdm.auto import tqdm

        self._bar = tqdm(disable=not shown, desc="compiling", unit=" levels", bar_format="{desc} | {n_fmt} levels | {elapsed} {postfix}")

    def __enter__(self):
        """Return the bar."""
        return self

    def __exit__(self, *exc):
        """Close the bar."""
        self._bar.close()

    def note(self, text: str):
        """Show a line above the bar."""
        if not self._bar.disable:
            self._bar.write(text, file=sys.stderr)

    def update(self, snapshot: Snapshot):
        """Show a snapshot."""
        share = np.exp(min(snapshot.log_remaining, 0.0))
        self._bar.set_description_str(f"ln Z {snapshot.logZ:.2f} | remaining {share:.2g}", refresh=False)
        text = f"{snapshot.n_calls:,} calls, {100 * snapshot.efficiency:.0f} % efficient"
        self._bar.set_postfix_str(text, refresh=False)
        self._bar.update(1)

    def refining(self, n_calls: int):
        """Show how many likelihood calls were made, in the refine phase."""
        self._bar.set_postfix_str(f"{n_calls:,} calls", refresh=False)
        self._bar.set_description_str("refining")
