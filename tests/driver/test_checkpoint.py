"""Checkpoints: what is on disk, resuming, refusals, torn writes, a full disk, SIGKILL."""

import errno
import functools
import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import fusions
from fusions import kernels
from fusions import priors as pr
from fusions.algorithms.nested import schedule
from fusions.algorithms.refine import phase as refinement
from fusions.algorithms.refine.chains import Chains
from fusions.algorithms.refine.checks import Bridged
from fusions.algorithms.refine.draws import Draws, Ensemble
from fusions.algorithms.refine.settings import Refine
from fusions.driver import session
from fusions.driver import snapshot as snapshots
from fusions.driver.compiled import clear_cache
from fusions.driver.snapshot import N_PROBES
from fusions.errors import CheckpointError, LikelihoodError, OptionError, Status
from fusions.evidence.importance import importance
from fusions.flows.cnf import CNF
from fusions.io import checkpoint
from fusions.io.checkpoint import Checkpoint
from fusions.types import Budget

SQUARE = fusions.Prior(x=pr.uniform(0, 1), y=pr.uniform(0, 1))
SLICE = fusions.nested(n_live=40, kernel=kernels.HitAndRun(), kill=0.2)
FLOW = kernels.FlowKernel(n_moves=1, flow=CNF(width=8, depth=1, ode_steps=1))
CYCLE = fusions.nested(n_live=40, kernel=kernels.Cycle((FLOW, kernels.HitAndRun())), kill=0.2, cost="expensive")
ARRAYS = ("theta", "logL", "logL_birth", "insertion_uniforms", "draws", "draws_logL", "draws_logw")


def quiet(p):
    return -0.5 * ((p["x"] - 0.5) / 0.05) ** 2 - 0.5 * ((p["y"] - 0.5) / 0.05) ** 2


class Box:
    """A black box that counts its calls and, at the n-th, does something."""

    def __init__(self):
        self.reset()

    def reset(self, at=None, action=None, function=quiet):
        self.n_calls, self.at, self.action, self.function = 0, at, action, function

    def __call__(self, p):
        self.n_calls += 1
        if self.n_calls == self.at:
            self.action()
        return float(self.function(p))


BOX = Box()
HOSTED, TRACED = fusions.Problem(SQUARE, BOX, traceable=False), fusions.Problem(SQUARE, quiet)
CASES = {"hosted": (HOSTED, SLICE), "traced": (TRACED, SLICE), "flow": (TRACED, CYCLE)}


@pytest.fixture(autouse=True)
def _reset():
    BOX.reset()


def run(problem=HOSTED, algorithm=SLICE, **options):
    return fusions.run(problem, algorithm, **{"key": 3, "progress": False, "refine": False, "checkpoint_every": 0, **options})


@functools.cache
def whole(case="hosted"):
    """Run undisturbed, without a checkpoint."""
    return run(*CASES[case])


def assert_same(result, other):
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(result, name), getattr(other, name))
    for name, values in other.level_trace.items():
        np.testing.assert_array_equal(result.level_trace[name], values)
        assert result.level_trace[name].dtype == values.dtype
    assert (result.logZ, result.logZ_err, result.n_calls, result.status) == (other.logZ, other.logZ_err, other.n_calls, other.status)


def at(*levels):
    """Make a callback that ends a run at any of some levels."""
    return lambda snapshot: snapshot.iteration in levels


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """Make a folder with a run of the black box that was stopped after 7 levels."""
    folder = tmp_path_factory.mktemp("stopped")
    BOX.reset()
    run(checkpoint=folder, callback=at(7))
    return folder


@pytest.fixture
def copy(stopped, tmp_path):
    """Return a copy of that folder."""
    return Path(shutil.copytree(stopped, tmp_path / "copy"))


