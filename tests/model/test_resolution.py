"""Double precision everywhere, and what is said where numbers do not resolve a posterior."""

import math
import random
import subprocess
import time
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from precision import enable_x64
from scipy import stats

import fusions
from fusions import kernels
from fusions import priors as pr
from fusions.errors import LikelihoodError, OptionError, PrecisionError, Status
from fusions.model.resolution import coarse, look_inside, refuse_blind, rounded_constants, spacing

SLICE = fusions.nested(n_live=40, kernel=kernels.HitAndRun(), kill=0.5, precision=0.01, cost="cheap")
DAY = fusions.Prior(t0=pr.uniform(2457394, 2457395), depth=pr.uniform(0, 0.1))  # a transit in Julian days
EXACT = math.log(2 * math.pi * 1e-3 * 5e-4 / 0.1)
SQUARE = fusions.Prior(x=pr.uniform(-1, 1), y=pr.uniform(-1, 1))
TIMES = 2457394 + np.linspace(0, 1, 50)
TIMES_SINGLE = jnp.asarray(TIMES, jnp.float32)
DATA_SINGLE = jnp.asarray(1000 + np.sin(np.arange(2000.0)), jnp.float32)


def run(problem, algorithm=SLICE, **options):
    return fusions.run(problem, algorithm, progress=False, **{"refine": False, **options})


def transit(p):
    return -0.5 * ((p["t0"] - 2457394.52207) / 1e-3) ** 2 - 0.5 * ((p["depth"] - 0.0148) / 5e-4) ** 2


def bowl(p):
    return -0.5 * (p["x"] ** 2 + p["y"] ** 2) / 0.01


# Double precision -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("x64", [False, True])
def test_a_black_box_gets_all_digits_and_the_ledger_keeps_them(x64):
    """Each point of the result was asked for as it stands there, and the user's flag and dtypes are left alone."""
    seen = set()

    def likelihood(p):
        seen.add((p["t0"], p["depth"]))
        return transit(p)

    with enable_x64(x64):
        result = run(fusions.Problem(DAY, likelihood, traceable=False))
        assert jax.config.jax_enable_x64 is x64
        assert jnp.zeros(1).dtype == (np.float64 if x64 else np.float32)
    assert all(tuple(row) in seen for row in result.theta)
    assert len({t0 for t0, _ in seen}) > 0.9 * len(seen)
    assert abs(result.logZ - EXACT) < 4 * result.logZ_err


def test_julian_days_traced():
    result = run(fusions.Problem(DAY, transit))
    assert result.info["path"] == "traced"
    assert abs(result.logZ - EXACT) < 4 * result.logZ_err
    expected = [transit({"t0": t0, "depth": depth}) for t0, depth in result.theta]
    np.testing.assert_allclose(result.logL, expected, rtol=1e-5)  # the compiled walk may round t0 otherwise, to the next number


def normals(prior, centres, widths, ranges, log=()):
    """Make a problem of independent normal factors, in the logarithm of some parameters, with its exact ln Z."""
    exact = sum(math.log(w * math.sqrt(2 * math.pi) / r) for w, r in zip(widths, ranges, strict=True))

    def likelihood(p):
        values = [jnp.log(p[name] / c) if name in log else p[name] - c for name, c in zip(prior.names, centres, strict=True)]
        return sum(-0.5 * (value / w) ** 2 for value, w in zip(values, widths, strict=True))

    return prior, likelihood, exact


def gaussian_process():
    """Make a smooth process with little noise, whose covariance float32 can't invert; ln Z by quadrature."""
    x, rng = np.linspace(0, 1, 60), np.random.default_rng(0)
    y = np.sin(5 * x) + 1e-3 * rng.normal(size=60)

    def likelihood(p):
        cov = jnp.exp(-0.5 * ((x[:, None] - x) / p["scale"]) ** 2) + 1e-6 * jnp.eye(60)
        factor = jnp.linalg.cholesky(cov)
        return -0.5 * jnp.sum(jax.scipy.linalg.solve_triangular(factor, y, lower=True) ** 2) - jnp.sum(jnp.log(jnp.diag(factor)))

    with enable_x64(True):  # noqa: FBT003
        grid = np.linspace(0.3, 1.5, 2001)
        logL = np.asarray(jax.vmap(lambda scale: likelihood({"scale": scale}))(grid))
    exact = logL.max() + math.log(np.trapezoid(np.exp(logL - logL.max()), grid) / 1.2)
    return fusions.Prior(scale=pr.uniform(0.3, 1.5)), likelihood, exact


