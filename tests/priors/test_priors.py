"""Priors: densities, periodic angles, dependent priors, constraints and bad input."""

import math
import os
import pickle
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from precision import enable_x64
from scipy import stats

from fusions import priors as pr
from fusions.errors import PriorError
from fusions.numerics import precision_of


def test_repr_equality_and_hash():
    """A distribution reads as it is typed, and is a value."""
    assert repr(pr.uniform(-5, 5)) == "uniform(-5, 5)"
    assert repr(pr.uniform(0, 0.5, periodic=True)) == "uniform(0, 0.5, periodic=True)"
    assert repr(pr.rayleigh(2)) == "rayleigh(2)"
    assert repr(pr.icdf(jnp.square)).startswith("icdf(")
    assert repr(pr.from_scipy(stats.gamma(2, scale=3))) == "from_scipy(gamma, 2, 0, 3)"
    assert pr.gamma(2, 3) == pr.gamma(2.0, 3.0)
    assert len({pr.normal(0, 1), pr.normal(0, 1.0), pr.normal(0, 2)}) == 2
    prior = pr.Prior(m=pr.uniform(-5, 5), g=stats.gamma(2))
    assert repr(prior) == "Prior(m=uniform(-5, 5), g=from_scipy(gamma, 2, 0, 1))"


def test_periodic_angles_wrap_and_stay_in_range():
    """An angle and the angle one turn later are the same parameter."""
    prior = pr.Prior(phase=pr.uniform(1, 3, periodic=True), m=pr.normal(0, 1))
    assert prior.periodic == (True, False)
    x = jnp.asarray([0.7, 0.2])
    for turns in (-2, 1, 3):
        turned = x + jnp.asarray([2 * math.pi * turns, 0])
        np.testing.assert_allclose(prior.theta(turned), prior.theta(x), rtol=1e-5)
        np.testing.assert_allclose(prior.log_prob(turned), prior.log_prob(x))
    edges = jax.vmap(prior.theta)(jnp.asarray([[-math.pi, 0], [math.pi, 0], [0, 0], [-3.1415930, 0]]))[:, 0]
    assert np.all((edges >= 1) & (edges <= 3))
    np.testing.assert_allclose(edges[2], 2)
    angles = np.asarray(prior.sample(3, 5000))[:, 0]
    assert np.abs(angles).max() <= math.pi + 1e-6
    assert stats.kstest(angles, stats.uniform(-math.pi, 2 * math.pi).cdf).pvalue > 1e-4


def test_density_of_internal_coordinates():
    """N(0, 1) per real number, 1 / (2 pi) per angle, -inf where x is not finite."""
    prior = pr.Prior(a=pr.gamma(2, 1), p=pr.uniform(0, 1, periodic=True), d=pr.delta(3), b=pr.normal(0, 9))
    x = jnp.asarray([0.3, 2.0, -1.5])
    expected = stats.norm.logpdf([0.3, -1.5]).sum() - math.log(2 * math.pi)
    np.testing.assert_allclose(prior.log_prob(x), expected, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(jax.vmap(prior.log_prob))(x[None]), [expected], rtol=1e-6)
    assert prior.log_prob(x.at[0].set(jnp.nan)) == -jnp.inf
    assert prior.log_prob(x.at[1].set(jnp.inf)) == -jnp.inf


KINDS = [
    pr.uniform(0, 1), pr.log_uniform(1, 2), pr.half_normal(1), pr.exponential(1), pr.cauchy(0, 1),
    pr.rayleigh(1), pr.sine(), pr.gamma(2, 1), pr.icdf(jnp.sqrt),
]  # fmt: skip


@pytest.mark.parametrize("x64", [False, True])
def test_draws_are_double_and_functions_follow_the_user(x64):
    """Draws have all their digits whatever the flag says, a user's own jit has its default float, under strict promotion rules."""
    with enable_x64(x64), jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        prior = pr.Prior(
            pr.gaussian(["u", "v"], [0, 1], np.eye(2)),
            pr.joint(["w"], lambda key, n: jax.random.normal(key, (n, 1)), lambda x: -0.5 * x[0] ** 2),
            pr.transform(lambda u: 2 * u, ["c"]),
            **{kind.name: kind for kind in KINDS},
            phase=pr.uniform(0, 1, periodic=True), fixed=pr.delta(1),
            transform=lambda p: {"sum": p["u"] + p["v"]},
        )  # fmt: skip
        dtype = jnp.float64 if x64 else jnp.float32
        x = prior.sample(0, 3)
        assert (x.dtype, x.shape) == (np.float64, (3, prior.dim))
        assert prior.traceable
        assert jax.jit(jax.vmap(prior.theta))(x).dtype == dtype
        assert jax.jit(jax.vmap(prior.log_prob))(x).dtype == dtype
        assert jnp.zeros(1).dtype == dtype
        assert prior.theta_rows(x).dtype == np.float64