# Resuming ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_resumed_run_is_the_undisturbed_one(case, tmp_path):
    """Stopped twice, and once more before the first level; nothing is compiled again."""
    problem, algorithm = CASES[case]
    one = run(problem, algorithm, checkpoint=tmp_path, max_calls=1)
    assert one.status is Status.MAX_CALLS
    two = run(problem, algorithm, checkpoint=tmp_path, callback=at(4, 9))
    three = run(problem, algorithm, checkpoint=tmp_path, callback=at(4, 9), checkpoint_every=1e3)
    assert [len(r.level_trace["logL"]) for r in (one, two, three)] == [0, 4, 9]
    result = run(problem, algorithm, checkpoint=tmp_path)
    assert_same(result, whole(case))
    assert result.n_compilations == 0
    assert result.seconds["total"] >= three.seconds["total"] >= two.seconds["total"]


def test_checkpoint_changes_no_number(tmp_path):
    assert_same(run(checkpoint=tmp_path), whole())


def test_ended_run_is_returned_without_computing(tmp_path):
    first = run(checkpoint=tmp_path)
    BOX.reset()
    levels = []
    again = run(checkpoint=tmp_path, callback=levels.append)
    assert_same(again, first)
    assert again.seconds == first.seconds
    assert (BOX.n_calls, levels) == (N_PROBES, [])


def test_result_is_in_the_folder_too(copy):
    assert fusions.Result.load(copy).status is Status.USER_RULE
    result = run(checkpoint=copy)
    assert_same(fusions.Result.load(copy), result)


def test_resume_false_starts_afresh(copy):
    assert_same(run(checkpoint=copy, resume=False), whole())
    assert run(checkpoint=copy, resume=False, key=4, max_calls=1).info["seed"] == 4


def test_resume_false_keeps_the_old_run_until_there_is_a_new_one(copy):
    BOX.reset(1, functools.partial(exec, "raise RuntimeError"))
    with pytest.raises(LikelihoodError):
        run(checkpoint=copy, resume=False)
    assert_same(run(checkpoint=copy), whole())


def test_max_time_counts_each_call_by_itself(copy):
    assert run(checkpoint=copy, max_time=1e-9).status is Status.MAX_TIME
    assert_same(run(checkpoint=copy, max_time=1e3), whole())


