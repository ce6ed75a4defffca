"""The problem: a prior and a likelihood in any of the accepted forms."""

import hashlib
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import KW_ONLY, dataclass
from functools import cached_property, lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fusions.errors import LikelihoodError, ProblemError, advice_on
from fusions.numerics import digest_of, identity_of, in_double, precision_of
from fusions.priors.prior import Density, Prior, check_names
from fusions.types import Space

N_COMPARED = 8  # draws from the prior at which a compiled likelihood is compared with the user's own function
KEPT = 8  # compiled likelihoods for that comparison
FIXED = bool, int, float, complex, str, bytes  # what else in the data is told apart by its value
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
        return self.prior, identity_of(self.loglikelihood), *forms, _key_of(self.data)

    @property
    def rest(self) -> tuple[Any, ...]:
        """What the likelihood takes after the parameters: the data, or nothing."""
        return () if self.data is None else (self.data,)

    @property
    def arrays(self) -> tuple[Any, ...]:
        """The arrays of numbers among the data: arguments of the programs that JAX compiles. Anything else is fixed in them."""
        found = _arrays_of(self.data)
        return found if found and self.takes_arrays else ()

    @cached_property
    def takes_arrays(self) -> bool:
        """Whether JAX traces the likelihood without the values of its data; it does not if these decide how to compute."""
        if not self.traceable:
            return False
        theta = jax.ShapeDtypeStruct((len(self.prior.names),), jnp.result_type(float))
        try:
            jax.eval_shape(self.call_one, theta, _arrays_of(self.data))
        except Exception:  # noqa: BLE001 whatever a user's function raises
            return False
        return True

    def form(self) -> "Problem":
        """Return the problem without the values of its `arrays`: the same for all data of a kind, which programs are compiled for."""
        if not self.arrays:
            return self
        form = copy(self)
        _set(form, data=_mapped(lambda leaf: _shape(leaf) if _is_array(leaf) else leaf, self.data))
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
        closed = jax.make_jaxpr(both)(x, tuple(map(_shape, self.arrays)))
        return digest_of(closed)

    def call_one(self, theta: jax.Array, arrays: tuple[jax.Array, ...] | None = None) -> tuple[jax.Array, jax.Array]:
        """Return log L () and blobs (b,) at theta (n_names,), inside JAX code, with other `arrays` in the data if given."""
        dtype, rest = theta.dtype, self.rest
        if arrays:
            given = iter(arrays)
            rest = (_mapped(lambda leaf: next(given) if _is_array(leaf) else leaf, self.data),)
        logL, blobs = _checked(self, self.loglikelihood(_argument(self, theta), *rest))
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
                return _call_batch(self, theta)
            return _stacked(self, [_call_row(self, row) for row in theta])

    def read_rows(self, theta: list[np.ndarray], returned: list[Any]) -> tuple[np.ndarray, np.ndarray]:
        """Return log L (n,) and blobs (n, b) of what the user's function returned elsewhere.

        Parameters
        ----------
        theta : points (n_names,), or if vectorized batches of points (m, n_names).
        returned : what the function returned at each of them.
        """
        if not self.vectorized:
            return _stacked(self, [_read_row(self, row, result) for row, result in zip(theta, returned, strict=True)])
        columns = [_read_batch(self, batch, result) for batch, result in zip(theta, returned, strict=True)]
        return np.concatenate([logL for logL, _ in columns]), np.concatenate([blobs for _, blobs in columns])

    def data_digest(self) -> str:
        """Return a hash of the arrays, numbers and text in the data, the same in every session; "" if there are no data."""
        values = [_value_of(leaf) for leaf in _leaves(self.data)]
        return "" if self.data is None else hashlib.sha256(repr(values).encode()).hexdigest()

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
    except _ReturnError as error:
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
                f"JAX does not compile what this likelihood does: at {_describe(problem, theta[i])} it gives {what} = "
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
        return np.array([np.hstack(_call_row(problem, row, list)) for row in theta])
    except LikelihoodError:  # it needs the methods of JAX's arrays, or makes complex numbers where JAX has NaN
        pass
    try:
        return np.array([np.hstack(problem.call_one(jnp.asarray(row))) for row in theta], float)
    except Exception:  # noqa: BLE001 whatever a user's function raises
        return None


