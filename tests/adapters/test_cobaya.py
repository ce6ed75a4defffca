"""The cobaya sampler: files, derived parameters, the unphysical part of the prior, options, refusals."""

import itertools
import math
import os
import signal

import adapter_problems as ap
import numpy as np
import pytest

pytest.importorskip("cobaya", reason="cobaya is not installed")
from cobaya.log import LoggedError  # noqa: E402
from cobaya.model import get_model  # noqa: E402
from cobaya.run import run  # noqa: E402
from cobaya.yaml import yaml_load_file  # noqa: E402

import fusions  # noqa: E402
from fusions.adapters import cobaya as adapter  # noqa: E402

SAMPLER = "fusions.adapters.cobaya.Fusions"


def half(x, y):
    """Gaussian at the edge of the half plane x < 0, where it is zero."""
    return -math.inf if x < 0 else ap.log_normal(x, 0.0, 0.5) + ap.log_normal(y, 1.0, 0.5)


def tilt(y):
    """Prior of cobaya's `prior` block, here not normalised."""
    return -0.5 * y


INFO = {
    "params": {
        "x": {"prior": {"min": -4, "max": 4}, "latex": r"\xi"},
        "y": {"prior": {"dist": "norm", "loc": 0, "scale": 1}},
        "radius": {"derived": lambda x, y: math.hypot(x, y), "latex": "r"},
    },
    "likelihood": {"half": half},
    "prior": {"tilt": tilt},
}
# ln 1/8 x 1/2 for x; for y the product of exp(-y/2), N(y; 1, 1/2) and N(y; 0, 1): the normal density of 1 - 0.8 shifts by the tilt
EXACT = math.log(0.5 / 8) + ap.log_normal(1.0, 0.0, math.hypot(1, 0.5)) - 0.5 * 0.8 + 0.5 * 0.5**2 * 0.2


def sampler(**options):
    return {SAMPLER: ap.settings(60) | {"seed": 1} | options}


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """Run with two processes and output; return the products and the root of the files."""
    root = str(tmp_path_factory.mktemp("cobaya") / "chain")
    return run({**INFO, "sampler": sampler(processes=2), "output": root})[1].products(), root


def test_unphysical_part_of_the_prior_counts_as_zero(chain):
    """Half of the prior has L = 0, so that ln Z is lower by ln 2 than over the physical half."""
    products, _ = chain
    assert products["logZ"] == pytest.approx(EXACT, abs=3 * products["logZstd"])


def test_processes_do_not_change_the_numbers(chain):
    alone = run({**INFO, "sampler": sampler()})[1].products()
    assert (alone["logZ"], alone["result"].n_calls) == (chain[0]["logZ"], chain[0]["result"].n_calls)
    assert alone["sample"].data.equals(chain[0]["sample"].data)


def test_collection_is_the_posterior(chain):
    products, root = chain
    sample, result = products["sample"], products["result"]
    assert sample.sample_type == "nested"
    mean, *_ = result.moments()
    assert sample.mean() == pytest.approx(mean[:2], abs=1e-10)
    data = sample.data
    assert data["radius"].to_numpy(float) == pytest.approx(np.hypot(data["x"], data["y"]).to_numpy(float))
    total = data["minuslogprior"] + 0.5 * data["chi2"]
    assert data["minuslogpost"].to_numpy(float) == pytest.approx(total.to_numpy(float))
    assert len(np.loadtxt(f"{root}.1.txt")) == len(sample)


def test_files_beside_the_chain_keep_births(chain):
    """anesthetic reads a nested run of the same ln Z and the derived parameter; cobaya's evidence file and the saved Result agree."""
    from anesthetic import read_chains

    products, root = chain
    samples = read_chains(f"{root}_fusions", logzero=-np.inf)
    assert samples.logZ() == pytest.approx(products["result"].samples().logZ(), abs=1e-12)
    assert samples.get_label("x") == r"$\xi$"
    assert np.any(samples.logL_birth > samples.logL.min())
    assert {"radius", "logprior__tilt", "loglike__half"} <= set(samples.columns.get_level_values(0))
    assert yaml_load_file(f"{root}.logZ") == {"logZ": products["logZ"], "logZstd": products["logZstd"]}
    assert fusions.Result.load(f"{root}_fusions").logZ == products["logZ"]


def test_existing_output_is_refused_resumed_or_replaced(chain):
    products, root = chain
    info = {**INFO, "sampler": sampler(processes=2), "output": root}
    with pytest.raises(LoggedError, match="Delete the previous output"):
        run(info)
    again = run(info, resume=True)[1].products()
    assert again["logZ"] == products["logZ"]


def test_getdist_samples(chain):
    info = {**INFO, "sampler": sampler(), "output": chain[1]}
    sampled = run({**info, "sampler": sampler(processes=2)}, resume=True)[1]
    getdist = sampled.products(to_getdist=True)["sample"]
    assert getdist.mean("x") == pytest.approx(sampled.samples().mean()[0])


def test_quantiles_come_from_the_nearer_tail():
    """Eight standard deviations out a prior without closed form still tells neighbours apart, and a circle keeps its range."""
    params = {"a": {"prior": {"dist": "gamma", "a": 2}}, "phi": {"prior": {"min": 0, "max": ap.TURN}, "periodic": True}}
    model = get_model({"params": params, "likelihood": {"flat": lambda a, phi: 0.0}})
    problem = adapter.make_problem(model)
    assert problem.prior.periodic == (False, True)
    a, phi = problem.prior.theta_rows(np.array([[8.0, 3.0], [8.1, 9.0], [-8.0, -3.0], [-8.1, -9.0]])).T
    assert a[1] > a[0] > 35
    assert 0 < a[3] < a[2] < 1e-6
    assert np.all((phi >= 0) & (phi <= ap.TURN))


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"n_live": 3}, fusions.FusionsError, "n_live to be an integer >= 20"),
        ({"kernel": "Slices"}, fusions.FusionsError, "Unknown kernel 'Slices'.*HitAndRun"),
        ({"seed": [1, 2]}, LoggedError, "Expected seed to be one integer"),
    ],
)
def test_bad_input_says_what_to_type(options, error, text):
    with pytest.raises(error, match=text):
        run({**INFO, "sampler": sampler(**options)})


def test_interrupt_saves_and_leaves(tmp_path):
    """SIGINT out of the likelihood: what is on disk can be resumed, and is not overwritten without being asked."""
    calls = itertools.count()

    def stopping(x, y):
        if next(calls) == 600:
            os.kill(os.getpid(), signal.SIGINT)
        return half(x, y)

    info = {**INFO, "likelihood": {"half": stopping}, "sampler": sampler(), "output": str(tmp_path / "chain")}
    with pytest.raises(KeyboardInterrupt, match="Interrupted by the user"):
        run(info)
    assert any(name.startswith("state-") for name in os.listdir(tmp_path / "chain_fusions"))
    assert not (tmp_path / "chain.logZ").exists()
    with pytest.raises(LoggedError, match="Delete the previous output"):
        run(info)