def test_names_dict_and_order():
    """Blocks first, then named parameters; delta is reported without a coordinate."""
    prior = pr.Prior(pr.gaussian(["a", "b"], [1, 2], np.eye(2)), c=pr.delta(7), self=pr.uniform(0, 1))
    assert prior.names == ("a", "b", "c", "self")
    assert prior.dim == 3
    values = prior.dict(np.zeros(3))
    assert list(values) == list(prior.names)
    np.testing.assert_allclose(list(values.values()), [1, 2, 7, 0.5])
    again = pickle.loads(pickle.dumps(prior))
    np.testing.assert_array_equal(again.theta(np.ones(3)), prior.theta(np.ones(3)))


def test_gaussian_block_has_its_covariance():
    """Mean and covariance of many draws within five standard errors."""
    mean, cov = np.array([1.0, -2.0]), np.array([[2.0, 0.9], [0.9, 1.0]])
    prior = pr.Prior(pr.gaussian(["a", "b"], mean, cov))
    theta = prior.theta_rows(prior.sample(1, 20_000))
    np.testing.assert_allclose(theta.mean(axis=0), mean, atol=5 * 1.5 / math.sqrt(20_000))
    np.testing.assert_allclose(np.cov(theta.T), cov, atol=5 * 3 / math.sqrt(20_000))


@pytest.mark.parametrize("traced", [True, False])
def test_joint_block_is_whitened_with_its_jacobian(traced):
    """Draws have unit covariance; the density transforms exactly."""
    scale = np.array([[2.0, 0.0], [1.5, 0.5]])
    reference = stats.multivariate_normal([3, -1], scale @ scale.T)

    def sample(key, n):
        return jnp.asarray([3.0, -1.0]) + jax.random.normal(key, (n, 2)) @ scale.T

    def log_prob(theta):
        z = jnp.linalg.solve(jnp.asarray(scale), theta - jnp.asarray([3.0, -1.0]))
        return -0.5 * jnp.sum(z**2) - math.log(2 * math.pi) - math.log(np.linalg.det(scale))

    block = pr.joint(["a", "b"], sample, log_prob if traced else reference.logpdf)
    prior = pr.Prior(block, c=pr.normal(0, 1))
    assert prior.traceable is traced
    x = prior.sample(4, 4000)
    np.testing.assert_allclose(np.cov(np.asarray(x).T), np.eye(3), atol=0.15)
    logp = jax.jit(jax.vmap(prior.log_prob))(x[:20])
    theta = prior.theta_rows(x[:20])
    log_det = np.linalg.slogdet(np.asarray(jax.jacobian(lambda y: prior.theta(y)[:2])(x[0]))[:, :2])[1]
    expected = reference.logpdf(theta[:, :2]) + log_det + stats.norm.logpdf(theta[:, 2])
    np.testing.assert_allclose(logp, expected, atol=2e-4)


def test_joint_of_one_parameter_outside_its_support_has_no_density():
    """A log density of -inf or NaN outside the support excludes the point."""

    def log_prob(theta):
        return jnp.log(theta[0] > 0) - theta[0]

    block = pr.joint(["a"], lambda key, n: jax.random.exponential(key, (n, 1)), log_prob)
    prior = pr.Prior(block)
    assert prior.log_prob(jnp.asarray([-5.0])) == -jnp.inf
    assert np.isfinite(prior.log_prob(jnp.asarray([1.0])))


def test_joint_that_ignores_its_key_is_reported():
    """A run could not be repeated."""
    generator = np.random.default_rng(0)
    with pytest.warns(UserWarning, match="seed it by the key"):
        pr.joint(["a"], lambda key, n: generator.normal(size=(n, 1)), lambda t: -0.5 * t[0] ** 2)