# Data ---------------------------------------------------------------------------------------------


def _is_dict(part: Any) -> bool:
    return type(part) in (dict, defaultdict)


def _mapped(function: Callable, data: Any) -> Any:
    """Apply a function to the leaves of the data; dicts keep their order, which a likelihood may read, and may have any keys.

    `jax.tree.map` sorts them.
    """

    def one(part: Any) -> Any:
        return part | {key: _mapped(function, value) for key, value in part.items()} if _is_dict(part) else function(part)

    return jax.tree.map(one, data, is_leaf=_is_dict)


def _leaves(data: Any) -> Iterator[Any]:
    """Yield the leaves of the data in the order of `_mapped`."""
    for part in jax.tree.leaves(data, is_leaf=_is_dict):
        yield from (leaf for value in part.values() for leaf in _leaves(value)) if _is_dict(part) else (part,)


def _arrays_of(data: Any) -> tuple[Any, ...]:
    return tuple(filter(_is_array, _leaves(data)))


def _key_of(data: Any) -> Any:
    """Return what tells the data from others: their tree with the order of keys, and their leaves."""
    parts, tree = jax.tree.flatten(data, is_leaf=_is_dict)
    return tree, tuple((tuple(part), *map(_key_of, part.values())) if _is_dict(part) else _key_of_leaf(part) for part in parts)


def _is_plain(leaf: Any) -> bool:
    """Tell whether a part is an array that is nothing but its numbers: no mask, no unit."""
    return type(leaf) in (np.ndarray, np.memmap) or isinstance(leaf, jax.Array)


def _is_array(leaf: Any) -> bool:
    """Tell whether a part of the data is an array of numbers, or stands for one."""
    if not (_is_plain(leaf) or isinstance(leaf, jax.ShapeDtypeStruct)) or jnp.issubdtype(leaf.dtype, np.timedelta64):
        return False
    return any(jnp.issubdtype(leaf.dtype, kind) for kind in (np.number, np.bool_, jax.dtypes.prng_key))


def _shape(leaf: Any) -> jax.ShapeDtypeStruct:
    """Return what stands for an array in programs."""
    return jax.ShapeDtypeStruct(leaf.shape, jax.dtypes.canonicalize_dtype(leaf.dtype, allow_extended_dtype=True))


def _value_of(leaf: Any) -> Any:
    """Return what tells a part of the data from others by its values, those of an array if they are there; None for other objects."""
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return leaf.shape, str(leaf.dtype)
    if _is_plain(leaf) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return str(leaf.dtype), _value_of(jax.random.key_data(leaf))
    if _is_plain(leaf) and not leaf.dtype.hasobject:
        return leaf.shape, str(leaf.dtype), hashlib.sha256(np.asarray(leaf).tobytes()).digest()
    return (type(leaf), leaf) if isinstance(leaf, FIXED) else None


def _key_of_leaf(leaf: Any) -> Any:
    """Return what tells a part of the data from others in this process: its value, or the object where it has none."""
    value = _value_of(leaf)
    return id(leaf) if value is None else value


# Calls of the user's function -------------------------------------------------------------------------


class _ReturnError(Exception):
    """The user's function returned something else than agreed; the text says what."""


def _argument(problem: Problem, theta: Any) -> Any:
    """Return what the likelihood takes at theta (..., n_names)."""
    if problem.array:
        return theta
    return dict(zip(problem.prior.names, theta if isinstance(theta, list) else theta.T, strict=True))