def fixed_epoch():
    """Make a fit of a period with the epoch fixed in Julian days."""
    times = 2457394.52207 + 0.35 * np.arange(20) + 0.01 * np.random.default_rng(1).normal(size=20)
    prior = fusions.Prior(t0=pr.delta(2457394.52207), period=pr.uniform(0.3, 0.4))
    phase, n = times - 2457394.52207, np.arange(20)
    mean, width = (phase @ n) / (n @ n), 0.01 / math.sqrt(n @ n)
    exact = -0.5 * (np.sum(phase**2) - (phase @ n) ** 2 / (n @ n)) / 1e-4 + math.log(width * math.sqrt(2 * math.pi) / 0.1)
    assert 0.3 < mean < 0.4
    return prior, lambda p: -0.5 * jnp.sum(((times - p["t0"] - p["period"] * n) / 0.01) ** 2), exact


REPORTED = {
    "GPS": lambda: normals(fusions.Prior(t=pr.uniform(1126259462.3, 1126259462.5)), [1126259462.42], [2e-3], [0.2]),
    "widths of 1e-10": lambda: normals(fusions.Prior(x=pr.uniform(0, 1), y=pr.uniform(0, 1)), [0.37, 0.62], [1e-10, 1e-10], [1, 1]),
    "tails to -1e16": lambda: normals(fusions.Prior(x=pr.uniform(-1e5, 1e5)), [0.37], [1e-3], [2e5]),
    "erg/s": lambda: normals(fusions.Prior(x=pr.log_uniform(1e42, 1e48)), [3e45], [0.1], [math.log(1e6)], log=("x",)),
    "cm2": lambda: normals(fusions.Prior(x=pr.log_uniform(1e-50, 1e-40)), [3e-46], [0.2], [math.log(1e10)], log=("x",)),
    "a fixed epoch": fixed_epoch,
    "a smooth Gaussian process": gaussian_process,
}


@pytest.mark.parametrize("name", REPORTED)
def test_problems_that_users_of_other_samplers_reported(name):
    prior, likelihood, exact = REPORTED[name]()
    problem = fusions.Problem(prior, likelihood)
    assert problem.traceable
    assert problem.frozen == ""
    result = run(problem, fusions.nested(n_live=100, kernel=kernels.HitAndRun(), kill=0.5, cost="cheap"))
    assert result.status is Status.CONVERGED
    assert abs(result.logZ - exact) < 4 * result.logZ_err


def test_fixed_values_arrive_as_typed():
    prior = fusions.Prior(t0=pr.delta(2457394.52207), period=pr.delta(0.1), x=pr.uniform(0, 1))
    assert prior.theta_rows(np.zeros((1, 1)))[0, :2].tolist() == [2457394.52207, 0.1]


@pytest.mark.parametrize(
    ("prior", "lowest", "highest"),
    [
        (pr.log_uniform(1e42, 1e48), 1e42, 1e48), (pr.log_uniform(1e-50, 1e-40), 1e-50, 1e-40), (pr.uniform(1e40, 2e40), 1e40, 2e40),
        (pr.uniform(0, 1e-44), 0, 1e-44), (pr.normal(2457394.5, 1e-3), 2457394.4, 2457394.6),
        (pr.uniform(1126259462.3, 1126259462.5), 1126259462.3, 1126259462.5), (pr.uniform(1.7e18, 1.7e18 + 1e9), 1.7e18, 1.7e18 + 1e9),
        (pr.uniform(1.4e9, 1.4e9 + 100, periodic=True), 1.4e9, 1.4e9 + 100),
    ],
)  # fmt: skip
def test_draws_in_any_unit_differ(prior, lowest, highest):
    prior = fusions.Prior(a=prior)
    values = prior.theta_rows(prior.sample(0, 1000))
    assert np.all((values >= lowest) & (values <= highest))
    assert len(np.unique(values)) >= 900


def test_single_precision_on_request():
    """It is as it was, but the guard sees a Julian day; the result so far comes along."""
    assert run(fusions.Problem(SQUARE, bowl), precision="single").status is Status.CONVERGED
    with pytest.raises(
        PrecisionError, match=r"spread over no more than .* floating-point numbers in t0: subtract a reference value"
    ) as error:
        run(fusions.Problem(DAY, transit), precision="single")
    assert error.value.result.status is Status.FAILED
    with pytest.raises(OptionError, match='Expected precision of run to be "double" or "single", got 32'):
        run(fusions.Problem(SQUARE, bowl), precision=32)


# The guard --------------------------------------------------------------------------------------------------------


