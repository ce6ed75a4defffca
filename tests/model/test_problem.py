"""Problem: every form of likelihood, names, fingerprint and bad input."""

import decimal
import math
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pandas
import pytest

from fusions import priors as pr
from fusions.errors import LikelihoodError, ProblemError
from fusions.model.problem import Problem

PRIOR = pr.Prior(m=pr.uniform(-5, 5), c=pr.normal(0, 1))
THETA = np.array([[1.0, 2.0], [0.5, -1.0], [-3.0, 0.25]])
LOGL = -0.5 * (THETA[:, 0] - THETA[:, 1]) ** 2
BLOBS = np.stack([THETA.sum(axis=1), THETA[:, 0] * 2], axis=1)


def value(m, c):
    """Return log L, as arithmetic that JAX, NumPy and Python share."""
    return -0.5 * (m - c) ** 2


def square(x):
    """Return x^2 of a Python float, which JAX can't trace."""
    return math.pow(x, 2)


FORMS = {
    "traced": (lambda p: value(p["m"], p["c"]), {}, True),
    "traced_array": (lambda t: value(t[0], t[1]), {"array": True}, True),
    "traced_blobs": (
        lambda p: (value(p["m"], p["c"]), [p["m"] + p["c"], 2 * p["m"]]), {"blobs": ["s", "d"]}, True,
    ),
    "traced_blob_array": (
        lambda t: (value(t[0], t[1]), jnp.stack([t.sum(), 2 * t[0]])),
        {"blobs": ("s", "d"), "array": True}, True,
    ),
    "traced_blob_dict": (
        lambda p: (value(p["m"], p["c"]), {"d": 2 * p["m"], "s": p["m"] + p["c"]}),
        {"blobs": ["s", "d"]}, True,
    ),
    "forced_to_host": (lambda p: value(p["m"], p["c"]), {"traceable": False}, False),
    "python": (lambda p: -0.5 * square(p["m"] - p["c"]), {}, False),
    "python_array": (lambda t: -0.5 * square(t[0] - t[1]), {"array": True}, False),
    "python_blobs": (
        lambda p: (-0.5 * square(p["m"] - p["c"]), (p["m"] + p["c"], 2 * p["m"])),
        {"blobs": ["s", "d"]}, False,
    ),
    "python_blob_dict": (
        lambda p: (-0.5 * square(p["m"] - p["c"]), {"d": 2 * p["m"], "s": p["m"] + p["c"]}),
        {"blobs": ["s", "d"]}, False,
    ),
    "vectorized": (lambda p: value(p["m"], p["c"]), {"vectorized": True}, False),
    "vectorized_array": (lambda t: value(t[:, 0], t[:, 1]), {"vectorized": True, "array": True}, False),
    "vectorized_blobs": (
        lambda t: (value(t[:, 0], t[:, 1]), np.stack([t.sum(axis=1), 2 * t[:, 0]], axis=1)),
        {"vectorized": True, "array": True, "blobs": ["s", "d"]}, False,
    ),
    "vectorized_blob_dict": (
        lambda p: (value(p["m"], p["c"]), {"s": p["m"] + p["c"], "d": 2 * p["m"]}),
        {"vectorized": True, "blobs": ["s", "d"]}, False,
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_numbers(form):
    """Traced or hosted, dict or array, one or many, with and without blobs."""
    function, options, traceable = FORMS[form]
    problem = Problem(PRIOR, function, **options)
    assert problem.traceable is traceable
    assert problem.names == ("m", "c", *options.get("blobs", ()))
    assert problem.n_blobs == len(problem.blobs)
    logL, blobs = problem.call_rows(THETA)
    assert logL.dtype == blobs.dtype == np.float64
    np.testing.assert_allclose(logL, LOGL, rtol=1e-6)
    np.testing.assert_allclose(blobs, BLOBS[:, : problem.n_blobs], rtol=1e-6)
    empty = problem.call_rows(THETA[:0])
    assert (empty[0].shape, empty[1].shape) == ((0,), (0, problem.n_blobs))
    if traceable:
        logL, blobs = jax.jit(jax.vmap(problem.call_one))(jnp.asarray(THETA))
        assert logL.dtype == blobs.dtype == jnp.zeros(1).dtype
        np.testing.assert_allclose(logL, LOGL, rtol=1e-6)
        np.testing.assert_allclose(blobs, BLOBS[:, : problem.n_blobs], rtol=1e-6)


def test_integer_and_exotic_numbers_are_accepted():
    """A constant 0, a NumPy scalar and a 0-d array are log-likelihoods."""
    for result in (0, np.float32(0), np.zeros(()), jnp.zeros(())):
        problem = Problem(PRIOR, lambda p, result=result: result)
        np.testing.assert_array_equal(problem.call_rows(THETA)[0], 0)
        assert float(problem.call_one(jnp.zeros(2))[0]) == 0


ALONE = {
    "array": lambda v: np.reshape(v, 1),
    "array of two axes": lambda v: np.reshape(v, (1, 1)),
    "list": lambda v: [v],
    "tuple": lambda v: (v,),
    "list of an array": lambda v: [np.reshape(v, 1)],
    "Series": lambda v: pandas.Series([v]),
    "jax": lambda v: jnp.reshape(jnp.asarray(v), (1,)),
    "object": lambda v: np.array([decimal.Decimal(v)], dtype=object),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("form", ALONE)
def test_numbers_in_arrays_of_one_are_accepted(form):
    """As dynesty and emcee accept them, for log L and for blobs."""
    wrap = ALONE[form]
    problem = Problem(PRIOR, lambda p: wrap(float(p["m"])), traceable=False)
    np.testing.assert_allclose(problem.call_rows(THETA)[0], THETA[:, 0])
    one = Problem(PRIOR, lambda p: (wrap(float(p["m"])), wrap(float(p["c"]))), blobs=["b"], traceable=False)
    two = Problem(PRIOR, lambda p: (wrap(float(p["m"])), [wrap(float(p["c"])), 1.0]), blobs=["b", "one"], traceable=False)
    for logL, blobs in (one.call_rows(THETA), two.call_rows(THETA)):
        np.testing.assert_allclose(logL, THETA[:, 0])
        np.testing.assert_allclose(blobs[:, 0], THETA[:, 1])


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_traced_numbers_in_arrays_of_one_are_accepted(shape):
    problem = Problem(PRIOR, lambda p: (jnp.reshape(p["m"], shape), jnp.reshape(p["c"], shape)), blobs=["b"], traceable=True)
    logL, blobs = jax.jit(jax.vmap(problem.call_one))(jnp.asarray(THETA))
    np.testing.assert_allclose(logL, THETA[:, 0], rtol=1e-6)
    np.testing.assert_allclose(blobs, THETA[:, 1:], rtol=1e-6)


def test_single_blob_may_be_a_number():
    """Alone beside log L, or as a column of a batch."""
    problem = Problem(PRIOR, lambda p: (p["m"], p["c"]), blobs=["b"])
    assert problem.traceable
    batch = Problem(PRIOR, lambda p: (p["m"], p["c"]), blobs=["b"], vectorized=True)
    for logL, blobs in (problem.call_rows(THETA), batch.call_rows(THETA)):
        np.testing.assert_allclose(logL, THETA[:, 0])
        np.testing.assert_allclose(blobs, THETA[:, 1:])


def test_space_describes_the_prior():
    """The log density works on rows, inside jit."""
    prior = pr.Prior(a=pr.uniform(0, 1, periodic=True), b=pr.normal(0, 1))
    space = Problem(prior, lambda p: p["b"]).space()
    assert (space.dim, space.periodic, space.n_blobs) == (2, (True, False), 0)
    x = prior.sample(0, 5)
    np.testing.assert_allclose(jax.jit(space.logprior)(x), [prior.log_prob(row) for row in x], rtol=1e-6)


def test_space_renormalises_a_constrained_prior():
    """A third is allowed: its density is three times as high there, up to the error of the fraction."""
    prior = pr.Prior(a=pr.uniform(0, 3), constraint=lambda p: p["a"] < 1)
    problem = Problem(prior, lambda p: p["a"])
    x = prior.sample(0, 5)
    gain = problem.space().logprior(x) - jax.vmap(prior.log_prob)(x)
    np.testing.assert_allclose(gain, math.log(3), atol=4 * problem.constraint_logmass[1])


def test_hosted_prior_makes_a_hosted_problem():
    """A transform in plain Python can't go inside jit."""
    prior = pr.Prior(a=pr.normal(0, 1), transform=lambda p: {"e": math.exp(p["a"])})
    problem = Problem(prior, lambda p: p["e"])
    assert not problem.traceable
    np.testing.assert_allclose(problem.call_rows(prior.theta_rows(np.zeros((2, 1))))[0], [1, 1])
    assert np.isfinite(problem.space().logprior(np.zeros((2, 1)))).all()


def test_user_arrays_are_not_shared():
    """A likelihood that writes into its argument doesn't change the caller's array."""

    def likelihood(theta):
        theta *= 0
        return float(theta.sum())

    for vectorized in (False, True):
        theta = THETA.copy()
        function = (lambda t: np.zeros(len(t)) * likelihood(t)) if vectorized else likelihood
        Problem(PRIOR, function, array=True, vectorized=vectorized, traceable=False).call_rows(theta)
        np.testing.assert_array_equal(theta, THETA)


def module_likelihood(p):
    """Return log L from a module-level function, which can be pickled."""
    return math.sin(p["m"])


def test_problem_of_module_functions_can_be_pickled():
    """Process pools may send it to a worker."""
    problem = pickle.loads(pickle.dumps(Problem(PRIOR, module_likelihood)))
    np.testing.assert_allclose(problem.call_rows(THETA)[0], np.sin(THETA[:, 0]))


def test_fingerprint_knows_prior_names_and_labels():
    """Equal for a problem typed again; different if anything stored depends on the change."""

    def fingerprint(prior=None, **options):
        prior = prior or pr.Prior(m=pr.uniform(-5, 5), c=pr.normal(0, 1))
        return Problem(prior, lambda p: -(p["m"] ** 2), **options).fingerprint()

    base = fingerprint()
    assert base == fingerprint()
    assert len(base) == 64
    others = [
        fingerprint(pr.Prior(m=pr.uniform(-5, 6), c=pr.normal(0, 1))),
        fingerprint(pr.Prior(m=pr.uniform(-5, 5, periodic=True), c=pr.normal(0, 1))),
        fingerprint(pr.Prior(c=pr.normal(0, 1), m=pr.uniform(-5, 5))),
        fingerprint(pr.Prior(m=pr.uniform(-5, 5), d=pr.normal(0, 1))),
        fingerprint(pr.Prior(m=pr.uniform(-5, 5), c=pr.icdf(lambda u: u))),
        fingerprint(pr.Prior(m=pr.uniform(-5, 5), c=pr.icdf(lambda u: 2 * u))),
        fingerprint(labels={"m": r"\mu"}),
    ]
    assert len({base, *others}) == 8


def test_labels_and_settings_are_kept():
    """Labels are optional, for some of the names, blobs included."""
    labels = {"m": r"\mu", "b": "B"}
    problem = Problem(PRIOR, lambda p: (p["m"], [1.0]), labels=labels, blobs=["b"], noisy=True)
    assert problem.labels == labels
    assert problem.noisy
    assert Problem(PRIOR, lambda p: p["m"]).labels == {}
    assert {problem: 1}[problem] == 1


WRONG = {
    "expected a Prior, got uniform\\(0, 1\\)": lambda: Problem(pr.uniform(0, 1), value),
    "expected a Prior, got \\{": lambda: Problem({"m": 1}, value),
    "expected loglikelihood to be a function, got 3": lambda: Problem(PRIOR, 3),
    "expected a list of names such as": lambda: Problem(PRIOR, value, blobs="b"),
    "blobs: duplicate name 'b'": lambda: Problem(PRIOR, value, blobs=["b", "b"]),
    "non-empty string, got ''": lambda: Problem(PRIOR, value, blobs=[""]),
    "the blob 'm' has the name of a parameter": lambda: Problem(PRIOR, value, blobs=["m"]),
    "the name 'logL' is reserved": lambda: Problem(PRIOR, value, blobs=["logL"]),
    "label for 'q' fits no name; .* \\['m', 'c'\\]": lambda: Problem(PRIOR, value, labels={"q": "Q"}),
    "expected labels to be a dict": lambda: Problem(PRIOR, value, labels=["m"]),
    "traceable=True is impossible because a vectorized": lambda: Problem(PRIOR, value, vectorized=True, traceable=True),
    "traceable=True is impossible because its prior": lambda: Problem(pr.Prior(a=pr.icdf(lambda u: math.sqrt(u))), value, traceable=True),
    "traceable=True, but tracing raised": lambda: Problem(PRIOR, module_likelihood, traceable=True),
    "log L to have shape \\(\\), got shape \\(3,\\); sum over the data": lambda: Problem(PRIOR, lambda p: p["m"] * jnp.ones(3)),
    "log L to be real, got complex": lambda: Problem(PRIOR, lambda p: p["m"] * 1j),
    "the likelihood returned None": lambda: Problem(PRIOR, lambda p: None),
    "returned a tuple of 2, expected log L alone": lambda: Problem(PRIOR, lambda p: (p["m"], p["c"])),
    "to return \\(logL, blobs\\).* got ": lambda: Problem(PRIOR, lambda p: p["m"], blobs=["b"]),
    "expected 2 blobs \\['a', 'b'\\], got shape \\(1,\\)": lambda: Problem(PRIOR, lambda p: (p["m"], [p["c"]]), blobs=["a", "b"]),
    "blobs with the keys \\['b'\\], got \\['a'\\]": lambda: Problem(PRIOR, lambda p: (p["m"], {"a": p["c"]}), blobs=["b"]),
    "the blob 'b' to have shape \\(\\)": lambda: Problem(PRIOR, lambda p: (p["m"], [jnp.ones(2)]), blobs=["b"]),
    "the blob 'b' to be real": lambda: Problem(PRIOR, lambda p: (p["m"], [1j * p["m"]]), blobs=["b"]),
    "log L to be a number, got .*bool": lambda: Problem(PRIOR, lambda p: p["m"] > 0),
}


@pytest.mark.parametrize("message", WRONG)
def test_bad_description(message):
    """Every mistake that can be seen without a call has a sentence at once."""
    with pytest.raises(ProblemError, match=message):
        WRONG[message]()


HOSTED = {"traceable": False}
BATCH = {"vectorized": True}
BAD_CALLS = {
    "raised ZeroDivisionError: .* at m=0.5, c=-1. Return -inf": (lambda p: 1 / (p["m"] - 0.5), HOSTED),
    "raised KeyError: 'q' at m=1, c=2. If that is a parameter, it is not in the prior": (lambda p: p["q"], {}),
    "at m=1, c=2: expected log L to have shape \\(\\), got shape \\(2,\\)": (lambda p: np.ones(2), HOSTED),
    "at m=1, c=2: expected log L to be a number, got True": (lambda p: True, HOSTED),
    "at m=1, c=2: expected log L to be a number, got np.False_|got False": (lambda p: np.bool_(0), HOSTED),
    "log L of a batch of 3 points to be a number, got array\\(\\[ True": (lambda p: p["m"] < 9, BATCH),
    "returned a list of 2, expected log L alone": (lambda p: [1.0, 2.0], HOSTED),
    "returned a list of 0, expected log L alone": (lambda p: [], HOSTED),
    "log L to be real": (lambda p: 1j, HOSTED),
    "log L to be a number, got 'a'": (lambda p: "a", HOSTED),
    "at m=1, c=2: the likelihood returned None": (lambda p: None, HOSTED),
    "expected the likelihood to return \\(logL, blobs\\)": (lambda p: 1.0, {**HOSTED, "blobs": ["b"]}),
    "expected 1 blobs": (lambda p: (1.0, [1, 2]), {**HOSTED, "blobs": ["b"]}),
    "the blob 'b' to be a number, got None": (lambda p: (1.0, [None]), {**HOSTED, "blobs": ["b"]}),
    "c=2: expected the blob 'b' to be a number, got None": (lambda p: (1.0, None), {**HOSTED, "blobs": ["b"]}),
    "expected 2 blobs \\['a', 'b'\\], got shape \\(\\)": (lambda p: (1.0, None), {**HOSTED, "blobs": ["a", "b"]}),
    "batch of 3 points, the first at m=1, c=2: .* shape \\(3,\\), got shape \\(\\)": (lambda p: 1.0, BATCH),
    "log L of a batch of 3 points to be real": (lambda p: 1j * p["m"], BATCH),
    "array of blobs to have shape \\(3, 2\\)": (lambda p: (p["m"], p["c"]), {**BATCH, "blobs": ["a", "b"]}),
    "the blob 'b' to have shape \\(3,\\)": (lambda p: (p["m"], {"b": 1.0}), {**BATCH, "blobs": ["b"]}),
}


@pytest.mark.parametrize("message", BAD_CALLS)
def test_failing_likelihood_is_located(message):
    """The error names the parameter values."""
    function, options = BAD_CALLS[message]
    problem = Problem(PRIOR, function, **options)
    with pytest.raises(LikelihoodError, match=message):
        problem.call_rows(THETA)


def test_failing_point_of_a_batch_is_found():
    """A vectorized likelihood that raises is called on halves until one point remains."""

    def likelihood(p):
        if np.any(p["m"] == -3):
            text = "no solution"
            raise RuntimeError(text)
        return p["m"]

    with pytest.raises(LikelihoodError, match="RuntimeError: no solution at m=-3, c=0.25") as caught:
        Problem(PRIOR, likelihood, vectorized=True).call_rows(THETA)
    assert isinstance(caught.value.__cause__, RuntimeError)

    def only_together(p):
        if len(p["m"]) > 2:
            text = "too many"
            raise RuntimeError(text)
        return p["m"]

    with pytest.raises(LikelihoodError, match="at a batch of 3 points, one of them m="):
        Problem(PRIOR, only_together, vectorized=True).call_rows(THETA)
