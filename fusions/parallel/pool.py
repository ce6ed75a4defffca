"""Likelihood calls in parallel: own processes, any `concurrent.futures.Executor` (MPI, Dask), or any object with `map`.

Answers are given in the order of the rows, whoever computed them.
"""

import concurrent.futures
import os
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from typing import Any, Protocol

from fusions.errors import OptionError
from fusions.parallel.tasks import ATTEMPTS, IMPORTABLE, TASKS, Batch, PoolFailure, Task, attempt_known, attempt_packed, dumps
from fusions.parallel.workers import Processes

AHEAD = 16  # rows given to an executor beyond two per worker, which hide the time that they travel


class Workers(Protocol):
    """What each of the three kinds offers: it calls a `Task` at rows, and ends what it has begun.

    Attributes
    ----------
    kind : "processes", or the name of the class of the user's pool.
    n_workers : number of workers that compute at the same time.
    faults : how often calls failed, {kind of `tasks.ATTEMPTS`: number}.
    """

    kind: str
    n_workers: int
    faults: Counter[str]

    def run(self, rows: Sequence[Any]) -> tuple[list[Any], float]:
        """Return the values at the rows, in their order, and the seconds that workers spent on them, or raise a PoolFailure."""

    def close(self) -> None:
        """End workers of our own; a pool given by the user stays open."""


class Futures:
    """An executor of the user's, which is left open."""

    def __init__(self, task: Task, executor: Any, timeout: float | None):
        self.executor, self.timeout, self.task = executor, timeout, task
        self.kind, self.n_workers = type(executor).__name__, _count_workers(executor)
        self.faults: Counter[str] = Counter()
        self.key = uuid.uuid4().hex
        self.payload: bytes | None = None
        TASKS[self.key] = task
        try:
            self._greet()
        except BaseException:
            self.close()
            raise

    def _greet(self):
        """See that the executor works and that its workers can load the likelihood."""
        try:
            future = self._submit(None, None)
            answer = future.result()
            if answer.kind == "missing":
                self.payload, _ = dumps(self.task)
                answer = self._submit(self.payload, None).result()
        except OptionError:
            raise
        except Exception as error:
            reason = error if isinstance(error, PoolFailure) else _broken(error, [])
            raise OptionError(
                f"The pool {self.executor!r} can't run a task ({reason}). Expected an open executor whose "
                "workers can import fusions; type pool=4 for processes."
            ) from error
        if answer.kind == "unreadable":
            raise OptionError(f"The likelihood can't be loaded by the workers of the pool ({answer.value[0]}). {IMPORTABLE}")

    def _submit(self, payload, row):
        try:
            return self.executor.submit(attempt_known, self.key, payload, row)
        except Exception as error:
            raise _broken(error, []) from error

    def run(self, rows: Sequence[Any]) -> tuple[list[Any], float]:
        """Return the values at the rows, and the seconds that workers spent on them."""
        batch = Batch(len(rows), self.faults)
        flying: dict[concurrent.futures.Future, int] = {}
        clocks: dict[concurrent.futures.Future, float] = {}
        try:
            while not batch.finished(flying.values()):
                while len(flying) < 2 * self.n_workers + AHEAD and (index := batch.take()) is not None:
                    flying[self._submit(None, rows[index])] = index
                running = list(flying)[: self.n_workers]  # the others wait for their turn
                clocks = {future: clocks.get(future, time.monotonic()) for future in running}
                patience = max(min(clocks.values()) + self.timeout - time.monotonic(), 0.0) if self.timeout else None
                done, _ = concurrent.futures.wait(flying, patience, concurrent.futures.FIRST_COMPLETED)
                for future in sorted(done, key=flying.__getitem__):
                    self._enter(future, flying, rows, batch)
                for future in set(running) & set(flying):
                    if self.timeout and time.monotonic() - clocks[future] >= self.timeout:
                        raise PoolFailure([flying[future]], "timeout", f"{self.timeout:g} s")
            return batch.results(), batch.busy
        finally:
            for future in flying:
                future.cancel()

    def _enter(self, future, flying, rows, batch):
        """Take the answer of a future; a worker that lacks the likelihood gets it with the row."""
        try:
            answer = future.result()
        except Exception as error:
            raise _broken(error, sorted(flying.values())[: self.n_workers]) from error
        index = flying.pop(future)
        if answer.kind == "missing":
            self.payload = self.payload or dumps(self.task)[0]
            flying[self._submit(self.payload, rows[index])] = index
        else:
            batch.enter(index, answer)

    def close(self) -> None:
        """Forget the likelihood; the executor stays open."""
        TASKS.pop(self.key, None)


