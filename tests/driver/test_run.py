"""run(): seeds, evidences, ends of a run, bad likelihoods, counts, traces, exports.

Problems and settings are shared, since an engine is compiled once per pair of them. One black box, `BOX`, stands for many
likelihoods: what is compiled around it does not depend on what it computes.
"""

import dataclasses
import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from precision import enable_x64

import fusions
from fusions import kernels
from fusions import priors as pr
from fusions.driver import session
from fusions.driver.compiled import clear_cache, make_engine
from fusions.errors import LikelihoodError, OptionError, ProblemError, Status
from fusions.flows.cnf import CNF
from fusions.flows.matching import Training
from fusions.numerics import precision_of

SMALL_FLOW = kernels.FlowKernel(n_moves=1, flow=CNF(width=8, depth=1, ode_steps=1))
CYCLE = fusions.nested(n_live=60, kernel=kernels.Cycle((SMALL_FLOW, kernels.HitAndRun())), kill=0.5, cost="cheap", precision=1e-2)
SLICE = fusions.nested(n_live=40, kernel=kernels.HitAndRun(), kill=0.5, precision=0.01, cost="cheap")
SQUARE = fusions.Prior(x=pr.uniform(0, 1), y=pr.uniform(0, 1))
X64 = functools.partial(enable_x64, True)  # noqa: FBT003
LINE = fusions.Prior(x=pr.uniform(0, 1))
SIGMA, KAPPA = 0.1, 2.0
pytestmark = pytest.mark.filterwarnings("ignore:.*plateau:UserWarning", "ignore:log L is as low:UserWarning")


def run(problem, algorithm=SLICE, **options):
    return fusions.run(problem, algorithm, **{"key": 0, "progress": False, "refine": False, **options})


def assert_right(result, exact, errors=5):
    assert result.status.complete
    assert result.logZ == pytest.approx(exact, abs=errors * result.logZ_err)


class Counted:
    """A function that counts its calls."""

    def __init__(self, function):
        self.function, self.n_calls = function, 0

    def __call__(self, p):
        self.n_calls += 1
        return self.function(p)


def quiet(p):
    return -0.5 * ((p["x"] - 0.5) / 0.2) ** 2 - 0.5 * ((p["y"] - 0.5) / 0.2) ** 2


COUNTER = Counted(quiet)
BOX = fusions.Problem(SQUARE, COUNTER, traceable=False)


@pytest.fixture
def box():
    """Return a function that runs BOX with another likelihood; the count starts at zero."""

    def run_box(function, **options):
        COUNTER.function, COUNTER.n_calls = function, 0
        return run(BOX, **options)

    yield run_box
    COUNTER.function = quiet


def after(n, then):
    """Make a likelihood that behaves for n calls, then does something else."""
    seen = Counted(quiet)

    def loglikelihood(p):
        return seen(p) if seen.n_calls < n else then(p)

    return loglikelihood


def at_level(n, action):
    """Make a callback that acts at the n-th level."""
    return lambda snapshot: action() if snapshot.iteration == n else None


def interrupt():
    raise KeyboardInterrupt


# One traced and one black-box problem ---------------------------------------------------------------------


def wrapped(p):
    """Return log L of a Gaussian in x times a von Mises distribution in an angle, and a blob."""
    logL = -0.5 * (p["x"] / SIGMA) ** 2 + KAPPA * (jnp.cos(p["phase"]) - 1)
    return logL, [p["x"] ** 2]


def wrapped_on_host(p):
    logL = -0.5 * (p["x"] / SIGMA) ** 2 + KAPPA * (math.cos(p["phase"]) - 1)
    return logL, [p["x"] ** 2]


class Runs(NamedTuple):
    """Seed 0, then other seeds, and what was traced after the first and after all of them."""

    first: fusions.Result
    again: fusions.Result
    other: fusions.Result
    traces_first: dict
    traces: dict
    n_counted: int


def make_runs(loglikelihood, *, traceable):
    prior = fusions.Prior(x=pr.uniform(-2, 2), phase=pr.uniform(-math.pi, math.pi, periodic=True))
    problem = fusions.Problem(prior, loglikelihood, blobs=["square"], traceable=traceable)
    loglikelihood.n_calls = 0
    clear_cache()
    first = run(problem, CYCLE)
    with precision_of("double"):
        n_counted, traces = loglikelihood.n_calls, make_engine(problem, CYCLE).traces
    traces_first = dict(traces())
    return Runs(first, run(problem, CYCLE), run(problem, CYCLE, key=1), traces_first, dict(traces()), n_counted)


