"""Small numerical helpers: the precision of JAX, on the host in float64 numpy, and inside jit where the name says `rows`."""

import contextlib
import functools
import hashlib
import math
import re
import types
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import jax
import jax.experimental
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import custom_vmap
from jax.extend.core import ClosedJaxpr

Array = jax.Array | np.ndarray

PRECISIONS = ("double", "single")
ADDRESS = r" at 0x[0-9a-f]+"  # in the text of a program that calls functions
_enable_x64: Any = getattr(jax, "enable_x64", getattr(jax.experimental, "enable_x64", None))  # the latter before jax 0.8
_precision: ContextVar = ContextVar("precision", default=None)  # of the call that goes on
GOLDEN = 0.5 * (math.sqrt(5) - 1)
SUMMED = 65536  # points whose moments are computed at once
CALLBACK_BYTES = 65_536  # of rows handed to the host at once; over 100 kB JAX copies them in a thread that the callback may be blocking


@contextlib.contextmanager
def precision_of(name: str):
    """Let JAX compute in "double" or "single" precision for a while, in this thread alone, whatever the user's x64 flag says."""
    token = _precision.set(name)
    try:
        with _enable_x64(name == "double"):
            yield
    finally:
        _precision.reset(token)


def in_double(function: Callable):
    """Let a function compute in double precision, or in that of the call of ours that goes on; to its user it returns NumPy arrays.

    Inside of a user's own JAX transformation it computes in the dtype of what it is given.
    """

    @functools.wraps(function)
    def wrapped(*args, **kwargs):
        if _precision.get() is not None or any(isinstance(value, jax.core.Tracer) for value in args):
            return function(*args, **kwargs)
        with precision_of("double"):
            return jax.tree.map(lambda leaf: np.asarray(leaf) if isinstance(leaf, jax.Array) else leaf, function(*args, **kwargs))

    return wrapped


def identity_of(function: Callable):
    """Return what tells a function from others: methods and partials are the same if what they are made of is."""
    if isinstance(function, types.MethodType):
        return id(function.__self__), function.__func__
    if isinstance(function, functools.partial):
        named = ((name, _identity(value)) for name, value in sorted(function.keywords.items()))
        return identity_of(function.func), *map(_identity, function.args), *named
    return id(function)


def _identity(value):
    """Return a value that others can be compared with, or else which object it is."""
    try:
        hash(value)
    except TypeError:
        return id(value)
    return type(value), value


def programs_within(jaxpr: Any):
    """List the closed programs within a program of JAX, such as those of jit and of loops."""
    for equation in jaxpr.eqns:
        for value in equation.params.values():
            yield from (part for part in (value if isinstance(value, (tuple, list)) else [value]) if isinstance(part, ClosedJaxpr))


def constants_of(closed: Any):
    """List the arrays that a program of JAX and those within it close over."""
    yield from closed.consts
    for part in programs_within(closed.jaxpr):
        yield from constants_of(part)


def digest_of(closed: Any):
    """Return a digest of the text of a program of JAX and of the arrays that it closes over; of functions it has the names alone."""
    digest = hashlib.sha256(re.sub(ADDRESS, "", str(closed.jaxpr)).encode())
    for value in constants_of(closed):
        digest.update(np.asarray(value).tobytes())
    return digest.hexdigest()


def least_width(dtype: Any):
    """Return the least width of anything, relative to its position, that numbers of a type tell."""
    return 8 * float(np.finfo(dtype).eps)


def in_chunks(function: Callable, x: Array, size: int):
    """Apply a function of rows (n, d) in chunks of one shape, the last one padded, so that it compiles once.

    Parameters
    ----------
    function : x (size, d) -> tuple of arrays (size, ...).
    x : (n, d); size : rows of a chunk.

    Yields
    ------
    The outputs of each chunk, a tuple of arrays, without the padding.
    """
    for i in range(0, len(x), size):
        rows = x[i : i + size]
        padded = np.concatenate([rows, np.repeat(rows[:1], size - len(rows), axis=0)])
        yield tuple(column[: len(rows)] for column in function(padded))


