"""Errors and the status of a run, in sentences for the user."""

import enum
from typing import Any


class FusionsError(Exception):
    """Base of every error that this package raises."""


class PriorError(FusionsError, ValueError):
    """A prior was described wrongly."""


class ProblemError(FusionsError, ValueError):
    """A problem was described wrongly (names, labels, shapes, forms)."""


class OptionError(FusionsError, ValueError):
    """A setting of an algorithm, kernel, flow or call is out of range or unknown."""


class FileError(FusionsError, ValueError):
    """A saved run can't be read or written."""


class CheckpointError(FileError):
    """A checkpoint can't be used: it is damaged, in use, or of another run."""


class LikelihoodError(FusionsError, ValueError):
    """The likelihood failed; the message names the parameter values.

    Attributes
    ----------
    result : what was computed before the failure (a `Result`), or None.
    """

    result: Any = None


class PrecisionError(FusionsError, ArithmeticError):
    """Floating-point numbers do not tell the live points apart; the message names the parameter and what to do.

    Attributes
    ----------
    result : what was computed before (a `Result`), or None.
    """

    result: Any = None


class Status(enum.Enum):
    """Why a run stopped, as a sentence."""

    CONVERGED = "Converged: the live points hold a negligible part of the evidence."
    MAX_CALLS = "Stopped at the limit on likelihood calls (max_calls); the evidence is incomplete."
    MAX_TIME = "Stopped at the time limit (max_time); the evidence is incomplete."
    USER_RULE = "Stopped by the user's rule (stop or callback)."
    INTERRUPTED = "Interrupted by the user (Ctrl-C); the evidence is incomplete."
    TERMINATED = "Stopped by SIGTERM or SIGUSR1; the evidence is incomplete."
    PLATEAU = "Finished: all live points have the same likelihood, and no higher one was found."
    CLONES = "Stopped: the live points are copies of a few; the evidence is incomplete."
    FAILED = "Failed: the run raised an error; this is what was computed before it."

    @property
    def complete(self) -> bool:
        """Whether the evidence of this run is final."""
        return self in (Status.CONVERGED, Status.PLATEAU)


def advice_on(error: str) -> str:
    """Say what to do about an exception that a user's likelihood raised, written as "TYPE: text"."""
    if error.startswith("KeyError:"):
        return "If that is a parameter, it is not in the prior: give it one, or use the names shown."
    return "Return -inf where the likelihood is zero, or exclude such parameters with the prior."
