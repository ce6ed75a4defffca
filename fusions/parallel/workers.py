"""Worker processes of our own, which are replaced if they die or hang."""

import atexit
import contextlib
import os
import signal
import sys
import threading
import time
import types
from collections import Counter, deque
from collections.abc import Sequence
from multiprocessing import connection, get_context, parent_process
from typing import Any

from fusions.errors import OptionError
from fusions.parallel.tasks import ATTEMPTS, IMPORTABLE, TASKS, Batch, PoolFailure, Task, attempt, attempt_known, dumps

PATIENCE = 5.0  # seconds that idle workers have to end by themselves
IGNORED = ("SIGINT", "SIGTERM", "SIGUSR1")  # sent to a whole process group; the parent decides what they mean
GUARD = (
    'Put what starts the run under `if __name__ == "__main__":`, because each worker imports the script that defines the likelihood; '
    "or define the likelihood in a .py file of its own."
)


def _serve(channel, payload):
    """Answer rows until the parent closes the channel or ends."""
    os.environ["JAX_ENABLE_X64"] = "1"  # for a likelihood that imports JAX: it computes as it does in the process of the run
    for name in IGNORED:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), lambda *_: None)
    threading.Thread(target=_follow_parent, daemon=True).start()
    import numpy  # noqa: F401  rows are arrays: the first one shall not wait for the import

    ready = attempt_known(0, payload, None)
    with contextlib.suppress(EOFError, OSError):
        channel.send((None, ready))
        while ready.kind == "done":
            index, row = channel.recv()
            channel.send((index, attempt(TASKS[0], row)))


def _follow_parent():
    parent_process().join()
    os._exit(1)


@contextlib.contextmanager
def _main_hidden(*, hidden):
    """Let new processes not import the user's script again, if nothing in it is needed."""
    main = sys.modules["__main__"]
    if hidden:
        sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


class _Worker:
    """A process of our own, its channel, and the rows that it has got, the first of them since a time."""

    def __init__(self, payload, needs_main):
        context = get_context("spawn")
        self.channel, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, payload), daemon=True, name="fusions-worker")
        try:
            with _main_hidden(hidden=not needs_main):
                self.process.start()
        except BaseException:
            self.channel.close()
            raise
        finally:
            theirs.close()
        self.ready, self.rows, self.since = False, deque(), 0.0

    def send(self, index, row):
        """Send a row; a dead worker is noticed later."""
        if not self.rows:
            self.since = time.monotonic()
        self.rows.append(index)
        with contextlib.suppress(OSError):
            self.channel.send((index, row))

    def receive(self):
        """Return all answers that have arrived, and whether the worker lives."""
        answers = []
        try:
            while self.channel.poll():
                answers.append(self.channel.recv())
        except (EOFError, OSError):
            return answers, False
        return answers, self.process.is_alive() or self.channel.poll()

    def end(self, patience=0.0):
        """End the process: at once, or by itself within some seconds; returns its exit code."""
        self.channel.close()
        self.process.join(patience)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        code = self.process.exitcode
        self.process.close()
        return code