def _split(problem: Problem, result: Any) -> tuple[Any, Any]:
    """Return log L and blobs (None without) of what the likelihood returned."""
    if result is None:
        text = "the likelihood returned None; is a return statement missing?"
        raise _ReturnError(text)
    if not problem.blobs:
        if isinstance(result, Mapping) or (isinstance(result, (tuple, list)) and len(result) != 1):
            text = (
                f"the likelihood returned a {type(result).__name__} of {len(result)}, expected log L alone; "
                "name derived parameters with blobs=[...]."
            )
            raise _ReturnError(text)
        return result, None
    if not isinstance(result, (tuple, list)) or len(result) != 2:
        got = f"{len(result)} values" if isinstance(result, (tuple, list)) else type(result).__name__
        text = f"expected the likelihood to return (logL, blobs), blobs={list(problem.blobs)!r}, got {got}."
        raise _ReturnError(text)
    return tuple(result)


def _blob_values(problem: Problem, blobs: Any) -> list[Any]:
    """Return the blobs of one point in the order of their names."""
    names = problem.blobs
    if isinstance(blobs, Mapping):
        if set(blobs) != set(names):
            text = f"expected blobs with the keys {list(names)!r}, got {list(blobs)!r}."
            raise _ReturnError(text)
        return [blobs[name] for name in names]
    if not names:
        return []
    if len(names) == 1 and not isinstance(_alone(blobs), (tuple, list)):
        return [_alone(blobs)]
    shape = np.shape(blobs) if not isinstance(blobs, (tuple, list)) else (len(blobs),)
    if shape != (len(names),):
        text = f"expected {len(names)} blobs {list(names)!r}, got shape {shape}."
        raise _ReturnError(text)
    return [blobs[i] for i in range(len(names))]


def _checked(problem: Problem, result: Any) -> tuple[Any, list[Any]]:
    """Return log L and the list of blobs of one point, all of them real scalars (tracers as well)."""
    logL, blobs = _split(problem, result)
    logL, values = _alone(logL), [_alone(value) for value in _blob_values(problem, blobs)]
    _check_real(logL, (), "log L")
    for name, value in zip(problem.blobs, values, strict=True):
        _check_real(value, (), f"the blob {name!r}")
    return logL, values


def _alone(value: Any) -> Any:
    """Return the number in an array, a Series or a list of one; anything else as it is."""
    if isinstance(value, (tuple, list)):
        return _alone(value[0]) if len(value) == 1 else value
    shape = getattr(value, "shape", ())
    if shape == () or any(n != 1 for n in shape):
        return value
    return (value.to_numpy() if hasattr(value, "to_numpy") else value).reshape(())


def _check_real(value: Any, shape: tuple[int, ...], what: str) -> None:
    """Complain about a value that is complex, no number, or of another shape."""
    if value is None:
        text = f"expected {what} to be a number, got None."
        raise _ReturnError(text)
    dtype = value.dtype if hasattr(value, "dtype") else np.asarray(value).dtype
    if np.shape(value) != shape:
        what_else = "; sum over the data, or name vectorized=True" if shape == () and what == "log L" else ""
        text = f"expected {what} to have shape {shape}, got shape {np.shape(value)}{what_else}."
        raise _ReturnError(text)
    if jnp.issubdtype(dtype, np.complexfloating):
        text = f"expected {what} to be real, got complex numbers; return the real part."
        raise _ReturnError(text)
    if (dtype.kind in "USmMO" and not _is_float(value)) or (dtype.kind == "b" and what.startswith("log L")):
        text = f"expected {what} to be a number, got {value!r}."
        raise _ReturnError(text)


def _is_float(value: Any) -> bool:
    """Tell whether Python can convert an exotic number (a Decimal, an mpmath float) to a float."""
    if isinstance(value, str):
        return False
    try:
        float(value)
    except (TypeError, ValueError, OverflowError):
        return False
    return True


def _describe(problem: Problem, row: np.ndarray) -> str:
    """Write a parameter vector as ``m=1.2, c=0.3``."""
    return ", ".join(f"{k}={v:.10g}" for k, v in zip(problem.prior.names, row, strict=True))