@pytest.fixture(scope="module")
def traced():
    return make_runs(Counted(wrapped), traceable=True)


@pytest.fixture(scope="module")
def hosted():
    return make_runs(Counted(wrapped_on_host), traceable=False)


@pytest.fixture(params=["traced", "hosted"])
def runs(request):
    return request.getfixturevalue(request.param)


def test_path_is_reported(traced, hosted):
    assert (traced.first.info["path"], hosted.first.info["path"]) == ("traced", "hosted")


def test_same_seed_gives_the_same_ledger_bit_for_bit(runs):
    for name in ("theta", "logL", "logL_birth", "insertion_uniforms"):
        np.testing.assert_array_equal(getattr(runs.first, name), getattr(runs.again, name))
    for name in runs.first.level_trace:
        np.testing.assert_array_equal(runs.first.level_trace[name], runs.again.level_trace[name])
    assert runs.first.n_calls == runs.again.n_calls
    assert runs.first.logZ == runs.again.logZ


def test_other_seed_gives_another_ledger(runs):
    assert not np.array_equal(runs.first.logL[:20], runs.other.logL[:20])


def test_evidence_with_an_angle(runs):
    exact = math.log(SIGMA * math.sqrt(2 * math.pi) / 4) + math.log(np.i0(KAPPA)) - KAPPA
    for result in (runs.first, runs.other):
        assert_right(result, exact)
        assert result.status is Status.CONVERGED


def test_one_trace_per_run_retraining_included(runs):
    assert 2 * len(runs.first.level_trace["logL"]) > 20  # trainings: one per half and level
    assert set(runs.traces_first.values()) == {1}
    assert {"tune", "walk"} <= set(runs.traces_first)
    assert runs.traces == runs.traces_first
    assert runs.first.n_compilations == len(runs.traces)
    assert runs.again.n_compilations == runs.other.n_compilations == 0


def test_insertion_uniforms(runs):
    u = runs.first.insertion_uniforms
    assert len(u) == len(runs.first.logL) - CYCLE.n_live
    assert u.min() >= 0
    assert u.max() < 1
    assert runs.first.insertion_pvalue > 1e-4


def test_replacements_are_born_strictly_below_their_likelihood(runs):
    births, logL = runs.first.logL_birth, runs.first.logL
    replaced = ~np.isnan(births)
    assert replaced.sum() == len(logL) - CYCLE.n_live
    assert (births[replaced] < logL[replaced]).all()


def test_periodic_parameter_comes_back_in_range(runs):
    phase = runs.first.theta[:, 1]
    assert phase.min() >= -math.pi - 1e-6
    assert phase.max() <= math.pi + 1e-6
    assert np.ptp(phase[: CYCLE.n_live]) > 4  # the prior draws fill the circle


def test_blobs_belong_to_their_points(runs):
    assert runs.first.names == ("x", "phase", "square")
    np.testing.assert_allclose(runs.first.theta[:, 2], runs.first.theta[:, 0] ** 2, rtol=1e-4, atol=1e-7)


def test_log_likelihood_belongs_to_its_point(runs):
    theta = runs.first.theta
    expected = -0.5 * (theta[:, 0] / SIGMA) ** 2 + KAPPA * (np.cos(theta[:, 1]) - 1)
    np.testing.assert_allclose(runs.first.logL, expected, rtol=1e-4, atol=1e-4)


def test_anesthetic_reads_the_same_evidence(runs):
    result = runs.first
    samples = result.samples()
    assert samples.logZ() == pytest.approx(result.logZ, abs=2 * result.D_KL / result.n_live + 0.05)
    assert list(samples.columns.get_level_values(0)[:3]) == ["x", "phase", "square"]


def test_every_likelihood_call_is_counted(hosted):
    assert hosted.first.n_calls == hosted.n_counted


def test_traced_and_hosted_agree(traced, hosted):
    """Same numbers up to rounding: the first live points are the same, and so are the calls but for the repeats."""
    np.testing.assert_allclose(traced.first.theta[:10, 0], hosted.first.theta[:10, 0], rtol=1e-4)
    assert traced.first.logZ == pytest.approx(hosted.first.logZ, abs=5 * traced.first.logZ_err)


def test_trace_has_one_entry_per_level(runs):
    lengths = {name: len(values) for name, values in runs.first.level_trace.items()}
    assert len(set(lengths.values())) == 1, lengths
    assert np.all(np.diff(runs.first.level_trace["n_calls"]) > 0)
    assert runs.first.level_trace["n_calls"][-1] == runs.first.n_calls