def test_spacing_is_that_of_the_numbers_that_values_can_be():
    values = np.array([2457394.1, 2457394.7])
    assert spacing(values, values[1]) == np.spacing(2457394.7)
    assert spacing(values.astype(np.float32).astype(float), values[1]) == 0.25


def test_the_guard_names_what_is_coarse():
    """Live points as wide as so many spacings: silent from 1000 on, an error below 30."""
    problem, rng = fusions.Problem(DAY, transit), np.random.default_rng(0)
    nothing = look_inside(problem)
    for n_spacings, names in ((1e4, []), (300, ["t0"]), (10, ["t0"])):
        x = rng.normal(scale=n_spacings * np.spacing(2457394.0), size=(500, 2)) / 0.4  # of U(0, 1) in latent coordinates
        x[:, 1] = rng.normal(size=500)
        found = coarse(problem, x, -0.5 * rng.chisquare(2, 500), nothing)
        assert [entry.name for entry in found] == names
        if n_spacings < 30:
            with pytest.raises(PrecisionError, match="in t0: subtract a reference value from it"):
                refuse_blind(found)
        else:
            refuse_blind(found)


@pytest.mark.parametrize(("offset", "warned"), [(-1e12, False), (-1e13, True)])
def test_a_constant_in_the_likelihood(offset, warned):
    """ln Z is right to its claimed error and the rounding of such a number; a warning comes before it matters."""
    problem = fusions.Problem(SQUARE, lambda p: bowl(p) + offset, traceable=False)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = run(problem)
    assert any("in log L: leave a constant out of it" in str(entry.message) for entry in caught) is warned
    assert abs(result.logZ - offset - math.log(2 * math.pi * 0.01 / 4)) < 4 * result.logZ_err + np.spacing(-offset)


def test_too_large_a_constant_is_refused():
    with pytest.raises(PrecisionError, match="in log L: leave a constant out of it") as error:
        run(fusions.Problem(SQUARE, lambda p: bowl(p) - 1e15))
    assert len(error.value.result.logL) >= 40


def line(p):
    return -0.5 * jnp.sum((DATA_SINGLE - 1000 - p["x"] * 1e-3) ** 2) - 1e6


def test_single_precision_data_near_a_large_log_likelihood():
    with pytest.warns(UserWarning, match=r"holds float32 data: their seven digits leave log L = -1.00..e\+06 uncertain by about 0.06"):
        run(fusions.Problem(SQUARE, lambda p: line(p) + bowl(p)))


def test_single_precision_times():
    """log L is small, but times have quarters of a day: the last digits of the data move it by many nats."""

    def likelihood(p):
        return -0.5 * jnp.sum(((TIMES_SINGLE - p["t0"]) / 0.3) ** 2) - 0.5 * (p["depth"] / 0.01) ** 2

    problem = fusions.Problem(DAY, likelihood)
    x, inside = problem.prior.sample(0, 8), look_inside(problem)
    assert (inside.casts, inside.constants) == (False, 1)
    assert "holds float32 data" in rounded_constants(problem, inside, x, np.full(8, -10.0))[0]
    exact = fusions.Problem(DAY, lambda p: -0.5 * jnp.sum(((TIMES - p["t0"]) / 0.3) ** 2))
    assert rounded_constants(exact, look_inside(exact), x, np.full(8, -10.0)) == []


def test_a_likelihood_that_rounds_parameters_on_the_way():
    """A parameter of the run is resolved, but not what the likelihood makes of it: a warning, no error."""
    problem = fusions.Problem(DAY, jax.jit(lambda p: transit({"t0": p["t0"].astype(jnp.float32), "depth": p["depth"]}) * 1.0))
    with pytest.warns(UserWarning, match="float32 numbers, to which the likelihood rounds on the way, in t0: subtract a reference value"):
        run(problem, max_calls=100)
    fine = fusions.Problem(SQUARE, lambda p: bowl(p).astype(jnp.float32).astype(jnp.float64))
    assert coarse(fine, fine.prior.sample(0, 64), -np.arange(64.0), look_inside(fine)) == []


def test_integers_and_derived_constants_are_no_rounding():
    prior = fusions.Prior(
        n=pr.icdf(lambda u: jnp.floor(2457000 + 10 * u)), a=pr.uniform(1, 2), huge=pr.log_uniform(1e190, 1e200),
        transform=lambda p: {"one": p["a"] / (p["a"] + 1) + 1 / (p["a"] + 1)},
    )  # fmt: skip
    problem = fusions.Problem(prior, lambda p: -p["a"])
    assert coarse(problem, prior.sample(0, 64), -1e6 - np.arange(64.0), look_inside(problem)) == []