def logsumexp(a: Any, axis: Any = None):
    """Compute ln(sum(exp(a))) without overflow; -inf where all entries are -inf."""
    a = np.asarray(a, np.float64)
    top = np.max(a, axis=axis, keepdims=True)
    top = np.where(np.isfinite(top), top, 0.0)
    with np.errstate(divide="ignore"):
        out = np.log(np.sum(np.exp(a - top), axis=axis, keepdims=True)) + top
    return out.item() if axis is None else np.squeeze(out, axis=axis)


def normalised(logw: np.ndarray):
    """Normalise log weights (N,)."""
    return logw - logsumexp(logw)


def effective_sample_size(logw: np.ndarray):
    """Compute Kish's effective sample size (sum w)^2 / sum w^2 of log weights (N,)."""
    logw = np.asarray(logw, np.float64)
    w = np.exp(logw - np.max(logw))  # divided by the largest: equal weights give N exactly
    return float(np.sum(w) ** 2 / np.sum(w**2))


def weighted_moments(x: Array, logw: np.ndarray):
    """Compute the mean and the standard deviation of each column of x (n, m), both (m,), without a weighted copy.

    Parameters
    ----------
    x : (n, m); what has no weight may be infinite.
    logw : (n,) log weights.
    """
    weights = np.exp(logw - np.max(logw))
    weights /= weights.sum()
    counts = np.flatnonzero(weights > 0)
    parts = [counts[i : i + SUMMED] for i in range(0, len(counts), SUMMED)]
    centre = x[np.argmax(weights)]  # from which a constant column does not differ
    shift = sum(weights[rows] @ (x[rows] - centre) for rows in parts)
    var = sum(weights[rows] @ (x[rows] - centre - shift) ** 2 for rows in parts)
    return centre + shift, np.sqrt(var)


def parts_of(n: int):
    """Cut n rows into parts, for sums of many numbers a row; yields indices."""
    size = SUMMED // 16
    for start in range(0, n, size):
        yield np.arange(start, min(start + size, n))


def on_circles(x: Array, periodic: Any):
    """Replace each angle of x (..., d) by its cosine and sine, after the other coordinates."""
    angle = np.asarray(periodic, bool)
    return np.concatenate([x[..., ~angle], np.cos(x[..., angle]), np.sin(x[..., angle])], axis=-1)


def systematic_resample(rng: np.random.Generator, logw: np.ndarray, n: int):
    """Draw n indices with probability proportional to exp(logw), one uniform for all (low variance).

    Parameters
    ----------
    rng : random generator; n : number of draws.
    logw : (N,) log weights, which need not be normalised.

    Returns
    -------
    indices (n,), in ascending order.
    """
    p = np.exp(normalised(np.asarray(logw, np.float64)))
    edges = np.cumsum(p)
    points = (rng.random() + np.arange(n)) / n
    return np.minimum(np.searchsorted(edges, points * edges[-1], side="right"), len(p) - 1)


def pick_rows(points: Array, edges: Array):
    """Turn points in [0, 1) into row indices with probabilities given by cumulated weights `edges` (m,); inside jit."""
    return jnp.clip(jnp.searchsorted(edges, points * edges[-1], side="right"), 0, len(edges) - 1)


def scattered(u: Array, n: int):
    """Scatter n points evenly over [0, 1), neighbours in the list far apart; u (), uniform, makes each of them uniform.

    A Kronecker sequence of the golden ratio with a random shift: points and their place in the list fill the square evenly too.
    """
    return (u + GOLDEN * jnp.arange(n, dtype=u.dtype)) % 1


def keys_of(key: Array, n: int):
    """Make n keys of one, outside of jit: by the one program that makes any number of them."""
    return [jax.random.fold_in(key, i) for i in range(n)]