# Likelihoods that must work -----------------------------------------------------------------------------------


def gaussian_1d(p):
    return -0.5 * ((p["x"] - 0.5) / 0.01) ** 2


def test_one_dimensional_gaussian():
    assert_right(run(fusions.Problem(LINE, gaussian_1d)), math.log(0.01 * math.sqrt(2 * math.pi)))


@pytest.mark.parametrize("x64", [False, True])
def test_constant_likelihood(x64):
    before = jax.config.jax_enable_x64
    with enable_x64(x64):
        result = run(fusions.Problem(LINE, lambda p: 0.0 * p["x"]))
        assert jax.config.jax_enable_x64 is x64
    assert jax.config.jax_enable_x64 is before
    assert result.status is Status.PLATEAU
    assert abs(result.logZ) <= 1e-12


@pytest.mark.parametrize("x64", [False, True])
def test_constant_likelihood_of_a_black_box(x64, box):
    with enable_x64(x64):
        result = box(lambda p: 0.0)
    assert result.status is Status.PLATEAU
    assert abs(result.logZ) <= 1e-12


def test_double_precision():
    """All kernels run under x64, the user's flag stays, and log L has more digits than float32."""
    before = jax.config.jax_enable_x64
    algorithm = fusions.nested(n_live=40, kernel=kernels.Cycle((SMALL_FLOW, kernels.HitAndRun(), kernels.RandomWalk(5))), kill=0.5)
    with X64():
        result = run(fusions.Problem(LINE, gaussian_1d), algorithm, max_calls=4000)
        assert jax.config.jax_enable_x64
    assert jax.config.jax_enable_x64 is before
    assert (result.logL != result.logL.astype(np.float32)).any()
    assert result.n_compilations == 3
    np.testing.assert_allclose(result.logL, gaussian_1d({"x": result.theta[:, 0]}), rtol=1e-12, atol=1e-12)


def test_one_problem_in_both_precisions():
    """Engines are not shared between precisions."""
    problem = fusions.Problem(LINE, gaussian_1d)
    clear_cache()
    assert run(problem, max_calls=60).n_compilations == 3
    assert run(problem, max_calls=60, precision="single").n_compilations == 3


def test_top_hat(box):
    result = box(lambda p: float(p["x"] < 0.5))
    assert result.status is Status.PLATEAU
    assert_right(result, math.log(0.5 + 0.5 * math.e))


def test_top_plateau_that_holds_nearly_all_of_the_prior(box):
    """The few points below the highest plateau are fewer than the deaths of a level."""
    result = box(lambda p: float(p["x"] < 0.9))
    assert result.status is Status.PLATEAU
    assert_right(result, math.log(0.1 + 0.9 * math.e))


def test_wedding_cake():
    prior = fusions.Prior(x=pr.uniform(0, 1))
    problem = fusions.Problem(prior, lambda p: jnp.minimum(jnp.floor(-jnp.log2(p["x"])), 6.0))
    tiers = np.arange(7)
    mass = np.append(0.5 ** (tiers[:-1] + 1), 0.5**6)
    result = run(problem)
    assert result.status in (Status.PLATEAU, Status.CONVERGED)
    assert_right(result, math.log(mass @ np.exp(tiers)))


def test_half_of_the_prior_has_zero_likelihood(box):
    sigma = 0.05
    result = box(lambda p: -math.inf if p["x"] < 0.5 else -0.5 * (((p["x"] - 0.75) / sigma) ** 2 + ((p["y"] - 0.5) / sigma) ** 2))
    assert_right(result, math.log(2 * math.pi * sigma**2))
    zero = result.logL == -math.inf
    assert zero.any()
    assert np.isnan(result.logL_birth[zero]).all()
    assert result.n_calls == COUNTER.n_calls


def test_rank_deficient_live_points(box):
    """Two parameters that the likelihood correlates all but perfectly."""
    sigma = 1e-4
    result = box(lambda p: -0.5 * ((p["x"] - p["y"]) / sigma) ** 2)
    assert_right(result, math.log(sigma * math.sqrt(2 * math.pi)))
    assert np.corrcoef(result.theta[-result.n_live :, :2].T)[0, 1] > 1 - 1e-6


def test_noise_is_accepted_on_purpose():
    rng = np.random.default_rng(0)
    problem = fusions.Problem(SQUARE, lambda p: quiet(p) + 0.01 * rng.normal(), traceable=False, noisy=True)
    assert run(problem, max_calls=60).status is Status.MAX_CALLS


# Ends of a run --------------------------------------------------------------------------------------------------