@pytest.mark.parametrize("error", [RuntimeError, SystemExit, MemoryError, KeyboardInterrupt])
def test_whatever_ends_a_run_its_levels_are_kept(error, tmp_path):
    """Saved at the end although the time for the next save had not come."""

    def fail():
        raise error

    BOX.reset(whole().n_calls // 2, fail)
    try:
        run(checkpoint=tmp_path, checkpoint_every=1e3)
    except (LikelihoodError, SystemExit):
        pass
    assert checkpoint.read(tmp_path).meta["iteration"] > 3
    BOX.reset()
    assert_same(run(checkpoint=tmp_path), whole())
    assert BOX.n_calls < 0.8 * whole().n_calls


def test_cost_that_was_timed_is_kept(monkeypatch, tmp_path):
    algorithm = fusions.nested(n_live=40, kernel=SLICE.kernel, kill=0.2, cost="auto")
    monkeypatch.setattr(session, "timed_cost", lambda *args: ("expensive", "chosen"))
    run(algorithm=algorithm, checkpoint=tmp_path, max_calls=1)
    monkeypatch.setattr(session, "timed_cost", None)
    result = run(algorithm=algorithm, checkpoint=tmp_path)
    assert "cost='expensive'" in result.info["settings"]
    assert "chosen" in result.info["warnings"]


# The refine phase -------------------------------------------------------------------------------------------


CHAINS = Chains(np.zeros((1, 2, 2)), np.zeros((1, 2)), np.arange(2), 8, 16, 0, 0.0, settled=True)


def cheap_refine(key, settings, schedule, functions, points, budget, target):
    """Stand in for the refine phase: draws from the prior, in batches that depend on the key and the values before."""
    rounds, shift = [], 0.0
    for i in range(4):
        u = functions.space.enter(np.asarray(jax.random.normal(jax.random.fold_in(key, i), (16, 2))) + np.float32(shift))
        logL, blobs, _ = functions.target(u)
        shift = 1e-6 * logL.mean()
        rounds.append(Draws(u, logL, blobs, logL, logL, np.zeros(16)))
        if budget.expired():
            break
    found = importance(rounds[-1].logw)
    history = np.array([(found.logZ, found.logZ_err, 0.5)])
    return refinement.Refined(found, Bridged((0.0, 1.0), (0.0, 1.0), 0.0), 0.0, history, rounds[-1], Ensemble(()), CHAINS, np.empty(0), [])


@pytest.fixture
def cheap(monkeypatch):
    monkeypatch.setattr(refinement, "refine", cheap_refine)
    return run(refine=True)


def test_refine_phase_is_resumed_without_asking_the_likelihood_again(cheap, tmp_path):
    n_nested = cheap.n_calls - cheap.refined.n_calls

    def interrupt():
        raise KeyboardInterrupt

    BOX.reset(n_nested + 40, interrupt)  # in the third batch of 16
    result = run(refine=True, checkpoint=tmp_path)
    assert result.status is Status.CONVERGED
    assert result.refined is None
    assert any("refine phase was interrupted" in note for note in result.info["warnings"])
    BOX.reset()
    result = run(refine=True, checkpoint=tmp_path)
    assert_same(result, cheap)
    assert result.refined == cheap.refined
    assert BOX.n_calls == 32 + N_PROBES
    assert not any("interrupted" in note for note in result.info["warnings"])
    BOX.reset()
    assert_same(run(refine=True, checkpoint=tmp_path), cheap)
    assert BOX.n_calls == N_PROBES


@pytest.mark.parametrize("error", [RuntimeError("no convergence"), SystemExit(3)])
def test_error_in_the_refine_phase_costs_no_nested_run(error, cheap, tmp_path):
    """The nested run is the result, with a warning; an exit ends the process. Either way the refine phase is resumed."""

    def fail():
        raise error

    n_nested = cheap.n_calls - cheap.refined.n_calls
    BOX.reset(n_nested + 40, fail)  # in the third batch of 16
    if isinstance(error, SystemExit):
        with pytest.raises(SystemExit) as caught:
            run(refine=True, checkpoint=tmp_path, checkpoint_every=1e3)
        assert caught.value.code == 3
    else:
        with pytest.warns(UserWarning, match="refine phase failed.*raised RuntimeError: no convergence at x=.*, y="):
            result = run(refine=True, checkpoint=tmp_path, checkpoint_every=1e3)
        assert (result.status, result.refined, result.info["cut"], result.info["signal"]) == (Status.CONVERGED, None, True, None)
        assert (result.logZ, result.logZ_err) == (cheap.evidence.logZ, cheap.evidence.logZ_err)
        assert any("no convergence" in note for note in result.info["warnings"])
        assert fusions.Result.load(tmp_path).info["cut"]
    BOX.reset()
    result = run(refine=True, checkpoint=tmp_path)
    assert_same(result, cheap)
    assert BOX.n_calls == 32 + N_PROBES
    assert not any("refine phase" in note for note in result.info["warnings"])


def test_error_in_the_refine_phase_without_a_folder(cheap):
    """NaN instead of an exception, and nothing to mend."""
    BOX.reset(function=lambda p: quiet(p) if BOX.n_calls <= cheap.n_calls - cheap.refined.n_calls else np.nan)
    with pytest.warns(UserWarning, match="refine phase failed; ln Z is that of the nested run. The log-likelihood is nan at x="):
        result = run(refine=True)
    assert result.logZ == cheap.evidence.logZ
    assert "make the same call again" not in str(result)


def test_exit_before_there_is_anything_leaves_a_folder_to_begin_in(tmp_path):
    BOX.reset(5, lambda: sys.exit(3))
    with pytest.raises(SystemExit) as caught:
        run(checkpoint=tmp_path)
    assert caught.value.code == 3
    BOX.reset()
    assert_same(run(checkpoint=tmp_path), whole())


def test_refine_phase_cut_by_time_is_not_final(cheap, monkeypatch, tmp_path):
    late = []

    def slow_refine(*args):
        late.append(True)
        return cheap_refine(*args)

    monkeypatch.setattr(refinement, "refine", slow_refine)
    with monkeypatch.context() as patch:
        patch.setattr(Budget, "late", lambda budget: bool(late))
        result = run(refine=True, checkpoint=tmp_path)
    assert any("fewer rounds" in note for note in result.info["warnings"])
    assert result.refined.n_calls == 16
    assert_same(run(refine=True, checkpoint=tmp_path), cheap)


def test_converged_run_can_be_refined_later(cheap, tmp_path):
    """The black box's nested run stops early where a refine phase follows; so the other run is the longer one."""
    plain = run(checkpoint=tmp_path)
    result = run(refine=True, checkpoint=tmp_path)
    assert plain.refined is None
    assert result.refined is not None
    assert result.n_calls == plain.n_calls + 64
    assert run(refine=Refine(error=0.5), checkpoint=tmp_path).refined.settings != result.refined.settings


def precise(precision):
    return fusions.nested(n_live=40, kernel=kernels.HitAndRun(), kill=0.2, precision=precision)


@pytest.mark.parametrize("refine", [False, True])
def test_ended_run_goes_on_with_a_smaller_precision(refine, monkeypatch, tmp_path):
    """Also after a kill on the way, when the result of the first run is still in the folder."""
    monkeypatch.setattr(refinement, "refine", cheap_refine)
    undisturbed = run(algorithm=precise(0.01), refine=refine)
    first = run(algorithm=precise(0.1), refine=refine, checkpoint=tmp_path)
    assert len(first.logL) < len(undisturbed.logL)
    BOX.reset()
    on_the_way = run(algorithm=precise(0.01), refine=refine, checkpoint=tmp_path, callback=at(len(first.level_trace["logL"]) + 1))
    assert on_the_way.status is Status.USER_RULE
    result = run(algorithm=precise(0.01), refine=refine, checkpoint=tmp_path)
    assert_same(result, undisturbed)
    assert result.refined == undisturbed.refined
    assert result.info["settings"] == undisturbed.info["settings"]
    assert BOX.n_calls < undisturbed.n_calls
    with pytest.raises(CheckpointError, match=r"gone on beyond precision = 0\.1\. Expected that of its last session, 0\.01, or less"):
        run(algorithm=precise(0.1), refine=refine, checkpoint=tmp_path)
    assert_same(run(algorithm=precise(0.01), refine=refine, checkpoint=tmp_path), undisturbed)


@pytest.mark.parametrize(("first", "refine"), [(0.1, False), (None, True)])
def test_result_of_an_earlier_precision_is_not_final_for_a_killed_run(first, refine, cheap, tmp_path, monkeypatch):
    """With a refine phase and no precision of its own, an expensive run ends at enough points for that phase."""
    wanted = 0.01 if first else 0.1
    monkeypatch.setattr(schedule, "POINTS_PER_DIM", 10)
    run(algorithm=precise(first), refine=refine, checkpoint=tmp_path)
    monkeypatch.setattr(session.Session, "end", lambda *args: None)
    assert run(algorithm=precise(wanted), refine=refine, checkpoint=tmp_path) is None
    monkeypatch.undo()
    monkeypatch.setattr(refinement, "refine", cheap_refine)
    assert_same(run(algorithm=precise(wanted), refine=refine, checkpoint=tmp_path), run(algorithm=precise(wanted), refine=refine))


def test_stopped_run_may_get_a_larger_precision_that_it_has_not_reached(copy):
    assert_same(run(algorithm=precise(0.3), checkpoint=copy), run(algorithm=precise(0.3)))


def test_ended_run_is_refined_with_other_settings(cheap, tmp_path):
    assert_same(run(refine=True, checkpoint=tmp_path), cheap)
    other = Refine(error=0.5)
    result, undisturbed = run(refine=other, checkpoint=tmp_path), run(refine=other)
    assert_same(result, undisturbed)
    assert result.refined == undisturbed.refined != cheap.refined


# Refusals ---------------------------------------------------------------------------------------------------


OTHER = {
    "key": ({"key": 4}, "key was 3, now is 4"),
    "n_live": ({"algorithm": fusions.nested(n_live=60, kernel=kernels.HitAndRun(), kill=0.2)}, "n_live was 40, now is 60"),
    "kernel": ({"algorithm": fusions.nested(n_live=40, kernel=kernels.RandomWalk(9), kill=0.2)}, "kernel was HitAndRun.*RandomWalk"),
    "order": (
        {"problem": fusions.Problem(fusions.Prior(y=pr.uniform(0, 1), x=pr.uniform(0, 1)), BOX, traceable=False)},
        r"names of the parameters was \['x', 'y'\], now is \['y', 'x'\]",
    ),
    "prior": (
        {"problem": fusions.Problem(fusions.Prior(x=pr.uniform(0, 1), y=pr.uniform(0, 2)), BOX, traceable=False)},
        r"prior was .*, now is .*uniform\(0, 2\)",
    ),
    "path": ({"problem": TRACED}, "path of the likelihood was hosted, now is traced"),
    "likelihood": (
        {"problem": fusions.Problem(SQUARE, lambda p: float(quiet(p)) - 1e-3, traceable=False)},
        r"log-likelihood was .*, now is .* at x=.*Its code or its data have changed",
    ),
}


@pytest.mark.parametrize("name", OTHER)
def test_checkpoint_of_another_run_is_refused(name, copy):
    options, message = OTHER[name]
    before = {path.name: path.read_bytes() for path in copy.iterdir() if path.name != "lock"}
    with pytest.raises(CheckpointError, match=f"is of another run: .*{message}.*Type run\\(..., resume=False\\)"):
        run(checkpoint=copy, **options)
    assert {path.name: path.read_bytes() for path in copy.iterdir() if path.name != "lock"} == before


def test_other_precision_is_refused(copy):
    """What is compiled for it does not serve the runs after it."""
    clear_cache()
    with pytest.raises(CheckpointError, match="precision was float64, now is float32"):
        run(checkpoint=copy, precision="single")
    assert run(checkpoint=copy).status is Status.CONVERGED


def test_other_version_is_refused(copy, monkeypatch):
    monkeypatch.setattr(snapshots, "__version__", "9.9")
    with pytest.raises(CheckpointError, match=r"version of fusions was .*, now is 9\.9"):
        run(checkpoint=copy)


def test_labels_may_change(copy):
    problem = fusions.Problem(SQUARE, BOX, traceable=False, labels={"x": r"\xi"})
    assert run(problem, checkpoint=copy).labels == {"x": r"\xi"}


def test_two_writers_are_refused(copy):
    with Checkpoint(copy), pytest.raises(CheckpointError, match=rf"in use by another run \(process {os.getpid()} on"):
        run(checkpoint=copy)
    assert run(checkpoint=copy).status is Status.CONVERGED


def test_forked_worker_does_not_keep_the_lock(tmp_path):
    with Checkpoint(tmp_path) as folder:
        pid = os.fork()
        if pid == 0:
            os._exit(0 if folder._lock.closed else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_lock_is_free_while_another_descriptor_is_open(tmp_path):
    with Checkpoint(tmp_path) as folder:
        copy = os.dup(folder._lock.fileno())
    try:
        with Checkpoint(tmp_path) as folder:
            assert folder.load() is None
    finally:
        os.close(copy)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"checkpoint": 3}, "Expected checkpoint to be the path of a folder, got 3"),
        ({"resume": "yes"}, "Expected resume to be True or False, got 'yes'"),
        ({"checkpoint_every": -1}, "Expected checkpoint_every >= 0 seconds, got -1"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(OptionError, match=message):
        run(**options)
    assert BOX.n_calls == 0


def test_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="Can't write a checkpoint into .*Give a folder"):
        run(checkpoint=tmp_path / "file" / "a")
    assert BOX.n_calls == 0