@pytest.mark.parametrize("traced", [True, False])
def test_prior_transform_of_the_unit_cube(traced):
    """A dynesty-style function, JAX or NumPy; the latter runs on the host."""
    function = (lambda u: 10 * u - 5) if traced else (lambda u: np.array([10 * v - 5 for v in u]))
    prior = pr.Prior(pr.transform(function, ["a", "b"]), c=pr.normal(0, 1))
    assert prior.traceable is traced
    x = prior.sample(0, 5000)
    theta = prior.theta_rows(x)
    assert stats.kstest(theta[:, 1], stats.uniform(-5, 10).cdf).pvalue > 1e-4
    np.testing.assert_allclose(prior.theta(np.asarray(x[0])), theta[0], rtol=1e-5)
    assert np.isfinite(jax.jit(jax.vmap(prior.log_prob))(x)).all()


@pytest.mark.parametrize("periodic", [True, False])
def test_icdf_in_plain_python_runs_on_the_host(periodic):
    """``math`` can't be traced: theta falls to NumPy, the density stays in JAX."""
    prior = pr.Prior(a=pr.icdf(lambda u: 3 * math.sqrt(u), periodic=periodic))
    assert not prior.traceable
    theta = prior.theta_rows(prior.sample(2, 5000))[:, 0]
    assert stats.kstest(theta, stats.powerlaw(2, scale=3).cdf).pvalue > 1e-4
    assert prior.dict(np.zeros(1))["a"] == pytest.approx(3 * math.sqrt(0.5))


@pytest.mark.parametrize("traced", [True, False])
def test_dependent_prior(traced):
    """A transform changes a value and adds a name."""
    exp = jnp.exp if traced else math.exp
    prior = pr.Prior(a=pr.uniform(0, 1), b=pr.uniform(0, 1), transform=lambda p: {"b": p["a"] * p["b"], "e": exp(p["a"])})
    assert prior.names == ("a", "b", "e")
    assert prior.traceable is traced
    theta = prior.theta_rows(prior.sample(0, 200))
    assert np.all(theta[:, 1] <= theta[:, 0])
    np.testing.assert_allclose(theta[:, 2], np.exp(theta[:, 0]), rtol=1e-5)


CONSTRAINTS = {
    "traced": {"constraint": lambda p: p["a"] < p["b"]},
    "hosted": {"constraint": lambda p: math.copysign(1, p["b"] - p["a"]) > 0},
    "hosted_transform": {
        "constraint": lambda p: p["e"] > 1,
        "transform": lambda p: {"e": math.exp(p["b"] - p["a"])},
    },
}


@pytest.mark.parametrize("form", CONSTRAINTS)
def test_constraint_restricts_samples_and_density(form):
    """Half of the square is allowed: in draws, in log_prob inside jit, and in log_mass."""
    prior = pr.Prior(a=pr.uniform(0, 1), b=pr.uniform(0, 1), **CONSTRAINTS[form])
    assert prior.traceable is (form == "traced")
    x = prior.sample(5, 500)
    assert x.shape == (500, 2)
    assert x.dtype == np.float64
    assert np.all(x[:, 0] < x[:, 1])
    logp = np.asarray(jax.jit(jax.vmap(prior.log_prob))(jnp.concatenate([x[:50], x[:50, ::-1]])))
    np.testing.assert_allclose(logp[:50], stats.norm.logpdf(x[:50]).sum(axis=1), rtol=1e-5)
    assert np.all(logp[50:] == -np.inf)
    log_fraction, error = prior.log_mass(7, 4000)
    assert abs(log_fraction - math.log(0.5)) < 4 * error
    assert error == pytest.approx(1 / math.sqrt(4000), rel=0.1)


def test_constraints_on_the_host_see_all_digits():
    """Whatever thread calls back, and in log_prob too."""
    seen = []

    def constraint(p):
        seen.append(float(p["t0"]))
        return float(p["t0"]) - 2457394.5 > 0.01

    def log_prob(w):
        return float(stats.norm.logpdf(float(w[0])))

    own = pr.joint(["w"], lambda key, n: np.asarray(jax.random.normal(key, (n, 1))), log_prob)
    prior = pr.Prior(own, t0=pr.uniform(2457394, 2457395), constraint=constraint)
    with precision_of("double"):
        x, seen[:] = prior.sample(0, 64), []
        density = np.asarray(jax.jit(jax.vmap(prior.log_prob))(x))
    assert set(seen) == set(prior.theta_rows(x)[:, list(prior.names).index("t0")])
    own = stats.norm.logpdf(prior.theta_rows(x)[:, list(prior.names).index("w")]) + stats.norm.logpdf(x[:, 1])
    assert np.ptp(density - own) < 1e-12


