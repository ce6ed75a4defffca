"""A call of the likelihood that can be sent to a worker, what comes back, and the rows of one batch.

Needs no JAX: workers import this file and what the likelihood imports.
"""

import contextlib
import pickle
import sys
import time
import traceback
from collections import Counter, deque
from collections.abc import Iterable
from typing import Any, NamedTuple

from fusions.errors import OptionError

ATTEMPTS = {"raised": 2, "timeout": 2, "died": 3}  # at one row, before a run gives up
RATIO = "ln_prior_ratio"  # last parameter of a `Shifted` likelihood
IMPORTABLE = "Define it at the top level of a .py file that the workers can import, or install cloudpickle."


class Task(NamedTuple):
    """The user's function with the form of its argument.

    Attributes
    ----------
    function : the likelihood.
    names : parameters of a dict argument, or None for an array.
    vectorized : whether a row stands for many points.
    rest : further arguments.
    """

    function: Any
    names: tuple | None
    vectorized: bool = False
    rest: tuple = ()

    def __call__(self, row: Any) -> Any:
        """Call the function at a row (n_names,), or at points (n, n_names)."""
        if self.names is None:
            return self.function(row.copy(), *self.rest)
        return self.function(dict(zip(self.names, row.T.copy() if self.vectorized else row.tolist(), strict=True)), *self.rest)


class Shifted(NamedTuple):
    """A likelihood whose last parameter is a summand of log L that the user's function does not know.

    Attributes
    ----------
    function : the user's likelihood.
    array : whether it takes an array, else a dict.
    blobs : whether it returns derived parameters too.
    """

    function: Any
    array: bool
    blobs: bool

    def __call__(self, p: Any, *rest: Any) -> Any:
        """Call the function, at one point or at many."""
        if self.array:
            returned, ratio = self.function(p[..., :-1], *rest), p[..., -1]
        else:
            returned, ratio = self.function({name: value for name, value in p.items() if name != RATIO}, *rest), p[RATIO]
        if self.blobs:
            logL, blobs = returned
            return logL + ratio, blobs
        return returned + ratio


class Answer(NamedTuple):
    """What a worker made of one row.

    Attributes
    ----------
    kind : "done", "raised", "missing" (the worker has no likelihood yet) or "unreadable" (it can't load the likelihood).
    value : pickled return value, or (text of the error, traceback).
    seconds : time in the likelihood.
    """

    kind: str
    value: Any
    seconds: float


class PoolFailure(Exception):
    """A row could not be computed.

    Attributes
    ----------
    rows : indices of the rows in question.
    kind : "raised", "timeout", "died" or "broken".
    """

    def __init__(self, rows: list[int], kind: str, text: str):
        """Keep rows, kind and text."""
        super().__init__(text)
        self.rows, self.kind = rows, kind


# In the worker ---------------------------------------------------------------------------------------------

TASKS: dict = {}  # key: Task, in workers of an executor, and in this process for its threads


def _in_double():
    """Let JAX, if the likelihood has imported it, compute in double precision, as it does in the process of the run."""
    for module in ("jax", "jax.experimental"):  # the latter before jax 0.8
        switch = getattr(sys.modules.get(module), "enable_x64", None)
        if switch is not None:
            return switch(*[True])
    return contextlib.nullcontext()


def attempt(task: Task, row: Any) -> Answer:
    """Call a task at a row; whatever it raises becomes part of the answer."""
    start = time.perf_counter()
    try:
        with _in_double():
            value = pickle.dumps(task(row))
    except (Exception, SystemExit) as error:  # an exit() in a likelihood must not end a worker without a word
        return Answer("raised", (f"{type(error).__name__}: {error}", traceback.format_exc()), time.perf_counter() - start)
    return Answer("done", value, time.perf_counter() - start)


def _unpickled(payload):
    """Unpickle a task, again if that was what imported JAX: its arrays are rounded unless it computes in double precision."""
    was_there = "jax" in sys.modules
    with _in_double():
        task = pickle.loads(payload)
    return task if was_there or "jax" not in sys.modules else _unpickled(payload)


