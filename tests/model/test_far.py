"""Parameters far out in the coordinates: finite and inside of the closed prior; what is not never reaches a likelihood."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats
from test_distributions import TABLE

import fusions
from fusions import kernels
from fusions import priors as pr
from fusions.errors import LikelihoodError
from fusions.model.likelihood import make_evaluator
from fusions.numerics import precision_of

FAR = np.array([0, 1, 8, 12, 20, 37, 38, 40, 1e3, 1e10])
X = np.unique(np.concatenate([-FAR, FAR]))
BOTH = pytest.mark.parametrize("x64", [False, True])

SCIPY = {
    "lognorm": stats.lognorm(1.5), "invgamma": stats.invgamma(2), "cauchy": stats.cauchy(1, 3), "expon": stats.expon(2, 4), "t": stats.t(2),
    "weibull_min": stats.weibull_min(1.5), "uniform": stats.uniform(-3, 4), "beta": stats.beta(0.3, 4), "truncnorm": stats.truncnorm(-1, 4),
    "triang": stats.triang(0.2), "logistic": stats.logistic(), "halfcauchy": stats.halfcauchy(),
}  # fmt: skip
FROM_ICDF = {
    "icdf": (pr.icdf(lambda u: jnp.log(u) - jnp.log1p(-u)), (-math.inf, math.inf)),
    "icdf_one_sided": (pr.icdf(lambda u: -2 * jnp.log1p(-u)), (0, math.inf)),
    "icdf_on_the_host": (pr.icdf(lambda u: float(stats.gamma(2).ppf(u))), (0, math.inf)),
    "icdf_on_the_host_normal": (pr.icdf(lambda u: float(stats.norm.ppf(u))), (-math.inf, math.inf)),
    "icdf_on_the_host_one_sided": (pr.icdf(lambda u: -math.log(u)), (0, math.inf)),
    "periodic": (pr.uniform(-2, 3, periodic=True), (-2, 3)),
    "periodic_on_the_host": (pr.icdf(lambda u: 6 * math.sqrt(u) ** 2, periodic=True), (0, 6)),
}
ONE = {
    **{name: (distribution, reference) for name, (distribution, reference) in TABLE.items()},
    **{f"from_scipy_{name}": (pr.from_scipy(frozen), frozen) for name, frozen in SCIPY.items()},
    **FROM_ICDF,
}
COV = np.array([[4.0, 1.0], [1.0, 2.0]])
BLOCKS = {
    "gaussian": pr.gaussian(["a", "b"], [1, -3], COV),
    "joint": pr.joint(
        ["a", "b"],
        lambda key, n: jax.random.multivariate_normal(key, jnp.zeros(2), COV, (n,)),
        lambda v: -0.5 * v @ np.linalg.inv(COV) @ v - 0.5 * math.log(np.linalg.det(2 * math.pi * COV)),
    ),
    "transform": pr.transform(lambda u: jnp.stack([jax.scipy.special.ndtri(u[0]), -jnp.log(u[1])]), ["a", "b"]),
    "transform_on_the_host": pr.transform(lambda u: np.array([stats.norm.ppf(u[0]), stats.expon.isf(u[1])]), ["a", "b"]),
}


def support(reference):
    """Return the closed support of a scipy distribution or stand-in, or the bounds given instead."""
    if isinstance(reference, tuple):
        return reference
    return reference.support() if hasattr(reference, "support") else (5.0, math.inf)


def assert_inside(theta, low, high, dtype=float):
    """Finite, and between bounds as a dtype has them."""
    assert np.all(np.isfinite(theta)), theta
    assert np.all((theta >= float(dtype(low))) & (theta <= float(dtype(high)))), theta


@functools.cache
def everywhere(x64):
    """Return the parameters (len(X), len(ONE)) of all priors, each at all of X."""
    with precision_of("double" if x64 else "single"):
        return pr.Prior(**{name: distribution for name, (distribution, _) in ONE.items()}).theta_rows(np.tile(X[:, None], len(ONE)))


@functools.cache
def slopes(x64):
    """Return {name: (len(X),) d theta / d x} of the priors that JAX traces."""
    traced = {name: jax.vmap(jax.grad(distribution.theta)) for name, (distribution, _) in ONE.items() if distribution.traceable}
    with precision_of("double" if x64 else "single"):
        return jax.jit(lambda x: {name: slope(x) for name, slope in traced.items()})(jnp.asarray(X))


@BOTH
@pytest.mark.parametrize("name", ONE)
def test_one_parameter_is_finite_and_inside(name, x64):
    distribution, reference = ONE[name]
    theta = everywhere(x64)[:, list(ONE).index(name)]
    assert_inside(theta, *support(reference), np.float64 if x64 or not distribution.traceable else np.float32)
    if not distribution.periodic:
        assert np.all(np.diff(theta) >= 0) | np.all(np.diff(theta) <= 0)
    if distribution.traceable:  # trajectories use gradients
        assert np.all(np.isfinite(slopes(x64)[name])), slopes(x64)[name]


@BOTH
@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_are_finite(name, x64):
    rows = np.concatenate([np.stack([X, X], axis=1), np.stack([X, -X], axis=1)])
    with precision_of("double" if x64 else "single"):
        assert np.all(np.isfinite(pr.Prior(BLOCKS[name]).theta_rows(rows)))


@pytest.mark.parametrize("x", [-9.0, -20.0, -37.0])
def test_lower_tails_go_on_to_1e_300_of_the_prior(x):
    """In float64, traced and on the host alike: scipy's quantiles at Phi(x), of which JAX has eight digits."""
    p = special.ndtr(x)
    with precision_of("double"):
        prior = pr.Prior(e=pr.exponential(2), c=pr.cauchy(0, 1), h=pr.icdf(lambda u: float(stats.gamma(2).ppf(u))))
        theta = prior.theta_rows(np.full((1, 3), x))[0]
    np.testing.assert_allclose(theta, [-2 * np.log1p(-p), -1 / np.tan(np.pi * p), stats.gamma(2).ppf(p)], rtol=1e-8)


