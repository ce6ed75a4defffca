"""Problems from numpyro models: densities against numpyro's own, refusals, eight schools."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from precision import enable_x64
from scipy import integrate, stats
from scipy.stats import ks_2samp

import fusions
from fusions import kernels

numpyro = pytest.importorskip("numpyro", reason="numpyro is not installed")
import numpyro.distributions as dist  # noqa: E402
from numpyro import handlers  # noqa: E402
from numpyro.infer.util import log_density  # noqa: E402

EFFECTS = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])  # Rubin (1981), J. Educ. Stat. 6, 377
ERRORS = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])


def eight_schools(errors, effects=None):
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    tau = numpyro.sample("tau", dist.HalfCauchy(5))
    with numpyro.plate("schools", len(errors)):
        theta = numpyro.sample("theta", dist.Normal(mu, tau))
        numpyro.sample("effects", dist.Normal(theta, errors), obs=effects)
    numpyro.deterministic("ratio", tau / jnp.mean(errors))


def eight_schools_logZ():
    """Compute ln Z by quadrature over mu and ln tau; each theta is integrated in closed form."""

    def integrand(mu, log_tau):
        tau = math.exp(log_tau)
        variance = ERRORS**2 + tau**2
        log_likelihood = -0.5 * np.sum((EFFECTS - mu) ** 2 / variance + np.log(2 * math.pi * variance))
        log_prior = -mu * mu / 50 - 0.5 * math.log(50 * math.pi) + math.log(2 / (5 * math.pi)) - math.log1p((tau / 5) ** 2) + log_tau
        return math.exp(log_likelihood + log_prior + 30)

    value, _ = integrate.dblquad(integrand, -20, 20, -20, 20, epsabs=0, epsrel=1e-5)
    return math.log(value) - 30


def test_eight_schools_has_its_exact_evidence():
    problem = fusions.from_numpyro(eight_schools, ERRORS, effects=EFFECTS)
    assert problem.traceable
    assert problem.prior.names == ("mu", "tau", *(f"theta[{i}]" for i in range(8)))
    assert problem.blobs == ("ratio",)
    result = fusions.run(problem, fusions.nested(200, kernel=fusions.kernels.HitAndRun()), key=0, refine=False, progress=False)
    assert result.logZ == pytest.approx(eight_schools_logZ(), abs=3 * result.logZ_err)
    columns = dict(zip(result.names, result.theta.T, strict=True))
    assert columns["ratio"] == pytest.approx(columns["tau"] / ERRORS.mean(), rel=1e-5)


def scalars(n):
    """Use a site of each kind: maps of normals, inverse cdfs, densities, circles, dependent ones, plates, a factor and data of n points."""
    a = numpyro.sample("a", dist.Normal(1, 2))
    b = numpyro.sample("b", dist.Uniform(a, a + 3))
    c = numpyro.sample("c", dist.HalfNormal(2))
    d = numpyro.sample("d", dist.Exponential(1 + c))
    e = numpyro.sample("e", dist.Cauchy(0, 1))
    numpyro.sample("l", dist.HalfCauchy(2))
    f = numpyro.sample("f", dist.LogNormal(0, 0.5))
    g = numpyro.sample("g", dist.Gamma(2 + d, 3))
    h = numpyro.sample("h", dist.Beta(2, 3))
    numpyro.sample("i", dist.StudentT(4, a, 1))
    numpyro.sample("j", dist.VonMises(0.5, 2))
    numpyro.sample("k", dist.TruncatedNormal(0, 1, low=-1, high=2))
    numpyro.sample("m", dist.Uniform(0, 4), infer={"periodic": True})
    with numpyro.plate("p", 2), numpyro.plate("q", 3):
        numpyro.sample("n", dist.Normal(g, h))
    numpyro.sample("o", dist.MultivariateNormal(jnp.zeros(2), jnp.array([[2.0, 0.5], [0.5, 1.0]])))
    numpyro.sample("s", dist.Normal(jnp.zeros(2), f).to_event(1))
    numpyro.factor("penalty", -(b**2))
    with numpyro.plate("data", n):
        numpyro.sample("y", dist.Normal(e, 1), obs=jnp.linspace(0, 1, n))


def values_of(problem, theta, model, *args):
    """Return {site: value} of a vector of parameters (k,)."""
    sites = handlers.trace(handlers.seed(model, 0)).get_trace(*args)
    latents = {k: s for k, s in sites.items() if s["type"] == "sample" and not s["is_observed"]}
    out, start = {}, 0
    for name, site in latents.items():
        size = math.prod(site["value"].shape)
        out[name] = theta[start : start + size].reshape(site["value"].shape)
        start += size
    assert start == len(problem.prior.names)
    return out


def test_times_keep_their_digits_and_the_flag_stays():
    """A Julian day and its data in NumPy: parameters and log L are those of float64, with x64 off outside of the run."""

    def transit(data):
        t0 = numpyro.sample("t0", dist.Uniform(2457394.0, 2457395.0))
        numpyro.sample("obs", dist.Normal(t0, 1e-4), obs=data)

    data = 2457394.52207 + 1e-4 * np.random.default_rng(0).normal(size=5)
    problem, flag = fusions.from_numpyro(transit, data), jax.config.jax_enable_x64
    result = fusions.run(problem, fusions.nested(n_live=40, kernel=kernels.HitAndRun(), kill=0.5), refine=False, progress=False)
    assert jax.config.jax_enable_x64 is flag
    assert jnp.zeros(1).dtype == (np.float64 if flag else np.float32)
    expected = stats.norm.logpdf(data, result.theta, 1e-4).sum(axis=1)
    np.testing.assert_allclose(result.logL, expected, rtol=1e-5, atol=1e-3)
    exact = -5 * np.log(1e-4 * np.sqrt(2 * np.pi)) - 0.5 * 5 * data.var() / 1e-8 + np.log(1e-4 * np.sqrt(2 * np.pi / 5))
    assert abs(result.logZ - exact) < 4 * result.logZ_err


def test_prior_times_likelihood_is_the_joint_density_of_numpyro():
    """log p(x) + log L = log joint(theta) + log |d theta / d x|, in float64."""
    with enable_x64(True):  # noqa: FBT003
        problem = fusions.from_numpyro(scalars, 5)
        prior = problem.prior

        def both(x):
            theta = prior.theta(x)
            joint, _ = log_density(scalars, (5,), {}, values_of(problem, theta, scalars, 5))
            return prior.log_prob(x) + problem.call_one(theta)[0], joint + jnp.linalg.slogdet(jax.jacfwd(prior.theta)(x))[1]

        ours, theirs = jax.jit(jax.vmap(both))(jax.random.normal(jax.random.key(0), (20, prior.dim)))
        assert np.all(np.isfinite(theirs))
        assert np.asarray(ours) == pytest.approx(np.asarray(theirs), abs=1e-8)


def test_draws_of_the_prior_are_those_of_the_model():
    """Internal draws, mapped to parameters, have the distribution of the model's own draws (Kolmogorov-Smirnov, one in a thousand)."""

    def model():
        rate = numpyro.sample("rate", dist.Gamma(2, 3))
        numpyro.sample("angle", dist.VonMises(0.5, 2))
        numpyro.sample("phase", dist.Uniform(0, 4), infer={"periodic": True})
        numpyro.sample("time", dist.Exponential(rate))

    n, problem = 4000, fusions.from_numpyro(model)
    ours = problem.prior.theta_rows(problem.prior.sample(jax.random.key(0), n))
    seeded = jax.vmap(lambda key: handlers.trace(handlers.seed(model, key)).get_trace()["time"]["value"])
    rng = np.random.default_rng(0)
    theirs = (
        rng.gamma(2, 1 / 3, n),
        rng.vonmises(0.5, 2, n),
        rng.uniform(0, 4, n),
        jax.jit(seeded)(jax.random.split(jax.random.key(1), n)),
    )
    for name, one, other in zip(problem.prior.names, ours.T, theirs, strict=True):
        assert ks_2samp(one, np.asarray(other)).pvalue > 1e-3, name