MANY_ROWS_ON_THE_HOST = """
import os
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
import jax, jax.numpy as jnp, numpy as np
from fusions import priors as pr
prior = pr.Prior(**{f"x{i}": pr.normal(0, 1) for i in range(9)}, constraint=lambda p: float(p["x0"]) > 0)
x = jax.random.normal(jax.random.key(0), (4096, 9))
for rows in (x, x.reshape(8, 512, 9)):
    logp = jax.jit(jnp.vectorize(prior.log_prob, signature="(d)->()"))(jnp.tanh(rows))
    assert ((np.asarray(logp) > -np.inf) == (np.asarray(rows)[..., 0] > 0)).all()
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux")
def test_many_rows_reach_the_host_on_one_core():
    """JAX copies rows of more than 100 kB in a thread of its own, and one core has no thread left while a callback runs."""
    done = subprocess.run([sys.executable, "-c", MANY_ROWS_ON_THE_HOST], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr


def test_mass_without_constraint_and_seeds():
    """No constraint, no correction; one seed, one set of draws."""
    prior = pr.Prior(a=pr.normal(0, 1))
    assert prior.log_mass(0) == (0.0, 0.0)
    np.testing.assert_array_equal(prior.sample(3, 10), prior.sample(jax.random.key(3), 10))
    assert not np.array_equal(prior.sample(3, 10), prior.sample(4, 10))


def test_impossible_constraint():
    """No draw satisfies it: a clear error instead of an endless loop."""
    prior = pr.Prior(a=pr.uniform(0, 1), constraint=lambda p: p["a"] > 2)
    with pytest.raises(PriorError, match="allows 0 of 100000 prior draws; it is False for example at a="):
        prior.sample(0, 10)
    with pytest.raises(PriorError, match="allows 0 of 1000 prior draws"):
        prior.log_mass(0, 1000)


def ones(n):
    """Return a `joint` sampler's draws of the wrong kind."""
    return lambda key, m: np.ones((m, n))


def draws(key, n):
    """Return good draws of one parameter."""
    return jax.random.normal(key, (n, 1))


