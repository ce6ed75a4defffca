"""Folders that earlier code wrote (tests/io/saved/, by the code of 1 December 2026, key 3) are read, drawn from and resumed."""

import shutil
from pathlib import Path

import numpy as np
import pytest

import fusions
from fusions import kernels
from fusions import priors as pr
from fusions.driver import snapshot
from fusions.errors import CheckpointError
from fusions.flows.mixture import MixtureCNF

SAVED = Path(__file__).parent / "saved"
EXACT = np.log(2 * np.pi * 0.5 / 10 / np.sqrt(2 * np.pi) / np.hypot(2, 0.5)) - 0.5 * 1 / (2**2 + 0.5**2)
FLOW = MixtureCNF(components=2, kernels=16, width=8, depth=1, ode_steps=1)
REFINE = fusions.Refine(flow=FLOW, kernel=kernels.Jump(components=2), max_rounds=1, error=0.1)


def loglikelihood(p):
    return -0.5 * (p["x"] ** 2 + ((p["y"] - 1.0) / 0.5) ** 2)


def problem():
    return fusions.Problem(fusions.Prior(x=pr.uniform(-5, 5), y=pr.normal(0, 2)), loglikelihood, traceable=False)


def test_saved_result_is_read_and_draws_again():
    result = fusions.Result.load(SAVED / "result")
    assert (result.n_live, result.n_calls, result.status.name, result.headline.name) == (40, 38763, "CONVERGED", "importance")
    assert result.logZ == pytest.approx(EXACT, abs=3 * result.logZ_err)
    assert (result.logZ, result.refined.n_draws, result.refined.finds[-1].name) == (-2.915374528309667, 2048, "the final draws")
    assert len(result.samples()) == len(result.theta)
    more = fusions.attach(result, problem(), REFINE).extend(n_eff=1.5 * result.refined.ess)
    assert more.logZ == pytest.approx(EXACT, abs=3 * more.logZ_err)


def test_settings_with_options_that_are_gone_are_those_without_them():
    kernel = "FlowKernel(n_moves=3, flow=CNF(width=64, ode_steps=4{}, training=Training()))"
    former = kernel.format(", probes=0, coupling=<function independent>")
    snapshot.refuse_other("run", {"kernel": former}, {"kernel": kernel.format("")})
    with pytest.raises(CheckpointError, match="kernel was"):
        snapshot.refuse_other("run", {"kernel": former.replace("probes=0", "probes=3")}, {"kernel": kernel.format("")})


def test_saved_checkpoint_goes_on(tmp_path):
    shutil.copytree(SAVED / "checkpoint", tmp_path / "run")
    assert fusions.Result.load(tmp_path / "run").status.name == "MAX_CALLS"
    settings = fusions.nested(n_live=40, kernel=kernels.HitAndRun())
    result = fusions.run(problem(), settings, key=3, refine=REFINE, progress=False, checkpoint=tmp_path / "run")
    assert result.status.name == "CONVERGED"
    assert result.logZ == pytest.approx(EXACT, abs=3 * result.logZ_err)