def test_sites_of_other_dimension_than_their_coordinates():
    """A simplex of two parts has one coordinate, whose density integrates to one; a Cholesky factor is reported with its zeros."""
    problem = fusions.from_numpyro(lambda: numpyro.sample("part", dist.Dirichlet(jnp.array([2.0, 3.0]))))
    assert (problem.prior.dim, problem.prior.names) == (1, ("part[0]", "part[1]"))
    grid = np.linspace(-12, 12, 481)
    density = np.exp(np.asarray(jax.jit(jax.vmap(problem.prior.log_prob))(grid[:, None])))
    assert density.sum() * (grid[1] - grid[0]) == pytest.approx(1, abs=1e-4)
    mean = density @ problem.prior.theta_rows(grid[:, None])[:, 0] * (grid[1] - grid[0])
    assert mean == pytest.approx(0.4, abs=1e-4)
    factor = fusions.from_numpyro(lambda: numpyro.sample("chol", dist.LKJCholesky(2, 1.5)))
    assert (factor.prior.dim, factor.prior.names) == (1, ("chol[0,0]", "chol[0,1]", "chol[1,0]", "chol[1,1]"))


def test_both_tails_survive_in_float32():
    """Seven standard deviations out the maps still tell neighbours apart and stay in the support."""

    def model():
        numpyro.sample("u", dist.Uniform(0, 1))
        numpyro.sample("n", dist.Normal(0, 1))
        numpyro.sample("t", dist.HalfCauchy(1))

    u, n, t = fusions.from_numpyro(model).prior.theta_rows(np.array([[-7.0, 7.0, 7.0], [-7.1, 7.1, 7.1], [-7.1, 7.1, -7.1]])).T
    assert u[0] > u[1] > 0
    assert n[1] - n[0] == pytest.approx(0.1, rel=1e-4)
    tail = 6.2378e-13  # probability beyond 7.1 standard deviations
    assert t[1] > t[0] > 0
    assert (t[1] * tail, t[2] / tail) == (pytest.approx(2 / math.pi, rel=1e-3), pytest.approx(math.pi / 2, rel=1e-3))