def test_a_narrow_posterior_in_one_dimension_is_no_error():
    """At the end live points are a hundredth as wide as the posterior, which numbers resolve well."""
    start, width = 2457394.0, 1000 * np.spacing(2457394.0)
    prior = fusions.Prior(t=pr.uniform(start, start + 1))
    result = run(fusions.Problem(prior, lambda p: -0.5 * ((p["t"] - start - 0.4) / width) ** 2))
    assert abs(result.logZ - math.log(width * math.sqrt(2 * math.pi))) < 4 * result.logZ_err


def test_data_in_a_compiled_function_are_seen():
    nested = fusions.Problem(DAY, lambda p: inside_jit(p["t0"]))
    x = nested.prior.sample(0, 8)
    assert "holds float32 data" in rounded_constants(nested, look_inside(nested), x, np.full(8, -10.0))[0]


@jax.jit
def inside_jit(t0):
    return -0.5 * jnp.sum(((TIMES_SINGLE - t0) / 0.3) ** 2)


# Functions that must not be traced --------------------------------------------------------------------------------


def by_text_of_parameters(p):
    out = subprocess.run(["awk", "{print -0.5*($1^2+$2^2)/0.01}"], input=f"{p['x']} {p['y']}\n", capture_output=True, text=True, check=True)
    return float(out.stdout)


def stale_file(path):
    def likelihood(p):
        try:
            value = float(bowl(p))
        except Exception:
            return float(path.read_text())
        path.write_text(str(value))
        return value

    return likelihood


def bare_except(p):
    try:
        return float(bowl(p))
    except Exception:
        return -1e10


def minus_infinity(p):
    try:
        return math.fsum([bowl(p)])
    except TypeError:
        return -math.inf


def guarded(p):
    return bowl(p) if isinstance(p["x"], float) else -1e10


def clocked(p):
    return bowl(p) + 1e-3 * time.perf_counter()


def noisy(p):
    return bowl(p) + random.random()


def noisy_numpy(p):
    return bowl(p) + np.random.default_rng().normal()


class Counter:
    """A likelihood with a state that changes its value."""

    n = 0

    def __call__(self, p):
        self.n += 1
        return bowl(p) * (1 + 0.01 * self.n)


def impure(path):
    path.write_text("-123")
    functions = (
        by_text_of_parameters, stale_file(path), bare_except, minus_infinity, guarded, clocked, noisy, noisy_numpy, Counter(),
        lambda p: float(f"{p['x']}".startswith("-")) if isinstance(p["x"], float) else 0.5,
    )  # fmt: skip
    return list(functions)


def test_functions_that_do_more_than_arithmetic_are_found_out(tmp_path):
    for likelihood in impure(tmp_path / "out"):
        problem = fusions.Problem(SQUARE, likelihood)
        assert problem.traceable
        assert problem.frozen.startswith("JAX does not compile what this likelihood does: at x=")


def test_an_external_program_is_a_black_box():
    problem = fusions.Problem(SQUARE, bare_except)
    with pytest.warns(UserWarning, match="at x=.*, and -1e.10 when compiled by JAX.* It is called as a black box"):
        result = run(problem)
    assert result.info["path"] == "hosted"
    assert abs(result.logZ - math.log(2 * math.pi * 0.01 / 4)) < 4 * result.logZ_err


def test_traceable_by_order_is_a_warning_alone():
    with pytest.warns(UserWarning, match="It is compiled all the same, because of traceable=True"):
        assert run(fusions.Problem(SQUARE, guarded, traceable=True), max_calls=60).info["path"] == "traced"


def test_declared_noise_is_a_black_box_without_a_word():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert run(fusions.Problem(SQUARE, noisy, noisy=True), max_calls=60).info["path"] == "hosted"


def test_a_loop_that_double_precision_breaks_is_named():
    carry = jnp.zeros((), jnp.float32)
    with pytest.warns(UserWarning, match="traces the likelihood in single precision, but not in double"):
        problem = fusions.Problem(SQUARE, lambda p: jax.lax.scan(lambda c, _: (c + p["x"], None), carry, None, length=3)[0])
    assert not problem.traceable


def test_noise_is_refused_as_in_a_black_box():
    with pytest.warns(UserWarning, match="when called again"), pytest.raises(LikelihoodError, match="not deterministic"):
        run(fusions.Problem(SQUARE, noisy))


