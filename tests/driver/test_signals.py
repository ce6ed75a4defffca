"""Signals: a run saves and returns, handlers go as they came."""

import os
import signal
import threading

import pytest
import test_checkpoint as common
from test_checkpoint import BOX, assert_same, run, whole

from fusions.driver.signals import STOPPING, Signals, exit_code
from fusions.errors import Status
from fusions.io import checkpoint

STATUS = {"SIGINT": Status.INTERRUPTED, "SIGTERM": Status.TERMINATED, "SIGUSR1": Status.TERMINATED}


def send(name, times=1):
    """Make an action that sends this process a signal."""

    def action():
        for _ in range(times):
            os.kill(os.getpid(), signal.Signals[name])

    return action


def handlers():
    return [signal.getsignal(number) for number in STOPPING]


@pytest.fixture(autouse=True)
def _handlers_are_put_back():
    BOX.reset()
    before = handlers()
    yield
    assert handlers() == before


@pytest.mark.parametrize("name", STATUS)
def test_signal_saves_and_returns(name, tmp_path):
    """The likelihood's n-th call is where it comes: SIGUSR1 finishes the level, the others leave it."""
    n = int(whole().level_trace["n_calls"][9]) - 5
    BOX.reset(n, send(name))
    result = run(checkpoint=tmp_path, checkpoint_every=1e3)
    assert result.status is STATUS[name]
    assert not result.status.complete
    assert result.info["signal"] == name
    assert (BOX.n_calls == n) is (name != "SIGUSR1")
    levels = whole().level_trace["n_calls"]
    done = sum(levels < n) + (name == "SIGUSR1")
    assert checkpoint.read(tmp_path).meta["iteration"] == len(result.level_trace["logL"]) == done
    BOX.reset()
    resumed = run(checkpoint=tmp_path)
    assert_same(resumed, whole())
    assert resumed.info["signal"] is None


def test_signal_without_a_checkpoint_returns_what_there_is():
    BOX.reset(whole().n_calls // 2, send("SIGTERM"))
    result = run()
    assert result.status is Status.TERMINATED
    assert "SIGTERM" in str(result)


def test_signal_between_levels_is_heard(tmp_path):
    result = run(checkpoint=tmp_path, callback=lambda snapshot: send("SIGTERM")() if snapshot.iteration == 3 else None)
    assert result.status is Status.TERMINATED
    assert len(result.level_trace["logL"]) == 3


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGINT"])
def test_signal_during_the_refine_phase_leaves_it(name, monkeypatch, tmp_path):
    monkeypatch.setattr(common.refinement, "refine", common.cheap_refine)
    undisturbed = run(refine=True)
    BOX.reset(undisturbed.n_calls - undisturbed.refined.n_calls + 20, send(name))
    result = run(refine=True, checkpoint=tmp_path)
    assert (result.status, result.refined, result.info["signal"]) == (Status.CONVERGED, None, name)
    BOX.reset()
    assert_same(run(refine=True, checkpoint=tmp_path), undisturbed)


@pytest.mark.parametrize(("name", "error"), [("SIGINT", KeyboardInterrupt), ("SIGTERM", SystemExit)])
def test_signal_before_there_is_anything_ends_the_process(name, error, tmp_path):
    BOX.reset(5, send(name))
    with pytest.raises(error) as caught:
        run(checkpoint=tmp_path)
    assert caught.type is error  # the interpreter ends by SIGINT for KeyboardInterrupt itself alone
    assert error is KeyboardInterrupt or caught.value.code == exit_code(name) == 143
    assert BOX.n_calls == 5


def test_patient_signal_before_there_is_anything_waits_for_it(tmp_path):
    BOX.reset(5, send("SIGUSR1"))
    assert run(checkpoint=tmp_path).status is Status.TERMINATED
    BOX.reset()
    assert_same(run(checkpoint=tmp_path), whole())


def test_second_interrupt_interrupts_saving(tmp_path, monkeypatch):
    """The first is put off while a state is written; the second is not; the state before stays whole."""
    write, n = checkpoint.write_atomically, []

    def interrupted(path, data):
        n.append(path)
        if len(n) == 4:
            send("SIGINT", 2)()
        write(path, data)

    monkeypatch.setattr(checkpoint, "write_atomically", interrupted)
    result = run(checkpoint=tmp_path)
    assert result.status is Status.INTERRUPTED
    monkeypatch.undo()
    assert_same(run(checkpoint=tmp_path), whole())


def test_handlers_of_the_program_are_left_alone(tmp_path):
    """A handler that exits, as batch systems' wrappers have it: the levels are saved all the same."""

    def leave(number, frame):
        raise SystemExit(7)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        BOX.reset(whole().n_calls // 2, send("SIGTERM"))
        with pytest.raises(SystemExit, match="7"):
            run(checkpoint=tmp_path, checkpoint_every=1e3)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert checkpoint.read(tmp_path).meta["iteration"] > 3
    BOX.reset()
    assert_same(run(checkpoint=tmp_path), whole())


def test_other_threads_install_nothing():
    found = []

    def work():
        found.append((run(callback=lambda snapshot: found.append(handlers()), max_calls=200), handlers()))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    *during, (result, _) = found
    assert result.status is Status.MAX_CALLS
    assert all(now == handlers() for now in during)


def test_exit_codes():
    assert [exit_code(name) for name in ("SIGINT", "SIGUSR1", "SIGTERM")] == [130, 138, 143]


def test_protected_block_inside_of_an_interruptible_one():
    steps = []

    def work(signals):
        with signals.interruptible():
            with signals.protected():
                send("SIGTERM")()
                steps.append("written")
            steps.append("never")

    with Signals() as signals, pytest.raises(KeyboardInterrupt):
        work(signals)
    assert (steps, signals.received) == (["written"], "SIGTERM")


def test_loud_signal_after_a_patient_one():
    with Signals() as signals, signals.interruptible():
        send("SIGUSR1")()
        with pytest.raises(KeyboardInterrupt):
            send("SIGTERM")()
    assert signals.received == "SIGTERM"
