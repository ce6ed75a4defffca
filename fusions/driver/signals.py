"""Signals that ask a run to stop: it saves and returns instead of dying."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

STOPPING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name))
PATIENT = "SIGUSR1"  # a warning ahead of time: the level at hand is finished first


class StopSignal(KeyboardInterrupt):
    """A signal arrived while the run could be left at once; the text is its name."""


class Signals:
    """Handlers for SIGINT, SIGTERM and SIGUSR1 while a run lasts.

    They are installed in the main thread only, only where nobody else has set one, and taken back at the end. SIGINT and SIGTERM leave an
    `interruptible` block at once, SIGUSR1 waits for its end. A second SIGINT raises KeyboardInterrupt wherever the run is.

    Attributes
    ----------
    received : name of the signal that came, or None.
    """

    def __init__(self, *, patient: bool = False):
        """Install nothing yet; with `patient` all signals wait for the end of a block."""
        self._always_patient = patient
        self.received: str | None = None
        self._open, self._patient = False, True
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self):
        """Install the handlers."""
        if threading.current_thread() is threading.main_thread():
            for number in STOPPING:
                if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                    self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *exc):
        """Put the earlier handlers back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number, frame):
        """Remember the signal; leave at once if that is safe."""
        del frame
        name, again = signal.Signals(number).name, self.received is not None
        self.received = self.received if again and name == PATIENT else name
        if again and name == "SIGINT":
            raise KeyboardInterrupt
        self._leave()

    @contextlib.contextmanager
    def interruptible(self, *, patient: bool = True) -> Iterator[None]:
        """Let signals end a block; SIGUSR1 too unless `patient`."""
        self._open, self._patient = not self._always_patient, patient
        try:
            self._leave()
            yield
        finally:
            self._open = False

    @contextlib.contextmanager
    def protected(self) -> Iterator[None]:
        """Put signals off to the end of a block inside of an interruptible one."""
        was, self._open = self._open, False
        yield
        self._open = was
        self._leave()

    def _leave(self):
        """Leave an interruptible block if a signal asks for it."""
        if self._open and self.received and not (self._patient and self.received == PATIENT):
            raise StopSignal(self.received)


def exit_code(name: str) -> int:
    """Return the exit code of a command that was stopped by a signal, 128 + its number."""
    return 128 + signal.Signals[name].value
