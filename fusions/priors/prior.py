"""Priors of named parameters."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fusions.errors import PriorError
from fusions.numerics import drawn, in_chunks, in_double, keys_of, on_host
from fusions.priors.blocks import ENDS, Block, check_names, has_edges, one_parameter, positional
from fusions.priors.density import Density, StandardDensity, standard_terms
from fusions.priors.distributions import is_traceable, scalar_shape

ROWS = 512  # points mapped to parameters at once, always in batches of this shape: a row has the same digits wherever it stands
KEPT = 16  # priors whose compiled functions are kept
HOPELESS_DRAWS = 100_000  # draws without one allowed point, after which a constraint is refused


@dataclass(frozen=True, eq=False, init=False, repr=False)
class Prior:
    """The prior of all parameters.

    Parameters
    ----------
    *blocks : priors of several parameters: `gaussian`, `joint`, `transform`.
    transform : function dict -> dict for dependent priors; it may change values and add names.
    constraint : function dict -> bool; where it is False the prior is zero. The prior is renormalised
        on the allowed region: samples are drawn from it, and `log_prob` is -inf outside
        (inside it keeps the unconstrained density, which is lower by the constant `log_mass`).
    **parameters : name=distribution, made by this module's constructors or by scipy (frozen).

    Attributes
    ----------
    names : all output names, in the order of `theta`.
    traceable : whether transform, constraint and all blocks are JAX functions.

    Examples
    --------
    >>> from fusions.priors import normal, uniform
    >>> Prior(m=uniform(-5, 5), c=normal(0, 1))
    Prior(m=uniform(-5, 5), c=normal(0, 1))
    """

    blocks: tuple[Block, ...]
    transform: Callable | None
    constraint: Callable | None
    names: tuple[str, ...]
    traceable: bool
    theta_traceable: bool
    constraint_traceable: bool

    @in_double
    def __init__(
        self,
        /,
        *blocks: Block,
        transform: Callable | None = None,
        constraint: Callable | None = None,
        **parameters: Any,
    ) -> None:
        for word, function in (("transform", transform), ("constraint", constraint)):
            if function is not None and not callable(function):
                msg = f"Prior: {word}= must be a function of a dict, got {function!r}; a parameter can't be called {word!r}."
                raise PriorError(msg)
        parts = (*map(positional, blocks), *(one_parameter(k, v) for k, v in parameters.items()))
        own = [name for part in parts for name in part.names]
        if not own or not sum(part.dim for part in parts):
            msg = "Prior has no free parameter; write for example Prior(m=priors.uniform(-5, 5))."
            raise PriorError(msg)
        _set(self, blocks=parts, transform=transform, constraint=constraint)
        _set(self, names=check_names(own, "Prior"), theta_traceable=all(part.traceable for part in parts))
        _set(self, constraint_traceable=True)
        _check_transform(self)
        _check_constraint(self)
        densities = all(part.log_prob_traceable for part in parts)
        _set(self, traceable=self.theta_traceable and self.constraint_traceable and densities)

    def __repr__(self) -> str:
        """Return the prior as it was typed, functions by name."""
        words = [b.label if "=" in b.label else f"{b.label}({list(b.names)})" for b in self.blocks]
        extra = (("transform", self.transform), ("constraint", self.constraint))
        words += [f"{k}={getattr(f, '__qualname__', type(f).__name__)}" for k, f in extra if f is not None]
        return f"Prior({', '.join(words)})"

    def __eq__(self, other: object) -> bool:
        """Tell whether another prior is made of equal distributions and blocks and the same functions."""
        return isinstance(other, Prior) and self._key == other._key

    def __hash__(self) -> int:
        """Return the same for equal priors."""
        return hash(self._key)

    @property
    def _key(self) -> Any:
        """Priors made of numbers are equal if these are; one with a function of the user's, which may change, equals itself alone."""
        named = all(isinstance(argument, (float, str)) for block in self.blocks for argument in block.arguments or (None,))
        own = self.transform is not None or self.constraint is not None or not named
        return id(self) if own else tuple((block.label, block.arguments) for block in self.blocks)

    @property
    def density(self) -> StandardDensity | Density:
        """The log density in internal coordinates, (n, d) -> (n,), unconstrained; equal for priors of equal densities."""
        if self.constraint is None and all(block.log_prob is None for block in self.blocks):
            return StandardDensity(self.periodic)
        return Density(self, 0.0)

    @property
    def dim(self) -> int:
        """Number of internal coordinates d."""
        return sum(block.dim for block in self.blocks)

    @property
    def periodic(self) -> tuple[bool, ...]:
        """Flags (d,): True where the internal coordinate is an angle."""
        return tuple(flag for block in self.blocks for flag in block.periodic)

    @cached_property
    @in_double
    def bounded(self) -> tuple[bool, ...]:
        """Flags (d,): True where the prior ends at an edge on both sides, as a uniform one does, the other coordinates at 0."""
        rows, flags = np.eye(self.dim)[:, None] * np.array(ENDS)[:, None], []
        front = _front_rows(self, rows.reshape(-1, self.dim)).reshape(self.dim, len(ENDS), -1)
        for (block, columns), (_, part) in zip(_slices(self, np.arange(self.dim)), _front_slices(self, front), strict=True):
            straight = [block.log_prob is None and not angle for angle in block.periodic]
            flags += [line and _ends(block, part[i]) for line, i in zip(straight, columns, strict=True)]
        return tuple(flags)

    @in_double
    def theta(self, x: Any) -> Any:
        """Return all parameters (n_names,) at one point x (d,): NumPy float64 if not `theta_traceable`."""
        if not self.theta_traceable:
            return self.theta_rows(np.asarray(x)[None])[0]
        x = _floating(x)
        values = _finish(self, _front(self, x))
        return jnp.stack([jnp.asarray(values[name]).astype(x.dtype) for name in self.names])

    @in_double
    def theta_rows(self, x: Any) -> np.ndarray:
        """Return all parameters (n, n_names) at points x (n, d), as NumPy float64, on the host."""
        if self.theta_traceable:
            return _rows_of(self, "theta", x)
        return np.array([_host_vector(self, _finish(self, row)) for row in _front_rows(self, x)]).reshape(len(x), -1)

    @in_double
    def dict(self, x: Any) -> dict[str, Any]:
        """Return {name: scalar} at one point x (d,)."""
        theta = self.theta(x)
        return {name: theta[i] for i, name in enumerate(self.names)}

    @in_double
    def log_prob(self, x: Any) -> jax.Array:
        """Return the log density [nats] in internal coordinates at one point x (d,)."""
        x = _floating(x)
        total = _standard(self, x)
        for block, part in _slices(self, x):
            if block.log_prob is not None:
                total = total + block.log_prob(part)
        allowed = jnp.all(jnp.isfinite(x)) & ~jnp.isnan(total) & _allowed(self, x)
        return jnp.where(allowed, total, -jnp.inf)

    @in_double
    def sample(self, key: Any, n: int) -> np.ndarray:
        """Return n draws (n, d) in internal coordinates, by rejection where there is a constraint."""
        key = jax.random.key(key) if isinstance(key, int) else key
        if self.constraint is None:
            return _draw(self, key, n)
        size, kept, found, drawn = max(n, 1000), [], 0, 0
        while found < n:
            key, key_draw = jax.random.split(key)
            x = _draw(self, key_draw, size)
            kept.append(x[_allowed_rows(self, x)])
            found, drawn = found + len(kept[-1]), drawn + size
            limit = HOPELESS_DRAWS + (10_000 * n if found else 0)
            if found < n and drawn >= limit:
                raise _hopeless(self, found, drawn)
        return np.concatenate(kept)[:n]

    @in_double
    def log_mass(self, key: Any, n: int = 100_000) -> tuple[float, float]:
        """Return ln of the prior fraction that the constraint allows, and its error; (0, 0) without one.

        The fraction f is estimated from n draws, with the binomial error sqrt((1 - f) / (n f)).
        """
        if self.constraint is None:
            return 0.0, 0.0
        key = jax.random.key(key) if isinstance(key, int) else key
        hits = int(_allowed_rows(self, np.asarray(_draw(self, key, n))).sum())
        if hits == 0:
            raise _hopeless(self, 0, n)
        return math.log(hits / n), max(math.sqrt((1 - hits / n) / hits), 1 / n)


