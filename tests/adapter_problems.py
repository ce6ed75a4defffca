"""Two problems of exactly known evidence as users of each package write them, and how each package solves them."""

import contextlib
import functools
import math
import tempfile
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

import fusions
from fusions import priors as pr

TURN = 2 * math.pi


def log_normal(x, mean, sigma):
    """Evaluate ln N(x; mean, sigma^2) of NumPy or JAX numbers."""
    return -0.5 * ((x - mean) / sigma) ** 2 - math.log(sigma * math.sqrt(TURN))


def phase_loglikelihood(x, y, phi, xp=np):
    """Gaussian in x ~ U(-5, 5) and y ~ N(0, 1), von Mises in phi ~ U(0, 2 pi), whose mode lies across the edge."""
    return log_normal(x, 1.0, 0.5) + log_normal(y, 0.5, 0.5) + 4 * xp.cos(phi)


def modes_loglikelihood(x, y, xp=np):
    """Two separated Gaussians of weights 0.7 and 0.3, x and y ~ U(-5, 5)."""
    right = math.log(0.7) + log_normal(x, 2.0, 0.4) + log_normal(y, 2.0, 0.4)
    left = math.log(0.3) + log_normal(x, -2.0, 0.4) + log_normal(y, -2.0, 0.4)
    return xp.logaddexp(right, left)


LOGLIKELIHOOD = {"phase": phase_loglikelihood, "modes": modes_loglikelihood}
NAMES = {"phase": ("x", "y", "phi"), "modes": ("x", "y")}
EXACT = {
    "phase": -math.log(10) + log_normal(0.5, 0.0, math.hypot(1, 0.5)) + math.log(special.i0(4)),
    "modes": -2 * math.log(10),
}


class Solved(NamedTuple):
    """ln Z, its error, posterior points (n, d) of equal weight, likelihood calls."""

    logZ: float
    logZ_err: float
    points: np.ndarray
    n_calls: int


def settings(n_live):
    """Return the options of a fast run: slices alone, enough in two and three dimensions, and long walks, whose volumes are calibrated."""
    return {"n_live": n_live, "kernel": "HitAndRun", "cost": "cheap", "refine": False, "progress": False}


def solve_native(name, seed, n_live, folder=None, max_calls=None):
    uniform = pr.uniform(-5, 5)
    priors = {
        "phase": {"x": uniform, "y": pr.normal(0, 1), "phi": pr.uniform(0, TURN, periodic=True)},
        "modes": {"x": uniform, "y": uniform},
    }
    problem = fusions.Problem(fusions.Prior(**priors[name]), lambda p: LOGLIKELIHOOD[name](**p, xp=jnp))
    return run_problem(problem, seed, n_live, folder, max_calls)


def run_problem(problem, seed, n_live, folder, max_calls):
    """Solve a traceable problem, for which long walks are the default."""
    algorithm = fusions.nested(n_live, kernel=fusions.kernels.HitAndRun())
    result = fusions.run(problem, algorithm, key=seed, refine=False, progress=False, checkpoint=folder, max_calls=max_calls)
    return Solved(result.logZ, result.logZ_err, result.equal_weights(), result.n_calls)


def solve_numpyro(name, seed, n_live, folder=None, max_calls=None):
    numpyro = pytest.importorskip("numpyro", reason="numpyro is not installed")
    import numpyro.distributions as dist

    def model(loglikelihood):
        values = {"x": numpyro.sample("x", dist.Uniform(-5, 5))}
        values["y"] = numpyro.sample("y", dist.Normal(0, 1) if name == "phase" else dist.Uniform(-5, 5))
        if name == "phase":
            values["phi"] = numpyro.sample("phi", dist.Uniform(0, TURN), infer={"periodic": True})
        numpyro.factor("likelihood", loglikelihood(**values, xp=jnp))

    return run_problem(fusions.from_numpyro(model, LOGLIKELIHOOD[name]), seed, n_live, folder, max_calls)


def bilby_problem(name):
    """Return likelihood and priors of bilby."""
    import bilby

    class Likelihood(bilby.Likelihood):
        def log_likelihood(self, parameters):
            return LOGLIKELIHOOD[name](**{key: parameters[key] for key in NAMES[name]})

    uniform = functools.partial(bilby.core.prior.Uniform, -5, 5)
    priors = bilby.core.prior.PriorDict({"x": uniform("x"), "y": uniform("y", boundary="reflective")})
    if name == "phase":
        priors["y"] = bilby.core.prior.Gaussian(0, 1, "y")
        priors["phi"] = bilby.core.prior.Uniform(0, TURN, "phi", boundary="periodic")
    return Likelihood(), priors


def solve_bilby(name, seed, n_live, folder=None, max_calls=None):
    bilby = pytest.importorskip("bilby", reason="bilby is not installed")
    likelihood, priors = bilby_problem(name)
    with contextlib.ExitStack() as stack:
        outdir = folder or stack.enter_context(tempfile.TemporaryDirectory())
        result = bilby.run_sampler(
            likelihood, priors, sampler="fusions", outdir=outdir, seed=seed, max_calls=max_calls, save=False, **settings(n_live)
        )  # fmt: skip
    return Solved(result.log_evidence, result.log_evidence_err, result.samples, result.num_likelihood_evaluations)


def cobaya_info(name, seed, n_live, output=None, **options):
    """Return the input of cobaya."""
    box = {"prior": {"min": -5, "max": 5}}
    params = {"x": box, "y": box}
    if name == "phase":
        params = {
            "x": box,
            "y": {"prior": {"dist": "norm", "loc": 0, "scale": 1}},
            "phi": {"prior": {"min": 0, "max": TURN}, "periodic": True},
        }
    external = {"phase": lambda x, y, phi: phase_loglikelihood(x, y, phi), "modes": lambda x, y: modes_loglikelihood(x, y)}
    sampler = {"fusions.adapters.cobaya.Fusions": {**settings(n_live), "seed": seed, **options}}
    return {"params": params, "likelihood": {name: external[name]}, "sampler": sampler, "output": output}


def solve_cobaya(name, seed, n_live, folder=None, max_calls=None):
    pytest.importorskip("cobaya", reason="cobaya is not installed")
    from cobaya.run import run

    info = cobaya_info(name, seed, n_live, folder and f"{folder}/chain", max_calls=max_calls)
    products = run(info, resume=folder is not None)[1].products()
    result = products["result"]
    return Solved(products["logZ"], products["logZstd"], result.equal_weights()[:, : len(NAMES[name])], result.n_calls)


SOLVE = {"native": solve_native, "numpyro": solve_numpyro, "bilby": solve_bilby, "cobaya": solve_cobaya}


@functools.cache
def solved(adapter, name, seed, n_live):
    """Solve a problem once for all tests that look at it."""
    try:
        return SOLVE[adapter](name, seed, n_live)
    finally:
        jax.clear_caches()