class Processes:
    """Own worker processes, started afresh ("spawn"); one that dies or hangs is replaced."""

    kind = "processes"

    def __init__(self, task: Task, n_workers: int, timeout: float | None):
        self.n_workers, self.timeout, self.payload = n_workers, timeout, dumps(task)
        self.faults: Counter[str] = Counter()
        self.depth = 1 if task.vectorized else 2
        self.workers: list[_Worker] = []
        self.unready = 0
        atexit.register(self.close)
        try:
            self._fill()
            while not all(worker.ready for worker in self.workers):
                self._collect(Batch(0, self.faults))
        except PoolFailure as failure:
            self.close()
            raise OptionError(f"The pool can't start: {failure}") from failure
        except BaseException:
            self.close()
            raise

    def run(self, rows: Sequence[Any]) -> tuple[list[Any], float]:
        """Return the values at the rows, and the seconds that workers spent on them."""
        batch = Batch(len(rows), self.faults)
        self._fill()
        try:
            while not batch.finished([i for worker in self.workers for i in worker.rows]):
                self._send(batch, rows)
                self._collect(batch)
                self._expire(batch)
            return batch.results(), batch.busy
        finally:
            for worker in [w for w in self.workers if w.rows]:  # at rows that nobody waits for any more
                self.workers.remove(worker)
                worker.end()

    def _fill(self):
        """Start the workers that are lacking."""
        while len(self.workers) < self.n_workers:
            self.workers.append(self._new())

    def _new(self):
        try:
            return _Worker(*self.payload)
        except OSError as error:
            raise PoolFailure([], "broken", f"no worker process can be started: {error}") from error

    def _send(self, batch, rows):
        """Give a row to each free worker, and a second one in advance while many are waiting."""
        for depth in range(self.depth):
            for worker in self.workers:
                if worker.ready and len(worker.rows) == depth and (depth == 0 or len(batch.waiting) > self.n_workers):
                    index = batch.take()
                    if index is None:
                        return
                    worker.send(index, rows[index])

    def _collect(self, batch):
        """Wait for answers, deaths, or the time limit of the first row that reaches it."""
        limits = [worker.since + self.timeout for worker in self.workers if worker.rows] if self.timeout else []
        patience = max(min(limits) - time.monotonic(), 0.0) if limits else None
        events = set(connection.wait([end for w in self.workers for end in (w.channel, w.process.sentinel)], patience))
        for i, worker in enumerate(self.workers):
            if not events & {worker.channel, worker.process.sentinel}:
                continue
            answers, alive = worker.receive()
            for index, answer in answers:
                self._enter(worker, index, answer, batch)
            if not alive:
                self._bury(i, batch)

    def _enter(self, worker, index, answer, batch):
        """Take an answer, or the message that a worker is ready."""
        if index is None:
            if answer.kind != "done":
                text = f"the likelihood can't be loaded by the workers of the pool ({answer.value[0]}). {IMPORTABLE}"
                raise PoolFailure([], "broken", text)
            worker.ready, self.unready = True, 0
            return
        worker.rows.popleft()
        worker.since = time.monotonic()
        batch.enter(index, answer)

    def _bury(self, i, batch):
        """Replace a dead worker; the row it was at counts an attempt, one it had in advance does not."""
        was_ready, rows = self.workers[i].ready, self.workers[i].rows
        code = self._replace(i, PATIENCE)
        self.unready += not was_ready
        if self.unready >= ATTEMPTS["died"]:
            advice = "Too little memory is the likely cause." if code < 0 else GUARD
            raise PoolFailure([], "broken", f"workers end before they are ready (exit code {code}). {advice}")
        batch.waiting.extendleft(list(rows)[:0:-1])
        if rows:
            batch.fault(rows[0], "died", f"exit code {code}")
        else:
            batch.faults["died"] += 1

    def _expire(self, batch):
        """End the workers whose row takes longer than the time limit."""
        for i, worker in enumerate(self.workers):
            if self.timeout and worker.rows and time.monotonic() - worker.since >= self.timeout:
                rows = worker.rows
                self._replace(i)
                batch.waiting.extendleft(list(rows)[:0:-1])
                batch.fault(rows[0], "timeout", f"{self.timeout:g} s")

    def _replace(self, i, patience=0.0):
        """Put a fresh worker in the place of another; returns the old one's exit code."""
        code = self.workers[i].end(patience)
        self.workers[i] = self._new()
        return code

    def close(self) -> None:
        """End all workers, the busy ones at once."""
        for worker in self.workers:
            worker.channel.close()
        while self.workers:
            worker = self.workers.pop()
            worker.end(PATIENCE if worker.ready and not worker.rows else 0.0)
        atexit.unregister(self.close)