NAN = float("nan")
A = pr.uniform(0, 1)
WRONG = {
    "uniform needs lo < hi, got lo=5, hi=-5; write uniform\\(..., -5, 5\\)": lambda: pr.uniform(5, -5),
    "uniform needs lo < hi, got lo=1, hi=1; to fix a parameter use delta": lambda: pr.uniform(1, 1),
    "uniform: expected hi to be a finite number, got inf": lambda: pr.uniform(0, math.inf),
    "uniform: expected lo to be a finite number, got 'a'": lambda: pr.uniform("a", 1),
    "uniform: expected lo to be a finite number, got array": lambda: pr.uniform(np.zeros(2), 1),
    "log_uniform needs lo > 0, got lo=0": lambda: pr.log_uniform(0, 1),
    "normal needs sigma > 0, got sigma=0": lambda: pr.normal(0, 0),
    "normal: expected mu to be a finite number, got nan": lambda: pr.normal(NAN, 1),
    "normal needs sigma > 0, got sigma=-1": lambda: pr.normal(0, -1),
    "truncated_normal needs lo < hi": lambda: pr.truncated_normal(0, 1, 2, 1),
    "truncated_normal: expected lo to be a number, got nan": lambda: pr.truncated_normal(0, 1, NAN, 1),
    "half_normal needs sigma > 0": lambda: pr.half_normal(-1),
    "log_normal needs sigma > 0": lambda: pr.log_normal(0, 0),
    "exponential needs scale > 0": lambda: pr.exponential(0),
    "gamma needs shape > 0": lambda: pr.gamma(-1, 1),
    "beta needs b > 0": lambda: pr.beta(1, 0),
    "student_t needs df > 0": lambda: pr.student_t(0, 0, 1),
    "quantiles of this distribution are not finite": lambda: pr.gamma(1e-9, 1),
    "cauchy needs gamma > 0": lambda: pr.cauchy(0, 0),
    "rayleigh needs upper > 0": lambda: pr.rayleigh(1, -1),
    "delta: expected value to be a finite number": lambda: pr.delta(None),
    "icdf.* needs a function": lambda: pr.icdf(3),
    "icdf: expected the function to return one finite number": lambda: pr.icdf(lambda u: jnp.ones(2)),
    "icdf: the function raised KeyError": lambda: pr.icdf(lambda u: {}["a"]),
    "'poisson' is discrete": lambda: pr.from_scipy(stats.poisson(3)),
    "Expected a frozen one-dimensional": lambda: pr.from_scipy(stats.norm),
    "use priors.gaussian": lambda: pr.Prior(a=stats.multivariate_normal([0, 0])),
    "expected scalars, got an array": lambda: pr.from_scipy(stats.norm([0, 1])),
    "expected mean \\(2,\\) and cov \\(2, 2\\)": lambda: pr.gaussian(["a", "b"], [0, 0, 0], np.eye(2)),
    "gaussian: mean and cov must be finite": lambda: pr.gaussian(["a"], [0], [[NAN]]),
    "gaussian: cov .* positive definite": lambda: pr.gaussian(["a", "b"], [0, 0], np.ones((2, 2))),
    "gaussian: cov must be symmetric": lambda: pr.gaussian(["a", "b"], [0, 0], [[1, 0.5], [0, 1]]),
    "gaussian: expected a list of names": lambda: pr.gaussian("ab", [0, 0], np.eye(2)),
    "gaussian: duplicate name 'a'": lambda: pr.gaussian(["a", "a"], [0, 0], np.eye(2)),
    "transform: expected the function to return shape": lambda: pr.transform(lambda u: u[:1], ["a", "b"]),
    "transform: the prior transform raised ZeroDivision": lambda: pr.transform(lambda u: 1 / 0, ["a"]),
    "transform: expected at least one name": lambda: pr.transform(lambda u: u, []),
    "joint: expected sample": lambda: pr.joint(["a"], ones(2), sum),
    "joint: .* returned NaN or infinite": lambda: pr.joint(["a"], lambda key, n: np.full((n, 1), NAN), sum),
    "joint: the covariance of the draws must be": lambda: pr.joint(["a"], ones(1), sum),
    "joint: expected log_prob": lambda: pr.joint(["a"], draws, lambda t: t),
    "expected log_prob.* one finite number": lambda: pr.joint(["a"], draws, lambda t: jnp.nan * t[0]),
    "Prior has no free parameter": lambda: pr.Prior(),
    "no free parameter; write": lambda: pr.Prior(a=pr.delta(1)),
    "expected a distribution for a, got 3": lambda: pr.Prior(a=3),
    "a block of parameters takes no name": lambda: pr.Prior(a=pr.gaussian(["b"], [0], [[1]])),
    "a one-dimensional prior needs a name": lambda: pr.Prior(A),
    "expected name=distribution, or blocks": lambda: pr.Prior({"a": A}),
    "duplicate name 'a'": lambda: pr.Prior(pr.gaussian(["a"], [0], [[1]]), a=A),
    "non-empty string, got ''": lambda: pr.Prior(**{"": A}),
    "non-empty string, got ' '": lambda: pr.gaussian([" "], [0], [[1]]),
    "transform= must be a function": lambda: pr.Prior(a=A, transform=A),
    "constraint= must be a function of a dict": lambda: pr.Prior(a=A, constraint=True),
    "to return a dict of parameters, got NoneType": lambda: pr.Prior(a=A, transform=lambda p: None),
    "transform to return a number for 'b'": lambda: pr.Prior(a=A, transform=lambda p: {"b": jnp.ones(2)}),
    "the transform raised KeyError: 'q', at a=": lambda: pr.Prior(a=A, transform=lambda p: {"b": p["q"]}),
    "the constraint raised NameError": lambda: pr.Prior(a=A, constraint=lambda p: undefined),  # noqa: F821
    "constraint.* to return True or False": lambda: pr.Prior(a=A, constraint=lambda p: p["a"]),
}


@pytest.mark.parametrize("message", WRONG)
def test_bad_input(message):
    """Every mistake has a sentence, before anything is computed."""
    with pytest.raises(PriorError, match=message):
        WRONG[message]()


def test_transform_that_drops_a_name_later():
    """Names are fixed when the prior is built."""
    prior = pr.Prior(a=A, transform=lambda p: {"b": 1.0} if float(p["a"]) < 0.999 else {})
    with pytest.raises(PriorError, match="returned no 'b'"):
        prior.theta(np.array([5.0]))