# Torn writes ------------------------------------------------------------------------------------------------


def flip(data):
    """Flip a bit in the middle."""
    return data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 16]) + data[len(data) // 2 + 1 :]


DAMAGE = {"cut": lambda data: data[:-1], "halved": lambda data: data[: len(data) // 2], "emptied": lambda data: b"", "flipped": flip}
FILES = ("newest state", "older state", "journal", "result.json", "arrays", "lock")


def find(folder, name):
    known = {"newest state": "state-*[0-9a-f].npz", "older state": "state-*.npz", "journal": "journal.bin", "arrays": "arrays-*.npz"}
    paths = sorted(folder.glob(known.get(name, name)))
    return paths[-1] if name == "newest state" else paths[0]


@pytest.mark.filterwarnings("ignore:A newer state:UserWarning")
@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", FILES)
def test_torn_file_gives_no_wrong_answer(name, damage, copy):
    """Each file in turn: the older state is used, or the run is refused; never another number."""
    path = find(copy, name)
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    if name == "journal" and damage != "cut":  # the older state does not need the journal's last byte
        with pytest.raises(CheckpointError, match=r"No state in .* is whole \(.*journal.bin is truncated or changed"):
            run(checkpoint=copy)
        result = run(checkpoint=copy, resume=False)
    else:
        result = run(checkpoint=copy)
    assert_same(result, whole())
    noted = any("newer state of the checkpoint was damaged" in note for note in result.info["warnings"])
    assert noted is (name == "newest state" or (name, damage) == ("journal", "cut"))
    assert len(checkpoint.states(copy)) == 2


@pytest.mark.parametrize("name", ["result.json", "arrays"])
def test_torn_result_of_an_ended_run_is_made_again(name, tmp_path):
    run(checkpoint=tmp_path)
    path = find(tmp_path, name)
    path.write_bytes(flip(path.read_bytes()))
    with pytest.warns(UserWarning, match="saved result was damaged"):
        assert_same(run(checkpoint=tmp_path), whole())
    assert_same(fusions.Result.load(tmp_path), whole())


def test_flipped_number_in_a_result_is_noticed(tmp_path):
    run(checkpoint=tmp_path)
    path = tmp_path / "result.json"
    path.write_text(path.read_text().replace('"n_calls": ', '"n_calls": 1'))
    with pytest.raises(fusions.FusionsError, match="checksum"):
        fusions.Result.load(tmp_path)


def test_damage_of_both_states_is_refused(copy):
    for path in checkpoint.states(copy):
        path.write_bytes(flip(path.read_bytes()))
    with pytest.raises(CheckpointError, match=r"No state in .* is whole .*resume=False"):
        run(checkpoint=copy)


# What is on disk --------------------------------------------------------------------------------------------


def test_journal_is_appended_and_a_save_costs_the_same_all_along(tmp_path):
    seen = []

    def look(snapshot):
        states = checkpoint.states(tmp_path)
        seen.append(((tmp_path / "journal.bin").read_bytes(), states[0].stat().st_size, len(states)))

    run(checkpoint=tmp_path, callback=look)
    journals, sizes, numbers = zip(*seen, strict=True)
    assert all(new.startswith(old) and len(new) > len(old) for old, new in zip(journals, journals[1:], strict=False))
    steps = np.diff([len(journal) for journal in journals])
    assert steps.max() < 1.1 * steps.min()
    assert max(sizes) < 1.02 * min(sizes)
    assert set(numbers[1:]) == {2}


def test_saved_state_is_arrays_and_json(stopped):
    for path in checkpoint.states(stopped):
        with np.load(path, allow_pickle=False) as file:
            meta = json.loads(file["meta"].tobytes())
            assert file["live/x"].shape == (40, 2)
    assert {"identity", "iteration", "n_calls", "journal"} <= set(meta)


def test_records_come_back_as_they_were_saved(tmp_path):
    rng = np.random.default_rng(0)
    records = [{"a": rng.normal(size=(3, 2)), "b": np.arange(i)} for i in range(4)]
    with Checkpoint(tmp_path) as folder:
        assert folder.load() is None
        for i, record in enumerate(records):
            folder.save({"i": i}, {"x": np.full(2, i)}, [record])
        folder.save({"i": 4}, {"x": np.full(2, 4.0)}, [])
    saved = checkpoint.read(tmp_path)
    assert (saved.number, saved.meta["i"]) == (5, 4)
    np.testing.assert_array_equal(saved.arrays["x"], np.full(2, 4.0))
    for found, record in zip(saved.records, records, strict=True):
        for name in record:
            np.testing.assert_array_equal(found[name], record[name])


@pytest.mark.parametrize("step", ["write_atomically", "_append"])
def test_failed_save_is_made_good_by_the_next(step, tmp_path, monkeypatch):
    with Checkpoint(tmp_path) as folder:
        folder.save({}, {}, [{"a": np.arange(3)}])
        whole_function = getattr(checkpoint, step)

        def fail(path, *args):
            if step == "_append":
                offset, records, digest = args
                whole_function(path, offset, (record[: len(record) // 2] for record in records), digest)
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(checkpoint, step, fail)
        with pytest.raises(OSError, match="No space"):
            folder.save({}, {}, [{"a": np.arange(5)}])
        assert len(checkpoint.read(tmp_path).records) == 1
        monkeypatch.undo()
        folder.save({}, {}, [{"a": np.arange(7)}])
    assert [len(record["a"]) for record in checkpoint.read(tmp_path).records] == [3, 7]


# A full disk ------------------------------------------------------------------------------------------------


def test_full_disk_does_not_end_a_run(tmp_path, recwarn):
    """A limit on the size of files stops the journal half-way; the run ends right, the last good state stays."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, hard))
        result = run(checkpoint=tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert_same(result, whole())
    told = [str(w.message) for w in recwarn if "could not be written" in str(w.message)]
    assert len(told) == 1
    assert "File too large" in told[0]
    assert any("could not be written" in note for note in result.info["warnings"])
    assert 0 < checkpoint.read(tmp_path).meta["iteration"] < len(whole().level_trace["logL"])
    BOX.reset()
    again = run(checkpoint=tmp_path)
    assert_same(again, whole())
    assert not any("could not be written" in note for note in again.info["warnings"])
    assert N_PROBES < BOX.n_calls < whole().n_calls


def test_disk_that_is_full_for_a_while(tmp_path, monkeypatch):
    """Saves fail and succeed again: nothing is missing in the end."""
    whole_function, n = checkpoint.write_atomically, []

    def sometimes(path, data):
        n.append(path)
        if len(n) % 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        whole_function(path, data)

    monkeypatch.setattr(checkpoint, "write_atomically", sometimes)
    with pytest.warns(UserWarning, match="No space left on device"):
        run(checkpoint=tmp_path, callback=at(12))
    monkeypatch.undo()
    assert_same(run(checkpoint=tmp_path), whole())


# SIGKILL ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_kill_loop():
    """The short version of ``python tests/kill_loop.py 200``; the pooled case first runs without its pool, as a black box."""
    command = [sys.executable, Path(__file__).parents[1] / "kill_loop.py", "6", "--cases", "traced", "pooled"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "| traced |" in done.stdout