@pytest.mark.parametrize(
    "likelihood",
    [
        bowl, lambda p: -0.5 * jnp.sum(jnp.stack([p["x"], p["y"]]) ** 2) / 0.01, lambda p: 0.0 * p["x"],
        lambda p: jnp.where(p["x"] < 0, -jnp.inf, bowl(p)), lambda p: (p["x"] + 2.0) ** 0.5, jax.jit(bowl),
        lambda p: p["x"].astype(jnp.float32) * 1e6, lambda p: -0.5 * jnp.sum(((TIMES_SINGLE - p["x"]) / 0.3) ** 2),
        lambda p: jnp.where(~(p["x"] < p["y"]), bowl(p), -jnp.inf), lambda p: jnp.log(p["x"]),
        lambda p: jnp.asarray(p["x"]).at[()].add(p["y"]),
    ],
)  # fmt: skip
def test_functions_of_jax_are_compiled(likelihood):
    problem = fusions.Problem(SQUARE, likelihood)
    assert problem.traceable
    assert problem.frozen == ""


# Plateaus ---------------------------------------------------------------------------------------------------------


def test_a_floor_is_no_plateau():
    def likelihood(p):
        return -1e300 if abs(p["x"] - 0.6) > 1e-7 else bowl(p)

    for value in (likelihood, lambda p: -1e30):
        with pytest.raises(LikelihoodError, match=r"log L = -1e\+30.*, which looks like a stand-in for -inf, at all of them"):
            run(fusions.Problem(SQUARE, value, traceable=False))


def test_a_constant_likelihood_says_so():
    with pytest.warns(UserWarning, match="seems to be constant: log L = -3 at all 800 draws"):
        assert run(fusions.Problem(SQUARE, lambda p: -3.0)).logZ == pytest.approx(-3, abs=1e-12)


def test_of_several_floors_the_highest_counts():
    """What is above all stand-ins for zero likelihood is found, and its volume is right."""

    def likelihood(p):
        return -1e30 * (p["x"] < 0.9) - 1e30 * (p["y"] < 0) + bowl({"x": (p["x"] - 0.95) * 10, "y": p["y"] - 0.5})

    result = run(fusions.Problem(SQUARE, likelihood), key=1)
    edges = np.array([[-0.5, 0.5], [-5, 5]])
    exact = math.log(2 * math.pi * 0.001 * np.prod(np.diff(stats.norm.cdf(edges * [[10], [1]]), axis=1)) / 4)
    assert abs(result.logZ - exact) < 4 * result.logZ_err


def test_what_is_rare_among_the_first_draws_is_looked_for():
    """One in a hundred draws is above the first value: it takes more draws, and volumes stay right."""
    problem = fusions.Problem(SQUARE, lambda p: 10.0 if p["x"] > 0.98 else 0.0, traceable=False)
    result = run(problem, fusions.nested(n_live=40, kernel=kernels.HitAndRun()), key=1)
    assert abs(result.logZ - math.log(0.99 + 0.01 * math.exp(10))) < 4 * result.logZ_err


def test_a_floor_of_any_depth_leaves_the_evidence_and_the_table_clean():
    """Half of the prior has a stand-in for -inf: no warning of NumPy, a number in each row of the table, and the right volume."""

    def likelihood(p):
        return -1e250 if p["x"] < 0 else bowl({"x": p["x"] - 0.5, "y": p["y"]})

    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        result = run(fusions.Problem(SQUARE, likelihood, traceable=False))
        table = str(result)
    assert abs(result.logZ - math.log(2 * math.pi * 0.01 / 4)) < 4 * result.logZ_err
    assert "unknown" not in table
    assert "return -inf" in table
    assert "a plateau" not in table


# Degenerate parameters --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("traceable", [True, False])
def test_a_sum_of_three_parameters_alone_is_measured(traceable):
    """The posterior is a sheet, 1e-5 of the prior thick: no plateau, and the evidence by convolution of the three uniform priors."""
    prior = fusions.Prior(a=pr.uniform(0, 1), b=pr.uniform(0, 1), c=pr.uniform(0, 1))
    problem = fusions.Problem(prior, lambda p: -0.5 * ((p["a"] + p["b"] + p["c"] - 1.5) / 1e-5) ** 2, traceable=traceable)
    result = run(problem, fusions.nested(n_live=100, kernel=kernels.HitAndRun(), kill=0.5, cost="cheap"))
    assert result.status is Status.CONVERGED
    assert abs(result.logZ - math.log(0.75 * 1e-5 * math.sqrt(2 * math.pi))) < 4 * result.logZ_err  # the density of the sum at 1.5 is 3/4