def test_normal_priors_are_not_cut():
    """A likelihood may sit a hundred standard deviations out; nothing of mu + sigma x is lost there."""
    theta = pr.Prior(pr.gaussian(["b"], [1], [[4]]), a=pr.normal(1, 2)).theta_rows(np.array([[100.0, 100.0], [-1e10, -1e10]]))
    np.testing.assert_allclose(theta, [[201, 201], [-2e10, -2e10]], rtol=1e-6)


# What is not finite all the same --------------------------------------------------------------------------------------


def overflowing(u):
    """A quantile function that is infinite in the lower tail, and was never asked there by random numbers u."""
    return special.erfinv(2 * u - 1)


def checked(p):
    assert math.isfinite(p["a"])
    return -(p["a"] ** 2)


def checked_rows(p):
    assert np.all(np.isfinite(p["a"]))
    return -(p["a"] ** 2)


@pytest.mark.parametrize("vectorized", [False, True])
def test_likelihood_never_gets_what_is_not_finite(vectorized):
    problem = fusions.Problem(pr.Prior(a=pr.icdf(overflowing)), checked_rows if vectorized else checked, vectorized=vectorized)
    rows = np.array([[0.5], [-30.0], [-0.5]])
    logL, blobs = make_evaluator(problem).rows(rows)
    assert logL[1] == -np.inf
    assert np.all(np.isfinite(logL[[0, 2]]))
    assert blobs.shape == (3, 0)
    assert make_evaluator(problem).rows(rows[1:2])[0] == -np.inf


def test_traced_likelihood_is_zero_where_a_parameter_is_not_finite():
    problem = fusions.Problem(pr.Prior(a=pr.icdf(lambda u: 1 / jnp.maximum(u - 0.1, 0))), lambda p: 0.0 * p["a"])
    assert problem.traceable
    np.testing.assert_array_equal(make_evaluator(problem).rows(jnp.array([[-5.0], [1.0]]))[0], [-np.inf, 0])