def test_max_calls(box):
    result = box(quiet, max_calls=100)
    assert result.status is Status.MAX_CALLS
    assert not result.status.complete
    assert result.n_calls == COUNTER.n_calls >= 100


def test_max_time(box):
    assert box(quiet, max_time=1e-9).status is Status.MAX_TIME


def test_callback_ends_the_run(box):
    seen = []
    result = box(quiet, callback=lambda snapshot: seen.append(snapshot) or snapshot.iteration == 2)
    assert result.status is Status.USER_RULE
    assert [s.iteration for s in seen] == [1, 2]
    assert seen[-1].n_calls == result.n_calls
    assert np.isfinite([value for s in seen for value in s]).all()


def test_interrupted_run_returns_what_there_is(box):
    result = box(quiet, callback=at_level(2, interrupt))
    assert result.status is Status.INTERRUPTED
    assert len(result.level_trace["logL"]) == 2
    assert np.isfinite(result.logZ)
    assert "Ctrl-C" in str(result)


def test_interrupted_likelihood_returns_what_there_is(box):
    result = box(after(150, lambda p: interrupt()))
    assert result.status is Status.INTERRUPTED
    assert result.n_live == SLICE.n_live


def test_progress_goes_to_stderr(box, capsys):
    box(quiet, max_calls=60, progress=True)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "hosted likelihood, n_live = 40" in captured.err
    assert "ln Z" in captured.err


def test_quiet_run_writes_nothing(box, capfd):
    box(quiet, max_calls=60)
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


# Likelihoods that fail --------------------------------------------------------------------------------------------


def fail(p):
    raise RuntimeError("no convergence")


BAD = {
    "nan": (lambda p: math.nan, "is nan at x=.*, y="),
    "inf": (lambda p: math.inf, "is inf at x=.*, y="),
    "exception": (fail, "raised RuntimeError: no convergence at x=.*, y="),
    "shape": (lambda p: np.zeros(3), "at x=.*, y=.*expected log L to have shape"),
    "complex": (lambda p: 1j, "at x=.*, y=.*to be real"),
    "none": (lambda p: None, "at x=.*, y=.*returned None"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_likelihood_at_the_start(name, box):
    function, message = BAD[name]
    with pytest.raises(LikelihoodError, match=message) as caught:
        box(function)
    assert caught.value.result is None


@pytest.mark.parametrize("name", BAD)
def test_bad_likelihood_later_loses_nothing(name, box):
    function, message = BAD[name]
    with pytest.raises(LikelihoodError, match=message) as caught:
        box(after(400, function))
    result = caught.value.result
    assert isinstance(result, fusions.Result)
    assert result.status is Status.FAILED
    assert len(result.logL) > SLICE.n_live
    assert np.isfinite(result.logZ)


@pytest.mark.parametrize("name", ["nan", "exception"])
def test_calls_of_the_failed_level_are_counted(name, box):
    with pytest.raises(LikelihoodError) as caught:
        box(after(400, BAD[name][0]))
    batch = 30  # an exception ends a batch early; the batch that was asked for counts whole
    assert COUNTER.n_calls <= caught.value.result.n_calls <= COUNTER.n_calls + batch


@pytest.mark.parametrize("value", [jnp.nan, jnp.inf])
def test_bad_traced_likelihood_at_the_start(value):
    problem = fusions.Problem(SQUARE, lambda p: value * (1 + p["x"]))
    with pytest.raises(LikelihoodError, match=rf"is {value} at x=.*, y="):
        run(problem)


def test_bad_traced_likelihood_later_loses_nothing():
    problem = fusions.Problem(LINE, lambda p: jnp.where(abs(p["x"] - 0.5) < 2e-4, jnp.nan, gaussian_1d(p)))
    with pytest.raises(LikelihoodError, match="is nan at x=0.5|is nan at x=0.49") as caught:
        run(problem)
    assert caught.value.result.status is Status.FAILED
    assert np.isfinite(caught.value.result.logZ)


def test_non_deterministic_likelihood(box):
    rng = np.random.default_rng(0)
    with pytest.raises(LikelihoodError, match=r"not deterministic.* at x=.*noisy=True"):
        box(lambda p: rng.normal())


def test_no_finite_likelihood_in_the_prior(box):
    with pytest.raises(LikelihoodError, match=r"No finite log-likelihood in 800 draws from the prior.*Likely causes"):
        box(lambda p: -math.inf)
    assert COUNTER.n_calls == 800


# Bad options --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"nlive": 100}, "Did you mean n_live?"),
        ({"kil": 0.1}, "Did you mean kill?"),
        ({"zzz": 1}, "Options: n_live, kernel, kill, precision"),
        ({"n_live": 19}, "n_live to be an integer >= 20, got 19"),
        ({"n_live": 50.5}, "n_live to be an integer"),
        ({"n_live": True}, "n_live to be an integer"),
        ({"kill": 0}, "Expected 0 < kill <= 0.5"),
        ({"kill": "a"}, "Expected 0 < kill <= 0.5"),
        ({"precision": 2}, "Expected 0 < precision < 1"),
        ({"cost": "free"}, 'Expected cost to be "cheap", "expensive", "auto" or None'),
        ({"kernel": "flow"}, "Expected kernel settings"),
        ({"kernel": kernels.FlowKernel}, "Expected kernel settings"),
    ],
)
def test_bad_settings(options, message):
    with pytest.raises(OptionError, match=message.replace("?", r"\?")):
        fusions.nested(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"algorithm": 500}, "Expected fusions.nested"),
        ({"key": -1}, "non-negative integer seed"),
        ({"key": 0.5}, "non-negative integer seed"),
        ({"key": jax.random.key(0)}, "non-negative integer seed"),
        ({"max_calls": 0}, "Expected max_calls > 0"),
        ({"max_calls": "100"}, "Expected max_calls > 0"),
        ({"max_time": -1}, "Expected max_time > 0"),
        ({"callback": 3}, "Expected callback to be a function"),
    ],
)
def test_bad_arguments(options, message, box):
    with pytest.raises(OptionError, match=message):
        box(quiet, **options)
    assert COUNTER.n_calls == 0


