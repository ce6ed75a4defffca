"""The bilby plugin: what bilby asks of a sampler, its conventions, signals."""

import json
import math
import multiprocessing
import os
import signal
import warnings

import adapter_problems as ap
import numpy as np
import pytest

from fusions.errors import OptionError

bilby = pytest.importorskip("bilby", reason="bilby is not installed")
from bilby.core.prior import ConditionalPriorDict, ConditionalUniform, Constraint, DeltaFunction, PriorDict, Uniform  # noqa: E402
from bilby.core.sampler import get_sampler_class  # noqa: E402

SETTINGS = ap.settings(60) | {"cost": "expensive"}  # short walks: evidences are tested in test_adapters.py
X = np.linspace(0, 1, 11)
SIGMA = 0.1
PARENT = os.getpid()


def line(x, m, c):
    return m * x + c


def data():
    return line(X, 0.5, 0.2) + SIGMA * np.random.default_rng(42).standard_normal(len(X))


class Line(bilby.core.likelihood.GaussianLikelihood):
    """A straight line that interrupts the sampler at a call, once."""

    def __init__(self, stop_at=None):
        super().__init__(X, data(), line, SIGMA)
        self.n_calls, self.stop_at = 0, stop_at

    def log_likelihood(self, parameters):
        self.n_calls += 1
        if self.n_calls == self.stop_at:
            os.kill(PARENT, signal.SIGINT)
        return super().log_likelihood(parameters)


def line_priors():
    """Periodic and reflective priors and a fixed parameter, as in bilby's own tests of samplers."""
    return PriorDict({"m": Uniform(0, 5, boundary="periodic"), "c": Uniform(-2, 2, boundary="reflective")})


def run(folder, likelihood=None, priors=None, **options):
    return bilby.run_sampler(
        likelihood or Line(),
        priors or line_priors(),
        sampler="fusions",
        outdir=str(folder),
        label="line",
        use_ratio=False,
        **SETTINGS | options,
    )


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Run with bilby's json file, one process and a conversion function."""
    folder = tmp_path_factory.mktemp("one")
    return run(folder, conversion_function=lambda p, *_, **__: p.assign(derived=p.m * p.c)), folder


def test_result_has_what_bilby_shows(undisturbed):
    result, folder = undisturbed
    assert {"m", "c", "derived", "log_likelihood", "log_prior"} <= set(result.posterior)
    again = [Line().log_likelihood({"m": m, "c": c}) for m, c in zip(result.posterior.m[:20], result.posterior.c[:20], strict=True)]
    assert np.asarray(result.posterior.log_likelihood[:20]) == pytest.approx(again, abs=1e-9)
    nested = result.nested_samples
    assert nested.weights.sum() == pytest.approx(1)
    assert (nested.weights * nested.m).sum() == pytest.approx(
        result.posterior.m.mean(), abs=5 * result.posterior.m.std() / len(nested) ** 0.5
    )
    assert result.information_gain > 0
    assert result.sampling_time < 3600
    assert result.meta_data["run_statistics"]["nlikelihood"] == result.num_likelihood_evaluations
    saved = json.loads((folder / "line_result.json").read_text())
    assert saved["log_evidence"] == result.log_evidence
    assert "renormalised" in saved["meta_data"]["fusions"]["constraint_convention"]


def test_outputs_are_those_announced_to_bilby_pipe(undisturbed):
    files, (directory,) = get_sampler_class("fusions").get_expected_outputs(outdir=str(undisturbed[1]), label="line")
    assert files == []
    assert {"result.json", "journal.bin"} <= set(os.listdir(directory))


@pytest.fixture(autouse=True)
def handlers():
    """Put signal handlers back, which bilby leaves behind when a sampler exits or raises."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@pytest.mark.parametrize("npool", [1, 2])
def test_interrupt_saves_exits_and_resumes(undisturbed, npool, tmp_path):
    """SIGINT out of the likelihood, then the same call again: the numbers of an undisturbed run with one process."""
    if npool > 1 and multiprocessing.get_start_method() != "fork":
        pytest.skip("bilby's pool is tested where processes are forked")
    with pytest.raises(SystemExit) as stop:
        run(tmp_path, Line(stop_at=600), npool=npool, exit_code=5, checkpoint_every=0)
    assert stop.value.code == 5
    assert not (tmp_path / "line_result.json").exists()
    result = run(tmp_path, npool=npool)
    assert result.log_evidence == undisturbed[0].log_evidence
    assert result.num_likelihood_evaluations == undisturbed[0].num_likelihood_evaluations
    assert np.array_equal(result.samples, undisturbed[0].samples)


class Flat(bilby.Likelihood):
    def log_likelihood(self, parameters):
        assert parameters["fixed"] == 3.0
        return 0.0


def test_constraint_priors_are_renormalised(tmp_path):
    """L = 1: ln Z is 0 with the prior renormalised; the allowed fraction, one half, is in the meta data; fixed parameters are passed on."""
    priors = PriorDict(
        {"a": Uniform(0, 1), "b": Uniform(0, 1), "fixed": DeltaFunction(3.0), "sum": Constraint(0, 1)},
        conversion_function=lambda p: {**p, "sum": p["a"] + p["b"]},
    )
    result = run(tmp_path, Flat(), priors)
    facts = result.meta_data["fusions"]
    assert result.log_evidence == pytest.approx(0, abs=1e-9)
    assert facts["ln_constraint_fraction"] == pytest.approx(-math.log(2), abs=4 * facts["ln_constraint_fraction_err"])
    assert np.all(result.samples.sum(axis=1) <= 1)


def sampler(folder, likelihood=None, priors=None, **options):
    return get_sampler_class("fusions")(
        likelihood or Line(), priors or line_priors(), outdir=str(folder), label="line", soft_init=True, **options
    )


def dependent(reference_params, m):
    return {"minimum": 0, "maximum": m}


def test_dependent_priors_go_through_bilby(tmp_path):
    priors = ConditionalPriorDict({"m": Uniform(0, 5), "c": ConditionalUniform(dependent, minimum=0, maximum=1)})
    x = np.random.default_rng(0).standard_normal((50, 2))
    m, c = sampler(tmp_path, priors=priors)._problem().prior.theta_rows(x).T
    assert np.all((c >= 0) & (c <= m))
    assert np.ptp(c / m) > 0.5


def test_options_of_other_samplers_are_translated(tmp_path):
    made = sampler(tmp_path, nlive=77, random_seed=5, check_point_delta_t=7, queue_size=3)
    assert (made.kwargs["n_live"], made.kwargs["seed"], made.kwargs["checkpoint_every"], made.npool) == (77, 5, 7, 3)


@pytest.mark.parametrize(
    ("options", "text"),
    [({"n_live": 3}, "n_live to be an integer >= 20"), ({"kernel": "Slices"}, "Unknown kernel 'Slices'.*HitAndRun")],
)
def test_bad_input_says_what_to_type(tmp_path, options, text):
    with pytest.raises(OptionError, match=text):
        run(tmp_path, **options)


def test_unknown_version_of_bilby_is_warned_of(tmp_path, monkeypatch):
    monkeypatch.setattr(bilby, "__version__", "3.0.1")
    with pytest.warns(UserWarning, match="bilby 3.0.1 is not known.*bilby<3"):
        sampler(tmp_path)


def test_test_mode_stops_early(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = sampler(tmp_path, **SETTINGS)._run_test()
    assert result.num_likelihood_evaluations < 3000