def _raised(error: BaseException, where: str) -> LikelihoodError:
    """Return the error for an exception of the user's function."""
    text = f"{type(error).__name__}: {error}"
    return LikelihoodError(f"Likelihood raised {text} at {where}. {advice_on(text)}")


def _call_row(problem: Problem, row: np.ndarray, numbers: Callable = np.ndarray.tolist) -> tuple[float, list[float]]:
    """Return log L and blobs of the user's function at one point (n_names,), which `numbers` turns into a list."""
    argument = row.copy() if problem.array else _argument(problem, numbers(row))
    try:
        result = problem.loglikelihood(argument, *problem.rest)
    except Exception as error:
        raise _raised(error, _describe(problem, row)) from error
    return _read_row(problem, row, result)


def _stacked(problem: Problem, rows: list[tuple[float, list[float]]]) -> tuple[np.ndarray, np.ndarray]:
    """Return log L (n,) and blobs (n, b) of single points."""
    logL = np.array([row[0] for row in rows], float)
    return logL, np.array([row[1] for row in rows], float).reshape(len(rows), problem.n_blobs)


def _read_row(problem: Problem, row: np.ndarray, result: Any) -> tuple[float, list[float]]:
    """Return log L and blobs of what the user's function returned at one point (n_names,)."""
    try:
        logL, blobs = _checked(problem, result)
    except _ReturnError as error:
        msg = f"Likelihood at {_describe(problem, row)}: {error}"
        raise LikelihoodError(msg) from None
    return float(logL), [float(value) for value in blobs]


def _call_batch(problem: Problem, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return log L (n,) and blobs (n, b) of a vectorized function at theta (n, n_names)."""
    n = len(theta)
    if n == 0:
        return np.zeros(0), np.zeros((0, problem.n_blobs))
    try:
        result = problem.loglikelihood(_argument(problem, theta.copy()), *problem.rest)
    except Exception as error:
        raise _raised(error, _find_raising(problem, theta)) from error
    return _read_batch(problem, theta, result)


def _read_batch(problem: Problem, theta: np.ndarray, result: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return log L (n,) and blobs (n, b) of what a vectorized function returned at theta (n, n_names)."""
    n = len(theta)
    try:
        logL, blobs = _split(problem, result)
        _check_real(logL, (n,), f"log L of a batch of {n} points")
        columns = _blob_columns(problem, blobs, n)
    except _ReturnError as error:
        msg = f"Likelihood in a batch of {n} points, the first at {_describe(problem, theta[0])}: {error}"
        raise LikelihoodError(msg) from None
    return np.asarray(logL, float), columns


def _blob_columns(problem: Problem, blobs: Any, n: int) -> np.ndarray:
    """Return the blobs (n, b) of a vectorized function, given so or as a dict of (n,) arrays."""
    if not problem.blobs:
        return np.zeros((n, 0))
    if isinstance(blobs, Mapping):
        columns = _blob_values(problem, blobs)
        for name, column in zip(problem.blobs, columns, strict=True):
            _check_real(column, (n,), f"the blob {name!r}")
        return np.stack([np.asarray(column, float) for column in columns], axis=1)
    if problem.n_blobs == 1 and np.shape(blobs) == (n,):
        blobs = np.reshape(blobs, (n, 1))
    _check_real(blobs, (n, problem.n_blobs), "the array of blobs")
    return np.asarray(blobs, float)


def _find_raising(problem: Problem, theta: np.ndarray) -> str:
    """Name the point at which a vectorized function raises, by halving the batch."""
    n = len(theta)
    while len(theta) > 1:
        half = len(theta) // 2
        theta = theta[:half] if _raises(problem, theta[:half]) else theta[half:]
    where = _describe(problem, theta[0])
    return where if n == 1 or _raises(problem, theta) else f"a batch of {n} points, one of them {where}"


def _raises(problem: Problem, theta: np.ndarray) -> bool:
    """Tell whether a vectorized function raises on a batch."""
    try:
        problem.loglikelihood(_argument(problem, theta.copy()), *problem.rest)
    except Exception:  # whatever a user's function raises
        return True
    return False