def attempt_known(key: int | str, payload: bytes | None, row: Any) -> Answer:
    """Call the task of a key, which comes along once per worker as a `payload`; workers keep the last one.

    Parameters
    ----------
    key : of the task in `TASKS`.
    payload : pickled task, or None if the worker should have it.
    row : argument of the task; None to see only that the task can be loaded.
    """
    task = TASKS.get(key)
    if task is None:
        if payload is None:
            return Answer("missing", None, 0.0)
        try:
            task = _unpickled(payload)
        except (Exception, SystemExit) as error:
            return Answer("unreadable", (f"{type(error).__name__}: {error}", traceback.format_exc()), 0.0)
        for old in list(TASKS):
            TASKS.pop(old, None)
        TASKS[key] = task
    return attempt(task, row) if row is not None else Answer("done", b"", 0.0)


def attempt_packed(arguments: tuple[int | str, bytes | None, Any]) -> Answer:
    """Call `attempt_known` with one tuple of its arguments, as `map` does."""
    return attempt_known(*arguments)


# Sending the likelihood -------------------------------------------------------------------------------------


def dumps(task: Task) -> tuple[bytes, bool]:
    """Pickle a task, by cloudpickle if it is installed and the standard pickle can't, or would point to a script.

    Returns
    -------
    bytes, whether a worker needs the user's script to load them.
    """
    payload: bytes | None
    problem: Exception | None
    try:
        payload, problem = pickle.dumps(task), None
    except Exception as error:
        payload, problem = None, error
    if payload is None or b"__main__" in payload:
        with contextlib.suppress(Exception):
            import cloudpickle

            return cloudpickle.dumps(task), False
    if payload is None:
        raise OptionError(f"The likelihood can't be sent to the workers of the pool ({problem}). {IMPORTABLE}") from problem
    return payload, b"__main__" in payload


# Rows of one call --------------------------------------------------------------------------------------------


class Batch:
    """Which rows wait, and what came of the others; rows are handed out in order, repeated ones first."""

    def __init__(self, n: int, faults: Counter[str]):
        self.waiting, self.answers, self.busy = deque(range(n)), [None] * n, 0.0
        self.missing, self.faults = n, faults
        self.failed: dict[int, PoolFailure] = {}
        self.tries: Counter[tuple[int, str]] = Counter()  # (row, kind)

    def finished(self, flying: Iterable[int]) -> bool:
        """Tell whether nothing more is to be done: after a failure only rows before it count."""
        if not self.failed:
            return self.missing == 0
        first = min(self.failed)
        return not any(i < first for i in (*flying, *self.waiting))

    def take(self) -> int | None:
        """Return the next row to compute, or None."""
        first = min(self.failed, default=len(self.answers))
        while self.waiting:
            index = self.waiting.popleft()
            if index < first:
                return index
        return None

    def enter(self, index: int, answer: Answer) -> None:
        """Keep an answer, or try again."""
        self.busy += answer.seconds
        if answer.kind != "done":
            self.fault(index, "raised", *answer.value)
            return
        try:
            self.answers[index] = pickle.loads(answer.value)
        except Exception as error:  # a type that only the worker knows
            self.fault(index, "raised", f"{type(error).__name__}: {error}")
        else:
            self.missing -= 1

    def fault(self, index: int, kind: str, text: str, cause: str | None = None) -> None:
        """Count a fault of a row: it is repeated, or has failed.

        Parameters
        ----------
        index : of the row.
        kind : "raised", "timeout" or "died".
        text : what happened; cause : traceback from the worker, or None.
        """
        self.faults[kind] += 1
        self.tries[index, kind] += 1
        if self.tries[index, kind] < ATTEMPTS[kind]:
            self.waiting.appendleft(index)
            return
        failure = PoolFailure([index], kind, text)
        failure.__cause__ = RuntimeError(f"in a worker:\n{cause}") if cause else None
        self.failed[index] = failure

    def results(self) -> list[Any]:
        """Return the values in order, or raise the failure of the first row that has one."""
        if self.failed:
            raise self.failed[min(self.failed)]
        return self.answers