class Mapped:
    """Any object with `map`, which is left open; all rows of a batch are sent at once."""

    def __init__(self, task: Task, mapper: Any):
        self.mapper, self.task = mapper, task
        self.kind, self.n_workers = type(mapper).__name__, _count_workers(mapper)
        self.faults: Counter[str] = Counter()
        self.key = uuid.uuid4().hex
        self.payload: bytes | None = None
        TASKS[self.key] = task

    def run(self, rows: Sequence[Any]) -> tuple[list[Any], float]:
        """Return the values at the rows, and the seconds that workers spent on them."""
        batch = Batch(len(rows), self.faults)
        while not batch.finished(()):
            taken = [i for i in iter(batch.take, None)]
            answers = self._map(taken, rows, None)
            lacking = [i for i, answer in zip(taken, answers, strict=True) if answer.kind == "missing"]
            if lacking:
                self.payload = self.payload or dumps(self.task)[0]
                again = dict(zip(lacking, self._map(lacking, rows, self.payload), strict=True))
                answers = [again.get(i, answer) for i, answer in zip(taken, answers, strict=True)]
            for index, answer in zip(taken, answers, strict=True):
                batch.enter(index, answer)
        return batch.results(), batch.busy

    def _map(self, taken, rows, payload):
        try:
            return list(self.mapper.map(attempt_packed, [(self.key, payload, rows[i]) for i in taken]))
        except Exception as error:
            raise _broken(error, taken) from error

    def close(self) -> None:
        """Forget the likelihood; the pool stays open."""
        TASKS.pop(self.key, None)


def _broken(error, rows):
    return PoolFailure(rows, "broken", f"{type(error).__name__}: {error}")


def _count_workers(pool):
    """Ask a pool how many workers it has; those that don't tell are taken to have one per core."""
    for name in ("_max_workers", "num_workers", "_processes", "size"):
        n = getattr(pool, name, None)
        if isinstance(n, int) and n > 0:
            return n
    return os.cpu_count() or 1


# What a run sees --------------------------------------------------------------------------------------------


class Pool:
    """One of the three kinds, with counts of what it did."""

    def __init__(self, workers: Workers):
        self.workers, self.n_workers = workers, workers.n_workers
        self.opened, self.n_calls, self.seconds, self.busy = time.perf_counter(), 0, 0.0, 0.0

    def map(self, rows: Sequence[Any], n_points: int) -> list[Any]:
        """Return what the likelihood returned at rows that stand for a number of points, in their order, or raise a PoolFailure."""
        start = time.perf_counter()
        try:
            values, busy = self.workers.run(rows)
        finally:
            self.seconds += time.perf_counter() - start
        self.busy += busy
        self.n_calls += n_points
        return values

    def report(self) -> dict[str, Any]:
        """Sum up: points, seconds in batches and altogether, seconds of work of all workers, and the faults that were mended."""
        return {
            "kind": self.workers.kind, "n_workers": self.n_workers, "n_calls": self.n_calls, "seconds": self.seconds, "busy": self.busy,
            "elapsed": time.perf_counter() - self.opened, **{kind: self.workers.faults[kind] for kind in ATTEMPTS},
        }  # fmt: skip

    def close(self) -> None:
        """End workers of our own; a pool given by the user stays open."""
        self.workers.close()


def check_pool(pool: Any, timeout: Any) -> None:
    """Raise an error that says what to type if the arguments make no pool."""
    if isinstance(timeout, bool) or (timeout is not None and not (isinstance(timeout, (int, float)) and timeout > 0)):
        raise OptionError(f"Expected timeout > 0, the seconds that a likelihood call may take, or None; got {timeout!r}. Type timeout=600.")
    if pool is None:
        if timeout is not None:
            raise OptionError("Expected timeout together with pool=, since only workers can be ended. Type pool=1, or leave timeout out.")
        return
    if isinstance(pool, bool) or isinstance(pool, int) and pool < 1:
        raise OptionError(f"Expected pool to be a positive number of processes, got {pool!r}. Type pool={os.cpu_count() or 2}.")
    usable = any(callable(getattr(pool, name, None)) for name in ("get_executor", "submit", "map"))
    if not isinstance(pool, int) and (isinstance(pool, type) or not usable):
        raise OptionError(
            f"Expected pool to be a number of processes, a concurrent.futures.Executor, a Dask client or an object with map, got {pool!r}. "
            "Type pool=4."
        )
    if timeout is not None and not isinstance(pool, int) and not any(hasattr(pool, name) for name in ("get_executor", "submit")):
        raise OptionError(f"A timeout needs pool=4 or an Executor; {pool!r} has only map. Leave timeout out, or type pool=4.")


def open_pool(task: Task, pool: Any, timeout: float | None = None) -> Pool:
    """Make a `Pool` for a `Task`.

    Parameters
    ----------
    task : Task
    pool : number of processes, an Executor, an object with `get_executor` (a Dask client), or one with `map`.
    timeout : seconds that a call may take, or None.
    """
    if isinstance(pool, int):
        return Pool(Processes(task, pool, timeout))
    if callable(getattr(pool, "get_executor", None)):
        workers = Futures(task, pool.get_executor(pure=False), timeout)
        workers.n_workers = max(len(pool.nthreads()) and sum(pool.nthreads().values()), 1)
        return Pool(workers)
    return Pool(Futures(task, pool, timeout) if callable(getattr(pool, "submit", None)) else Mapped(task, pool))