def test_other_prior_is_another_run():
    """A prior without an inverse cdf shows in the map by nothing but its name, so its parameters must enter the identity of a run."""

    def model(shape):
        numpyro.factor("f", numpyro.sample("x", dist.Gamma(shape, 1)))

    one, other, again = (fusions.from_numpyro(model, shape).fingerprint() for shape in (2.0, 3.0, 2.0))
    assert one == again
    assert one != other


def discrete():
    numpyro.sample("z", dist.Bernoulli(0.5))


def subsampled():
    a = numpyro.sample("a", dist.Normal(0, 1))
    with numpyro.plate("data", 10, subsample_size=3):
        numpyro.sample("y", dist.Normal(a, 1), obs=jnp.zeros(3))


def improper():
    numpyro.sample("a", dist.ImproperUniform(dist.constraints.real, (), ()))


def parameter():
    numpyro.sample("a", dist.Normal(numpyro.param("centre", 0.0), 1))


def masked():
    numpyro.sample("a", dist.Normal(0, 1).mask(mask=False))


def scaled():
    with handlers.scale(scale=2.0):
        numpyro.sample("a", dist.Normal(0, 1))


def empty():
    numpyro.sample("y", dist.Normal(0, 1), obs=0.0)


def fixed():
    numpyro.sample("a", dist.Delta(1.0))


def false_circle():
    numpyro.sample("a", dist.Normal(0, 1), infer={"periodic": True})


def scanned():
    from numpyro.contrib.control_flow import scan

    scan(lambda carry, _: (numpyro.sample("step", dist.Normal(carry, 1)), None), 0.0, None, length=3)


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (discrete, "'z' is discrete .*Sum over its values"),
        (subsampled, "plate 'data' takes 3 of 10 at random.*Leave subsample_size out"),
        (improper, "'a' has an improper prior.*Give it a proper one"),
        (parameter, r"numpyro.param\('centre'\), which has no prior"),
        (masked, "'a' is masked or scaled"),
        (scaled, "'a' is masked or scaled"),
        (empty, "no latent site"),
        (fixed, r"'a' is a Delta.*numpyro.deterministic\('a', value\)"),
        (false_circle, r"'a' can't be periodic: expected dist.Uniform or dist.VonMises, got Normal"),
        (scanned, "'step' stands in a scan"),
    ],
)
def test_refusals_say_what_to_do(model, text):
    with pytest.raises(fusions.FusionsError, match=text):
        fusions.from_numpyro(model)


def test_missing_package_is_named(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "fusions.adapters.numpyro", None)
    monkeypatch.delitem(sys.modules, "fusions.adapters.numpyro")
    monkeypatch.setitem(sys.modules, "numpyro", None)
    with pytest.raises(ModuleNotFoundError, match=r'Type pip install "fusions\[numpyro\]"'):
        fusions.from_numpyro(discrete)


def test_other_observations_of_a_kind_compile_nothing():
    """They are data of the problem, unless a prior depends on them."""

    def model(x, y):
        slope = numpyro.sample("slope", dist.Normal(0, 10))
        numpyro.sample("y", dist.Normal(slope * x, 1.0), obs=y)

    def scaled(x, y):
        slope = numpyro.sample("slope", dist.Normal(0, jnp.max(x)))
        numpyro.sample("y", dist.Normal(slope * x, 1.0), obs=y)

    x = np.linspace(1, 2, 5)
    one, other = (fusions.from_numpyro(model, x, y) for y in (x, 3 * x))
    assert len(one.arrays) == 2
    assert one != other
    assert one.form() == other.form()
    assert one.program() == other.program()
    assert fusions.from_numpyro(model, 2 * x, x).form() == one.form()
    assert fusions.from_numpyro(scaled, 2 * x, x).form() != fusions.from_numpyro(scaled, x, x).form()
    assert fusions.from_numpyro(scaled, x, 2 * x).form() == fusions.from_numpyro(scaled, x, x).form()
    assert other.call_rows([[3.0]])[0] - one.call_rows([[1.0]])[0] == pytest.approx(0)