def generator_of(key: Array):
    """Make a NumPy generator of a random key, for a function that draws on the host."""
    return np.random.default_rng(np.asarray(jax.random.key_data(key)))


def drawn(draw: Callable, key: Array, shape: Any, *args, **options):
    """Return what draw(key, shape, ...) of `jax.random` gives, drawn as one row.

    The numbers are the same, but XLA on CPUs takes a second less to compile it than for rows of ten numbers or so.

    Parameters
    ----------
    draw : function of `jax.random`; key : random key.
    shape : of the result.
    *args, **options : further arguments of `draw`.
    """
    return draw(key, (math.prod(shape),), *args, **options).reshape(shape)


def uniforms(key: Array, dtype: Any, *shapes):
    """Draw arrays of uniform numbers between 0 and 1, both excluded, for use inside jit.

    All come from one row of numbers: XLA takes a sixth of a second to compile each draw, and longer for rows of ten numbers or so.

    Parameters
    ----------
    key : random key; dtype : of the numbers.
    *shapes : one for each array.

    Returns
    -------
    list of the arrays.
    """
    ends = np.cumsum([math.prod(shape) for shape in shapes])
    row = jax.random.uniform(key, (ends[-1],), dtype) + 0.5 * jnp.finfo(dtype).eps
    return [part.reshape(shape) for part, shape in zip(jnp.split(row, ends[:-1]), shapes, strict=True)]


def normal_from(pair: Array):
    """Turn uniform numbers (2, ...) into normal ones (...) (Box & Muller 1958, doi:10.1214/aoms/1177706645)."""
    return jnp.sqrt(-2 * jnp.log(pair[0])) * jnp.cos(2 * np.pi * pair[1])


def pick_columns(u: Array, logits: Array):
    """Pick a column for each row of logits (..., k), which need not be normalised, from uniform numbers u (...); returns (...)."""
    p = jax.nn.softmax(logits, axis=-1)
    edges = p @ jnp.triu(jnp.ones((p.shape[-1],) * 2, p.dtype))
    return jnp.sum(edges[..., :-1] < u[..., None] * edges[..., -1:], axis=-1)


def on_host(function: Callable, row: Any, dtype: Any):
    """Return function(row), a scalar of `dtype`, from inside JAX code; under vmap, block by block of rows.

    Parameters
    ----------
    function : NumPy function of rows (..., m) that returns (...,).
    row : (m,), traced.
    dtype : of the value.
    """

    def call(rows):
        """Send and fetch bits: the thread that calls back has the user's x64 flag, and JAX would round float64 there."""
        wide, wide_value = rows.dtype == np.float64, np.dtype(dtype) == np.float64
        sent = jax.lax.bitcast_convert_type(rows, jnp.uint32) if wide else rows
        shape = (*rows.shape[:-1], 2) if wide_value else rows.shape[:-1]

        def of_bits(bits):
            values = np.ascontiguousarray(bits)
            with precision_of("double" if wide else "single"):
                value = np.asarray(function(values.view(np.float64)[..., 0] if wide else values), dtype)
            return value[..., None].view(np.uint32) if wide_value else value

        out = jax.pure_callback(of_bits, jax.ShapeDtypeStruct(shape, np.uint32 if wide_value else dtype), sent, vmap_method="sequential")
        return jax.lax.bitcast_convert_type(out, jnp.float64) if wide_value else out

    def blocks(n, _, rows):
        size = max(1, CALLBACK_BYTES // (rows.shape[-1] * rows.dtype.itemsize))
        if n <= size:
            return call(rows), True
        n_blocks = -(-n // size)
        padded = jnp.pad(rows, ((0, n_blocks * size - n), (0, 0)), mode="edge")
        return jax.lax.map(call, padded.reshape(n_blocks, size, -1)).reshape(-1)[:n], True

    one = custom_vmap(call)
    one.def_vmap(blocks)
    return one(row)