def _set(prior: Prior, **values: Any) -> None:
    """Set fields while a (frozen) prior is being built."""
    for name, value in values.items():
        object.__setattr__(prior, name, value)


def _floating(x: Any) -> jax.Array:
    """Return x as a JAX array of floats."""
    x = jnp.asarray(x)
    return x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(jnp.result_type(float))


def _slices(prior: Prior, x: Any) -> list[tuple[Block, Any]]:
    """Return every block with its part of x (d,)."""
    ends = np.cumsum([0, *(block.dim for block in prior.blocks)])
    return [(block, x[a:b]) for block, a, b in zip(prior.blocks, ends[:-1], ends[1:], strict=True)]


def _standard(prior: Prior, x: jax.Array) -> jax.Array:
    """Return the log density of all coordinates that are standard normal or uniform on the circle."""
    counted = np.concatenate([np.full(block.dim, block.log_prob is None) for block in prior.blocks])
    return jnp.sum(jnp.where(counted, standard_terms(prior.periodic, x), jnp.zeros_like(x)))


def _draw(prior: Prior, key: Any, n: int) -> np.ndarray:
    """Return n draws (n, d) of the prior without its constraint."""
    key_normal, key_angle, key_own = keys_of(key, 3)
    shape = (-(-n // ROWS) * ROWS, prior.dim)  # few shapes to compile
    x = np.array(drawn(jax.random.normal, key_normal, shape))[:n]
    if any(prior.periodic):
        angles = np.asarray(drawn(jax.random.uniform, key_angle, shape, minval=-math.pi, maxval=math.pi))[:n]
        x = np.where(np.array(prior.periodic)[None], angles, x)
    for i, (block, columns) in enumerate(_slices(prior, np.arange(prior.dim))):
        if block.draw is not None:
            x[:, columns] = block.draw(jax.random.fold_in(key_own, i), n)
    return x


def _front(prior: Prior, x: jax.Array) -> jax.Array:
    """Return the traceable part of the map to theta: parameters, or coordinates of a host-side block."""
    parts = [block.theta(part) if block.traceable else part for block, part in _slices(prior, x)]
    return jnp.concatenate(parts)


def _front_slices(prior: Prior, front: Any) -> list[tuple[Block, Any]]:
    """Return every block with its part of `_front` (..., m)."""
    ends = np.cumsum([0, *(len(block.names) if block.traceable else block.dim for block in prior.blocks)])
    return [(block, front[..., a:b]) for block, a, b in zip(prior.blocks, ends[:-1], ends[1:], strict=True)]


def _finish(prior: Prior, front: Any) -> dict[str, Any]:
    """Return {name: value} from `_front` of one point: host-side blocks, then the user's transform."""
    values = {}
    for block, part in _front_slices(prior, front):
        theta = part if block.traceable else block.theta(part)
        values.update({name: theta[i] for i, name in enumerate(block.names)})
    if prior.transform is not None:
        values = {**values, **prior.transform(dict(values))}
    return values


@lru_cache(maxsize=KEPT)
def _compiled(prior: Prior) -> dict[str, Callable]:
    """Make the compiled functions of rows (n, d) that equal priors share."""
    functions = {"front": partial(_front, prior), "theta": prior.theta, "allowed": partial(_allowed, prior)}
    return {name: jax.jit(jax.vmap(function)) for name, function in functions.items()}


def _rows_of(prior: Prior, name: str, x: Any) -> np.ndarray:
    """Return a compiled function of the prior at points x (n, d), in NumPy, in batches of `ROWS`."""
    x, function = np.asarray(_floating(x)), _compiled(prior)[name]
    shape = jax.eval_shape(function, jax.ShapeDtypeStruct((ROWS, prior.dim), x.dtype))
    out = np.empty((len(x), *shape.shape[1:]), float if jnp.issubdtype(shape.dtype, jnp.floating) else shape.dtype)
    for i, (rows,) in enumerate(in_chunks(lambda rows: (np.asarray(function(rows)),), x, ROWS)):
        out[i * ROWS : i * ROWS + len(rows)] = rows
    return out


def _front_rows(prior: Prior, x: Any) -> np.ndarray:
    """Return `_front` (n, m) at points x (n, d) in float64."""
    return _rows_of(prior, "front", x)


def _ends(block: Block, rows: np.ndarray) -> bool:
    """Return whether a block has edges, from its parameters, or its coordinates if it is not traceable, at the `ENDS` of one of them."""
    if block.traceable:
        return has_edges(rows)
    try:
        return has_edges(np.array([block.theta(row) for row in rows], float))
    except Exception:  # noqa: BLE001 whatever a user's function raises so far out
        return False


def _host_vector(prior: Prior, values: dict[str, Any]) -> np.ndarray:
    """Return the values in the order of the names, in float64."""
    missing = [name for name in prior.names if name not in values]
    if missing:
        msg = f"Prior: the transform returned no {missing[0]!r} at {values}; it must always return it."
        raise PriorError(msg)
    return np.array([values[name] for name in prior.names], float)


def _host_allowed(rows: Any, prior: Prior) -> np.ndarray:
    """Return the constraint at rows (..., m) of theta, or of `_front` where theta is not traceable."""
    rows, flags, constraint = np.asarray(rows, float), [], prior.constraint or (lambda _: True)
    for row in rows.reshape(-1, rows.shape[-1]):
        values = dict(zip(prior.names, row, strict=True)) if prior.theta_traceable else _finish(prior, row)
        flags.append(bool(constraint(values)))
    return np.array(flags, bool).reshape(rows.shape[:-1])


def _allowed(prior: Prior, x: jax.Array) -> jax.Array:
    """Return whether the constraint holds at one point; inside JAX code, through the host if it must."""
    if prior.constraint is None:
        return jnp.ones((), bool)
    if prior.constraint_traceable:
        return jnp.asarray(prior.constraint(prior.dict(x)), bool)
    row = prior.theta(x) if prior.theta_traceable else _front(prior, x)
    return on_host(partial(_host_allowed, prior=prior), row, jnp.bool_)


def _allowed_rows(prior: Prior, x: np.ndarray) -> np.ndarray:
    """Return whether the constraint holds at the rows of x (n, d)."""
    if prior.constraint_traceable:
        return _rows_of(prior, "allowed", x)
    return _host_allowed(prior.theta_rows(x) if prior.theta_traceable else _front_rows(prior, x), prior)


def _hopeless(prior: Prior, found: int, drawn: int) -> PriorError:
    """Return the error for a constraint that leaves too little of the prior."""
    centre = prior.dict(_draw(prior, jax.random.key(0), 1)[0])
    example = ", ".join(f"{name}={float(value):.6g}" for name, value in centre.items())
    return PriorError(
        f"The constraint allows {found} of {drawn} prior draws; it is False for example at {example}. "
        "Check its sign, or choose priors closer to the allowed region."
    )


def _probe(prior: Prior, what: str, function: Callable) -> tuple[Any, bool]:
    """Return the user's function at one prior draw, and whether JAX can trace it."""
    x = _draw(prior, jax.random.key(0), 1)[0]
    theta = jax.jit(prior.theta)(x) if prior.theta_traceable else prior.theta(x)
    names = prior.names
    shapes = [scalar_shape()] * len(names)
    traced = prior.theta_traceable and is_traceable(lambda *v: function(dict(zip(names, v, strict=True))), *shapes)
    values = dict(zip(names, theta if traced else np.asarray(theta, float), strict=True))
    try:
        return function(values), traced
    except Exception as error:
        where = ", ".join(f"{name}={float(value):.6g}" for name, value in values.items())
        msg = f"Prior: the {what} raised {type(error).__name__}: {error}, at {where}."
        raise PriorError(msg) from error


def _check_transform(prior: Prior) -> None:
    """Evaluate the user's transform once: its output names, shapes and traceability."""
    if prior.transform is None:
        return
    function = prior.transform
    _set(prior, transform=None)
    result, traced = _probe(prior, "transform", function)
    if not isinstance(result, Mapping):
        msg = f"Prior: expected transform(dict) to return a dict of parameters, got {type(result).__name__}."
        raise PriorError(msg)
    for name, value in result.items():
        if np.shape(value) != () or np.asarray(value).dtype.kind not in "fiub":
            msg = f"Prior: expected transform to return a number for {name!r}, got {value!r}."
            raise PriorError(msg)
    new = [name for name in result if name not in prior.names]
    names = check_names([*prior.names, *new], "Prior transform")
    _set(prior, transform=function, names=names, theta_traceable=traced)


def _check_constraint(prior: Prior) -> None:
    """Evaluate the constraint once: its shape and traceability."""
    if prior.constraint is None:
        return
    result, traced = _probe(prior, "constraint", prior.constraint)
    if np.shape(result) != () or np.asarray(result).dtype.kind != "b":
        msg = f"Prior: expected constraint(dict) to return True or False, got {result!r}; write e.g. a < b."
        raise PriorError(msg)
    _set(prior, constraint_traceable=traced)