@pytest.mark.parametrize("traceable", [True, False])
def test_prior_that_is_not_finite_at_draws_is_an_error(traceable):
    """Half of the draws are beyond: an error of the prior, not zero likelihood."""
    prior = pr.Prior(a=pr.uniform(0, 1), transform=lambda p: {"b": (1 if traceable else float(1)) / jnp.maximum(p["a"] - 0.5, 0)})
    problem = fusions.Problem(prior, lambda p: -p["a"], traceable=traceable)
    algorithm = fusions.nested(n_live=20, kernel=kernels.HitAndRun(), kill=0.5, cost="cheap")
    with pytest.raises(LikelihoodError, match=r"The prior gave a=0\.\d+, b=inf at one of its draws; expected finite numbers"):
        fusions.run(problem, algorithm, refine=False, progress=False)


# Adapters -------------------------------------------------------------------------------------------------------------


COBAYA = {
    "uniform": ({"min": -2, "max": 0.3}, (-2, 0.3)),
    "norm": ({"dist": "norm", "loc": 1, "scale": 2}, (-math.inf, math.inf)),
    "gamma": ({"dist": "gamma", "a": 2}, (0, math.inf)),
    "beta": ({"dist": "beta", "a": 0.5, "b": 3}, (0, 1)),
    "expon": ({"dist": "expon", "scale": 3}, (0, math.inf)),
    "halfnorm": ({"dist": "halfnorm", "scale": 3}, (0, math.inf)),
    "lognorm": ({"dist": "lognorm", "s": 0.5}, (0, math.inf)),
    "loguniform": ({"dist": "loguniform", "a": 1e-3, "b": 7}, (1e-3, 7)),
    "cauchy": ({"dist": "cauchy", "loc": 1}, (-math.inf, math.inf)),
    "truncnorm": ({"dist": "truncnorm", "a": -1, "b": 2}, (-1, 2)),
    "rayleigh": ({"dist": "rayleigh"}, (0, math.inf)),
}


@pytest.fixture(scope="module")
def cobaya_rows():
    """Return the parameters of all priors of `COBAYA` at X."""
    pytest.importorskip("cobaya", reason="cobaya is not installed")
    from cobaya.model import get_model

    from fusions.adapters.cobaya import make_problem

    params = {f"p{i}": {"prior": prior} for i, (prior, _) in enumerate(COBAYA.values())}
    likelihood = f"lambda {', '.join(params)}: 0.0"
    problem = make_problem(get_model({"params": params, "likelihood": {"flat": likelihood}}))
    return problem.prior.theta_rows(np.repeat(X[:, None], len(params), axis=1))


@pytest.mark.parametrize("name", COBAYA)
def test_cobaya(name, cobaya_rows):
    theta = cobaya_rows[:, list(COBAYA).index(name)]
    assert_inside(theta, *COBAYA[name][1])
    assert np.all(np.diff(theta) >= 0)


def test_cobaya_is_not_asked_where_scipy_fails():
    """The quantiles of scipy's Student t are infinite far out, and cobaya refuses infinite numbers."""
    pytest.importorskip("cobaya", reason="cobaya is not installed")
    from cobaya.model import get_model

    from fusions.adapters.cobaya import make_problem

    model = get_model({"params": {"p": {"prior": {"dist": "t", "df": 3}}}, "likelihood": {"flat": "lambda p: 0.0"}})
    logL, _ = make_evaluator(make_problem(model)).rows(X[:, None])
    np.testing.assert_array_equal(logL[np.abs(X) <= 8], 0)
    assert set(logL) == {0.0, -np.inf}


BILBY = {
    "Uniform": (-2, 0.3), "LogUniform": (1e-3, 7), "PowerLaw": (-2.5, 1e-3, 7), "Gaussian": (1, 2), "TruncatedGaussian": (1, 2, -3, 4),
    "HalfGaussian": (3,), "LogNormal": (0, 1), "Exponential": (2,), "StudentT": (3, 1, 2), "Beta": (0.5, 3), "Logistic": (1, 2),
    "Cauchy": (1, 2), "Gamma": (0.5, 3), "ChiSquared": (2,), "Sine": (), "Cosine": (), "SymmetricLogUniform": (1e-3, 7),
    "FermiDirac": (1, 5),
}  # fmt: skip