def test_numpy_integers_are_integers(box):
    assert fusions.nested(n_live=np.int64(100)).n_live == 100
    assert box(quiet, key=np.int64(3), max_calls=1).info["seed"] == 3


def test_a_list_of_kernels_is_as_good_as_a_tuple(box):
    algorithm = fusions.nested(n_live=40, kernel=kernels.Cycle([kernels.HitAndRun()]))
    assert box(quiet, algorithm=algorithm, max_calls=1).status is Status.MAX_CALLS


def test_wrong_problem():
    with pytest.raises(ProblemError, match=r"Expected a fusions.Problem, got Prior"):
        run(SQUARE)


def test_too_few_live_points_for_the_dimension():
    prior = fusions.Prior(**{f"a{i}": pr.normal(0, 1) for i in range(11)})
    counted = Counted(lambda p: 0.0)
    with pytest.raises(OptionError, match="n_live = 20 is too few for 11 dimensions: expected at least 22"):
        run(fusions.Problem(prior, counted, traceable=False), fusions.nested(n_live=20))
    assert counted.n_calls == 0


def test_untrained_flow_is_noticed_and_walks_are_lengthened():
    """With a flow that learns nothing walks are longer, the summary says so, and ln Z stays right."""
    problem, logZ = fusions.Problem(SQUARE, quiet), math.log(2 * math.pi * 0.04 * math.erf(0.5 / 0.2 / math.sqrt(2)) ** 2)
    flow = CNF(width=16, depth=2, ode_steps=2)
    dead = dataclasses.replace(flow, training=Training(rounds=0))
    results = [
        run(problem, fusions.nested(n_live=100, kernel=kernels.Cycle((kernels.FlowKernel(flow=f), kernels.HitAndRun())), cost="cheap"))
        for f in (dead, flow)
    ]
    for result, noted in zip(results, (True, False), strict=True):
        assert_right(result, logZ)
        assert any("learned nothing" in note for note in result.info["warnings"]) is noted
        assert ("learned nothing" in str(result)) is noted
    assert results[0].level_trace["walk_scale"][-1] > 1.5 * results[1].level_trace["walk_scale"][-1]


@pytest.mark.parametrize(("seconds", "expected"), [(0.0, "cheap"), (1.0, "expensive")])
def test_cost_is_chosen_by_timing(monkeypatch, seconds, expected):
    """cost="auto" compares a training with the time of likelihood calls, says what it found and keeps its choice."""
    begin = session.begin

    def timed(*args):
        state, _, notes = begin(*args)
        return state, seconds, notes

    monkeypatch.setattr(session, "begin", timed)
    result = run(BOX, fusions.nested(n_live=40, kernel=SLICE.kernel, kill=0.5, cost="auto"), max_calls=60)
    assert any(f'chose "{expected}"' in note for note in result.info["warnings"])
    assert f"cost='{expected}'" in result.info["settings"]
