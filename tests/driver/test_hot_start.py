"""A hot start: a problem with the same evidence, whose prior is where the posterior of an earlier run was."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fusions
from fusions import priors as pr
from fusions.algorithms.refine.draws import Ensemble
from fusions.driver import hot_start
from fusions.errors import OptionError
from fusions.parallel.tasks import RATIO

WIDTH = 0.05


def host(values):
    """Do what JAX can't trace."""
    return {"c": float(values["a"]) ** 2}


def dict_form(p):
    return -0.5 * ((p["a"] - 0.3) ** 2 + (p["w"] - 6.1) ** 2) / WIDTH**2


def array_form(theta):
    return -0.5 * jnp.sum((theta - jnp.array([0.3, 6.1])) ** 2) / WIDTH**2


def batch_form(p):
    return np.asarray(dict_form(p)), {"r": p["a"] + p["w"]}


PARAMETERS = {"a": pr.uniform(-1, 1), "w": pr.uniform(0, 2 * np.pi, periodic=True)}
SQUARE = fusions.Prior(**PARAMETERS)
PROBLEMS = {
    "dict": fusions.Problem(SQUARE, dict_form, labels={"a": "a"}),
    "array": fusions.Problem(SQUARE, array_form, array=True),
    "black box": fusions.Problem(SQUARE, dict_form, traceable=False),
    "data": fusions.Problem(SQUARE, lambda p, centre: -jnp.sum((jnp.stack([p["a"], p["w"]]) - centre) ** 2), data=np.array([0.3, 6.1])),
    "batch with blobs": fusions.Problem(SQUARE, batch_form, vectorized=True, blobs=("r",)),
    "host prior": fusions.Problem(fusions.Prior(**PARAMETERS, transform=host), dict_form),
}
EXACT = np.log(2 * np.pi * WIDTH**2 / (2 * 2 * np.pi)) + np.log(0.99988)  # the angle's likelihood is cut at a full turn, 3.66 widths away


@pytest.fixture
def result(monkeypatch):
    """Stand in for a result: its flows draw around the peak, which has moved by a width since."""

    def draw(key, state):
        del state
        return jnp.array([0.45, 2.98]) + jnp.array([0.1, 0.05]) * jax.random.normal(key, (512, 2))

    functions = SimpleNamespace(draw=draw, space=SimpleNamespace(leave=lambda u: u), logprior=lambda u: np.zeros(len(u)))
    monkeypatch.setattr(hot_start, "make_functions", lambda problem, settings: (functions, None))
    return SimpleNamespace(source=SimpleNamespace(problem=PROBLEMS["dict"], settings=None, flows=Ensemble.of([None, None], 1)))


@pytest.mark.parametrize("form", PROBLEMS)
def test_prior_times_likelihood_stays(form, result):
    problem = PROBLEMS[form]
    started = fusions.hot_start(problem, result)
    assert started.names == (*problem.prior.names, RATIO, *problem.blobs)
    assert started.traceable is problem.traceable
    x = np.asarray(started.prior.sample(0, 50))
    assert np.all(np.abs(x[:, 1]) <= np.pi)
    theta = started.prior.theta_rows(x)
    np.testing.assert_allclose(theta[:, :-1], problem.prior.theta_rows(x), rtol=1e-6)
    (new, new_blobs), (old, old_blobs) = started.call_rows(theta), problem.call_rows(theta[:, :-1])
    shift = [problem.prior.log_prob(row) - started.prior.log_prob(row) for row in x]
    np.testing.assert_allclose(new - old, shift, atol=1e-4)
    np.testing.assert_array_equal(new_blobs, old_blobs)


def test_mixture_is_normalised_and_draws_follow_it(result):
    """The mean of f / mixture over its draws is the integral of f: of the prior, and of a normal where half of the draws are."""
    prior = fusions.hot_start(PROBLEMS["dict"], result).prior
    x = prior.sample(1, 20_000)
    log_q = np.asarray(jax.vmap(prior.log_prob)(x), np.float64)
    for log_f in (jax.vmap(SQUARE.log_prob)(x), jax.scipy.stats.norm.logpdf(x, jnp.array([0.45, 2.98]), 0.03).sum(axis=1)):
        ratio = np.exp(np.asarray(log_f, np.float64) - log_q)
        assert abs(ratio.mean() - 1) < 4 * ratio.std() / np.sqrt(len(x))


def test_evidence_stays_and_takes_fewer_calls(result):
    settings = fusions.nested(n_live=100, kernel=fusions.kernels.HitAndRun(n_slices=10), cost="expensive")
    runs = [
        fusions.run(problem, settings, key=3, refine=False, progress=False)
        for problem in (fusions.hot_start(PROBLEMS["dict"], result), PROBLEMS["dict"])
    ]
    for run in runs:
        assert abs(run.logZ - EXACT) < 4 * run.logZ_err
    assert runs[0].logZ_err < 0.7 * runs[1].logZ_err
    assert runs[0].n_calls < 0.6 * runs[1].n_calls


def test_wrong_arguments(result):
    other = fusions.Problem(fusions.Prior(a=pr.uniform(-1, 1)), lambda p: -(p["a"] ** 2))
    with pytest.raises(OptionError, match="as many parameters"):
        fusions.hot_start(other, result)
    cut = fusions.Problem(fusions.Prior(**PARAMETERS, constraint=lambda p: p["a"] < p["w"]), dict_form)
    with pytest.raises(OptionError, match="Let the likelihood return -inf"):
        fusions.hot_start(cut, result)