@pytest.mark.parametrize("name", BILBY)
def test_bilby(name):
    bilby = pytest.importorskip("bilby", reason="bilby is not installed")
    from fusions.adapters.bilby import Fusions

    prior = getattr(bilby.core.prior, name)(*BILBY[name], name="p")
    sampler = Fusions.__new__(Fusions)
    sampler.priors, sampler._search_parameter_keys = bilby.core.prior.PriorDict({"p": prior}), ["p"]
    theta = np.concatenate([sampler._theta(np.array([x]), np.array([False])) for x in X])
    assert_inside(theta, prior.minimum, prior.maximum)
    assert np.all(np.diff(theta) >= 0)


NUMPYRO = {
    "Normal": ({"loc": 1.0, "scale": 2.0}, (-math.inf, math.inf)),
    "Uniform": ({"low": -2.0, "high": 0.5}, (-2, 0.5)),
    "HalfNormal": ({"scale": 2.0}, (0, math.inf)),
    "Exponential": ({"rate": 2.0}, (0, math.inf)),
    "Cauchy": ({"loc": 1.0, "scale": 2.0}, (-math.inf, math.inf)),
    "HalfCauchy": ({"scale": 2.0}, (0, math.inf)),
    "LogNormal": ({"loc": 0.0, "scale": 1.5}, (0, math.inf)),
    "TruncatedNormal": ({"loc": 0.0, "scale": 1.0, "low": -1.0, "high": 2.0}, (-1, 2)),
    "Logistic": ({"loc": 0.0, "scale": 1.0}, (-math.inf, math.inf)),
    "Gumbel": ({"loc": 0.0, "scale": 1.0}, (-math.inf, math.inf)),
    "Pareto": ({"scale": 1.0, "alpha": 2.0}, (1, math.inf)),
    "LogUniform": ({"low": 0.5, "high": 4.0}, (0.5, 4)),
}
OWN = {"InverseGamma": ({"concentration": 2.0, "rate": 1.0}, (0, math.inf)), "StudentT": ({"df": 3.0}, (-math.inf, math.inf))}


def numpyro_prior(table):
    """Make the prior of a model with one site of each distribution."""
    numpyro = pytest.importorskip("numpyro", reason="numpyro is not installed")

    def model():
        for name, (options, _) in table.items():
            numpyro.sample(name, getattr(numpyro.distributions, name)(**options))

    return fusions.from_numpyro(model).prior


@BOTH
def test_numpyro(x64):
    """Two units of rounding beyond an edge are numpyro's own: its log-uniform is the exponential of a uniform."""
    with precision_of("double" if x64 else "single"):
        prior = numpyro_prior(NUMPYRO)
        columns = prior.theta_rows(np.tile(X[:, None], len(NUMPYRO))).T
        eps = float(jnp.finfo(float).eps)
    assert prior.names == tuple(NUMPYRO)
    for theta, (_, (low, high)) in zip(columns, NUMPYRO.values(), strict=True):
        assert_inside(theta, low - 2 * eps * abs(low) if low else 0, high + 2 * eps * abs(high))


@BOTH
@pytest.mark.parametrize("name", OWN)
def test_numpyro_without_a_quantile_function(name, x64):
    """The coordinate is numpyro's own, whose exponential may overflow: the prior is zero there."""
    with precision_of("double" if x64 else "single"):
        prior = numpyro_prior({name: OWN[name]})
        theta, log_prob = prior.theta_rows(X[:, None])[:, 0], jax.vmap(prior.log_prob)(jnp.asarray(X[:, None]))
    inside = np.isfinite(log_prob)
    assert inside[np.abs(X) <= 1].all()
    assert_inside(theta[inside], *OWN[name][1])
