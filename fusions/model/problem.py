"""The problem: a prior and a likelihood in any of the accepted forms."""

import hashlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import KW_ONLY, dataclass
from functools import cached_property, lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fusions.errors import LikelihoodError, ProblemError
from fusions.model.calls import Call, ReturnError, describe_theta
from fusions.model.data import arrays_of, digest, key_of, shape_of, shaped, with_arrays
from fusions.numerics import digest_of, identity_of, in_double, precision_of
from fusions.priors.blocks import check_names
from fusions.priors.density import Density
from fusions.priors.prior import Prior
from fusions.types import Space

N_COMPARED = 8  # draws from the prior at which a compiled likelihood is compared with the user's own function
KEPT = 8  # compiled likelihoods for that comparison
AGREED = 1e-4  # difference of log L, relative to max(1, |log L|), that rounding may make
RESERVED = ("logL", "logL_birth", "nlive", "weights")  # columns of the exported samples


@dataclass(frozen=True, eq=False)
class Problem:
    """A prior and a likelihood.

    Parameters
    ----------
    prior : prior of all parameters.
    loglikelihood : function of the parameters, a dict {name: number}; returns log L [nats], or
        (log L, blobs) if `blobs` are named. JAX, or anything else that Python can call. Numbers may come
        as arrays or lists of one.
    labels : {name: LaTeX} for plots, without dollar signs or with.
    blobs : names of derived parameters. The likelihood then returns them as a second value, a
        sequence in this order or a dict with these keys, or a number if there is one.
    array : the likelihood takes the vector of parameters, in the order of ``prior.names``.
    vectorized : the likelihood is NumPy code that takes n points at once, a dict of (n,) arrays (or
        an (n, n_names) array), and returns (n,), with blobs (n, b) or a dict of (n,) arrays; (n,) for one blob.
    traceable : whether the likelihood is JAX code; found by tracing it if None.
    noisy : the likelihood gives different values at the same point, on purpose.
    data : handed to the likelihood as a second argument, a tree of arrays and anything else. Problems
        that differ only in the values of its arrays share all compiled programs. A likelihood that JAX
        compiles gets the arrays as JAX's; where NumPy's give another value, they are fixed in the program.

    Attributes
    ----------
    names : parameters, then blobs.
    insisted : whether ``traceable=True`` was typed.

    Examples
    --------
    >>> from fusions import priors as pr
    >>> prior = pr.Prior(m=pr.uniform(-5, 5), c=pr.normal(0, 1))
    >>> Problem(prior, lambda p: -0.5 * (p["m"] - p["c"]) ** 2).traceable
    True
    """

    prior: Prior
    loglikelihood: Callable[..., Any]
    _: KW_ONLY
    labels: Mapping[str, str] | None = None
    blobs: Sequence[str] = ()
    array: bool = False
    vectorized: bool = False
    traceable: bool | None = None
    noisy: bool = False
    data: Any = None

    @in_double
    def __post_init__(self) -> None:
        """Check the description and find out whether the likelihood can be traced."""
        _set(self, insisted=self.traceable is True)
        _check_types(self)
        _set(self, blobs=_check_blobs(self), labels=_check_labels(self))
        _set(self, traceable=_find_traceable(self))

    def __eq__(self, other: object) -> bool:
        """Tell whether another problem has an equal prior and the same likelihood, called alike; labels do not count."""
        return self is other or (isinstance(other, Problem) and self._key == other._key)

    def __hash__(self) -> int:
        """Return the same for equal problems."""
        return hash(self._key)

    @property
    def _key(self) -> tuple[Any, ...]:
        forms = self.blobs, self.array, self.vectorized, self.traceable, self.noisy
        return self.prior, identity_of(self.loglikelihood), *forms, key_of(self.data)

    @property
    def rest(self) -> tuple[Any, ...]:
        """What the likelihood takes after the parameters: the data, or nothing."""
        return () if self.data is None else (self.data,)

    @property
    def call(self) -> Call:
        """How the likelihood is called, and what it must return."""
        return Call(self.loglikelihood, self.prior.names, tuple(self.blobs), self.array, self.rest)

    @property
    def arrays(self) -> tuple[Any, ...]:
        """The arrays of numbers among the data: arguments of the programs that JAX compiles. Anything else is fixed in them."""
        found = arrays_of(self.data)
        return found if found and self.takes_arrays else ()

    @cached_property
    def takes_arrays(self) -> bool:
        """Whether JAX traces the likelihood without the values of its data; it does not if these decide how to compute."""
        if not self.traceable:
            return False
        theta = jax.ShapeDtypeStruct((len(self.prior.names),), jnp.result_type(float))
        try:
            jax.eval_shape(self.call_one, theta, arrays_of(self.data))
        except Exception:  # noqa: BLE001 whatever a user's function raises
            return False
        return True

    def form(self) -> "Problem":
        """Return the problem without the values of its `arrays`: the same for all data of a kind, which programs are compiled for."""
        if not self.arrays:
            return self
        form = copy(self)
        _set(form, data=shaped(self.data))
        return form

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the parameters, then of the blobs."""
        return (*self.prior.names, *self.blobs)

    @property
    def n_blobs(self) -> int:
        """Number of derived parameters b."""
        return len(self.blobs)

    @cached_property
    def constraint_logmass(self) -> tuple[float, float]:
        """Ln of the prior fraction that the prior's constraint allows, and its error; (0, 0) without a constraint."""
        return self.prior.log_mass(jax.random.key(0))

    @cached_property
    def frozen(self) -> str:
        """Why a traced likelihood must not be compiled, or "".

        Tracing calls a function once, with stand-ins for numbers; what it does beside arithmetic with them (text for another program,
        files, `except`, `isinstance`, random numbers) is frozen. So the compiled function is compared with the function itself, called
        twice with plain numbers, at a few draws from the prior.
        """
        with precision_of("double"):
            return _frozen(self, self.prior.theta_rows(self.prior.sample(jax.random.key(0), N_COMPARED)))

    def space(self) -> Space:
        """Return the internal coordinates, with the log density over rows (n, d) -> (n,) of the prior, renormalised on what is allowed."""
        prior, (log_mass, _) = self.prior, self.constraint_logmass
        return Space(prior.dim, prior.periodic, Density(prior, log_mass) if log_mass else prior.density, self.n_blobs)

    def program(self) -> str:
        """Return a digest of the program that JAX makes of prior and likelihood now: of what they close over too; "" for a black box.

        A function stays the same when the data or the settings that it reads change; the digest does not.
        """
        if not self.traceable:
            return ""

        def both(x: jax.Array, arrays: tuple[jax.Array, ...]) -> Any:
            return self.call_one(self.prior.theta(x), arrays), self.prior.log_prob(x)

        x = jax.ShapeDtypeStruct((self.prior.dim,), jnp.result_type(float))
        closed = jax.make_jaxpr(both)(x, tuple(map(shape_of, self.arrays)))
        return digest_of(closed)

    def call_one(self, theta: jax.Array, arrays: tuple[jax.Array, ...] | None = None) -> tuple[jax.Array, jax.Array]:
        """Return log L () and blobs (b,) at theta (n_names,), inside JAX code, with other `arrays` in the data if given."""
        dtype, call = theta.dtype, self.call
        rest = (with_arrays(self.data, arrays),) if arrays else self.rest
        logL, blobs = call.checked(self.loglikelihood(call.argument(theta), *rest))
        values = [jnp.asarray(value).astype(dtype) for value in blobs]
        return jnp.asarray(logL).astype(dtype), jnp.stack(values) if values else jnp.zeros((0,), dtype)

    def call_rows(self, theta: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return log L (n,) and blobs (n, b) in float64 at theta (n, n_names), on the host.

        Raises
        ------
        LikelihoodError : if the user's function raises, or returns anything but real numbers of the
            right shape; the message names the parameter values.
        """
        theta = np.asarray(theta, float)
        with precision_of("double"):  # of JAX that a black box may use
            if self.vectorized:
                return self.call.batch(theta)
            return self.call.rows(theta)

    def read_rows(self, theta: list[np.ndarray], returned: list[Any]) -> tuple[np.ndarray, np.ndarray]:
        """Return log L (n,) and blobs (n, b) of what the user's function returned elsewhere.

        Parameters
        ----------
        theta : points (n_names,), or if vectorized batches of points (m, n_names).
        returned : what the function returned at each of them.
        """
        call = self.call
        if not self.vectorized:
            return call.stacked([call.read_row(row, result) for row, result in zip(theta, returned, strict=True)])
        columns = [call.read_batch(batch, result) for batch, result in zip(theta, returned, strict=True)]
        return np.concatenate([logL for logL, _ in columns]), np.concatenate([blobs for _, blobs in columns])

    def data_digest(self) -> str:
        """Return a hash of the arrays, numbers and text in the data, the same in every session; "" if there are no data."""
        return "" if self.data is None else digest(self.data)

    def fingerprint(self, *, labels: bool = True) -> str:
        """Return a hash of names, labels (unless told not), prior and theta at fixed points, the same in every session.

        Values of theta enter with five digits, so that the hash is the same on every processor.
        """
        d = self.prior.dim
        points = np.array([[np.sin(1.3 + 2.1 * i + 0.7 * j) for j in range(d)] for i in range(4)])
        values = [f"{value:.4e}" for value in self.prior.theta_rows(points).ravel()]
        words = [self.names, sorted((self.labels or {}).items()) if labels else [], self.prior.periodic, repr(self.prior), values]
        return hashlib.sha256(repr(words).encode()).hexdigest()


# Checks at build time ------------------------------------------------------------------------------


def _set(problem: Problem, **values: Any) -> None:
    """Set fields while a (frozen) problem is being built."""
    for name, value in values.items():
        object.__setattr__(problem, name, value)


def _check_types(problem: Problem) -> None:
    """Check the prior and the likelihood."""
    if not isinstance(problem.prior, Prior):
        msg = (
            f"Problem: expected a Prior, got {problem.prior!r}; write fusions.Prior(m=priors.uniform(-5, 5), ...), or fusions.Prior(block)."
        )
        raise ProblemError(msg)
    if not callable(problem.loglikelihood):
        msg = f"Problem: expected loglikelihood to be a function, got {problem.loglikelihood!r}."
        raise ProblemError(msg)


def _check_blobs(problem: Problem) -> tuple[str, ...]:
    """Return the blob names, different from the parameter names."""
    blobs = check_names(problem.blobs, "Problem blobs", ProblemError) if len(problem.blobs) else ()
    clash = [name for name in blobs if name in problem.prior.names]
    if clash:
        msg = f"Problem: the blob {clash[0]!r} has the name of a parameter; give it another name."
        raise ProblemError(msg)
    reserved = [name for name in (*problem.prior.names, *blobs) if name in RESERVED]
    if reserved:
        msg = f"Problem: the name {reserved[0]!r} is reserved for the result; choose another name."
        raise ProblemError(msg)
    return blobs


def _check_labels(problem: Problem) -> dict[str, str]:
    """Return the labels as a dict, all of them for names that exist."""
    if problem.labels is None:
        return {}
    if not isinstance(problem.labels, Mapping):
        msg = f"Problem: expected labels to be a dict {{name: LaTeX}}, got {problem.labels!r}."
        raise ProblemError(msg)
    names = (*problem.prior.names, *problem.blobs)
    unknown = [name for name in problem.labels if name not in names]
    if unknown:
        msg = f"Problem: the label for {unknown[0]!r} fits no name; the names are {list(names)!r}."
        raise ProblemError(msg)
    return dict(problem.labels)


def _find_traceable(problem: Problem) -> bool:
    """Decide whether the likelihood runs inside JAX code, and check its output if it does."""
    wanted = problem.traceable
    refusal = ""
    if problem.vectorized:
        refusal = "a vectorized likelihood is called on the host"
    elif not problem.prior.traceable:
        refusal = "its prior has a transform, constraint or density that JAX can't trace"
    if refusal and wanted:
        msg = f"Problem: traceable=True is impossible because {refusal}; leave traceable out."
        raise ProblemError(msg)
    if refusal or wanted is False:
        return False
    shape = jax.ShapeDtypeStruct((len(problem.prior.names),), jnp.result_type(float))
    try:
        jax.eval_shape(problem.call_one, shape)
    except ReturnError as error:
        msg = f"Problem: {error}"
        raise ProblemError(msg) from None
    except Exception as error:  # whatever a user's function raises under tracing
        if wanted:
            msg = f"Problem: traceable=True, but tracing raised {type(error).__name__}: {error}"
            raise ProblemError(msg) from error
        _warn_of_single(problem, error)
        return False
    return True


def _warn_of_single(problem: Problem, error: Exception) -> None:
    """Say so if JAX traces the likelihood in single precision alone, as with a loop whose float32 carry was made outside."""
    try:
        with precision_of("single"):
            jax.eval_shape(problem.call_one, jax.ShapeDtypeStruct((len(problem.prior.names),), jnp.float32))
    except Exception:  # noqa: BLE001 it is no JAX code at all
        return
    warnings.warn(
        f"JAX traces the likelihood in single precision, but not in double ({type(error).__name__}: {str(error).splitlines()[0]}), so that "
        "it is called as a slow black box. Make its arrays float64, for example the carry of a loop by jnp.zeros_like of a parameter.",
        stacklevel=6,
    )


def _frozen(problem: Problem, theta: np.ndarray) -> str:
    """Compare the compiled likelihood with the user's own function at theta (n, n_names); returns a sentence if they differ.

    Where they differ because arrays of the data are JAX's instead of NumPy's (sort(), types of results), these get fixed in the program.
    """
    own = _own_values(problem, theta), _own_values(problem, theta)
    if own[0] is None or own[1] is None:
        return ""
    compiled = _compiled_values(problem, theta)
    if problem.arrays and _apart(own[0], compiled, AGREED).any():
        _set(problem, takes_arrays=False)
        compiled = _compiled_values(problem, theta)
    for other, tolerance in ((own[1], 0.0), (compiled, AGREED)):
        differ = _apart(own[0], other, tolerance)
        if differ.any():
            i, column = np.argwhere(differ)[0]
            again = "called again" if other is own[1] else "compiled by JAX"
            what = ("log L", *problem.blobs)[column]
            return (
                f"JAX does not compile what this likelihood does: at {describe_theta(problem.prior.names, theta[i])} it gives {what} = "
                f"{own[0][i, column]:.10g}, and {other[i, column]:.10g} when {again}. Something beside arithmetic with parameters (text, "
                "files, except, isinstance, random numbers) would be frozen."
            )
    return ""


def _apart(values: np.ndarray, other: np.ndarray, tolerance: float) -> np.ndarray:
    """Tell where two arrays differ by more than a tolerance, relative to max(1, |value|); NaN and infinities are equal to themselves."""
    with np.errstate(invalid="ignore"):
        far = ~(np.abs(other - values) <= tolerance * np.maximum(1, np.abs(values)))
    return far & (other != values) & ~(np.isnan(values) & np.isnan(other))


def _compiled_values(problem: Problem, theta: np.ndarray) -> np.ndarray:
    """Return log L and blobs (n, 1 + b) of the compiled function."""
    return np.column_stack(_compiled(problem.form(), problem.program(), theta.dtype)(theta, problem.arrays)).astype(float)


@lru_cache(maxsize=KEPT)
def _compiled(form: Problem, program: str, dtype: Any) -> Callable:
    """Compile a likelihood for rows (n, n_names), once for all data of a kind."""
    del program, dtype
    return jax.jit(jax.vmap(form.call_one, in_axes=(0, None)))


def _own_values(problem: Problem, theta: np.ndarray) -> np.ndarray | None:
    """Return log L and blobs (n, 1 + b) of the user's own function, called with NumPy's numbers or else JAX's; None if it takes neither.

    NumPy's float64 is a float, but not one that JAX rounds to the precision of what it meets.
    """
    try:
        return np.array([np.hstack(problem.call.row(row, list)) for row in theta])
    except LikelihoodError:  # it needs the methods of JAX's arrays, or makes complex numbers where JAX has NaN
        pass
    try:
        return np.array([np.hstack(problem.call_one(jnp.asarray(row))) for row in theta], float)
    except Exception:  # noqa: BLE001 whatever a user's function raises
        return None
