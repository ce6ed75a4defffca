"""What `Problem(data=)` hands to a likelihood: a tree of arrays and anything else.

Arrays of numbers are arguments of the programs that JAX compiles; everything else is fixed in them.
"""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

FIXED = bool, int, float, complex, str, bytes  # what beside arrays is told apart by its value


def arrays_of(data: Any) -> tuple[Any, ...]:
    """Return the arrays of numbers among the data, or what stands for them."""
    return tuple(filter(_is_array, _leaves(data)))


def digest(data: Any) -> str:
    """Return a hash of the arrays, numbers and text in the data, the same in every session."""
    return hashlib.sha256(repr([_value_of(leaf) for leaf in _leaves(data)]).encode()).hexdigest()


def shaped(data: Any) -> Any:
    """Return the data with what stands for them in place of the arrays of numbers."""
    return _mapped(lambda leaf: shape_of(leaf) if _is_array(leaf) else leaf, data)


def with_arrays(data: Any, arrays: tuple[Any, ...]) -> Any:
    """Return the data with other arrays in place of their arrays of numbers, in the order of `arrays_of`."""
    given = iter(arrays)
    return _mapped(lambda leaf: next(given) if _is_array(leaf) else leaf, data)


def key_of(data: Any) -> Any:
    """Return what tells the data from others: their tree with the order of keys, and their leaves."""
    parts, tree = jax.tree.flatten(data, is_leaf=_is_dict)
    return tree, tuple((tuple(part), *map(key_of, part.values())) if _is_dict(part) else _key_of_leaf(part) for part in parts)


def shape_of(leaf: Any) -> jax.ShapeDtypeStruct:
    """Return what stands for an array in programs."""
    return jax.ShapeDtypeStruct(leaf.shape, jax.dtypes.canonicalize_dtype(leaf.dtype, allow_extended_dtype=True))


def _key_of_leaf(leaf: Any) -> Any:
    """Return what tells a part of the data from others in this process: its value, or the object where it has none."""
    value = _value_of(leaf)
    return id(leaf) if value is None else value


def _value_of(leaf: Any) -> Any:
    """Return what tells a part of the data from others by its values, those of an array if they are there; None for other objects."""
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return leaf.shape, str(leaf.dtype)
    if _is_plain(leaf) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return str(leaf.dtype), _value_of(jax.random.key_data(leaf))
    if _is_plain(leaf) and not leaf.dtype.hasobject:
        return leaf.shape, str(leaf.dtype), hashlib.sha256(np.asarray(leaf).tobytes()).digest()
    return (type(leaf), leaf) if isinstance(leaf, FIXED) else None


def _is_array(leaf: Any) -> bool:
    """Tell whether a part of the data is an array of numbers, or stands for one."""
    if not (_is_plain(leaf) or isinstance(leaf, jax.ShapeDtypeStruct)) or jnp.issubdtype(leaf.dtype, np.timedelta64):
        return False
    return any(jnp.issubdtype(leaf.dtype, kind) for kind in (np.number, np.bool_, jax.dtypes.prng_key))


def _is_plain(leaf: Any) -> bool:
    """Tell whether a part is an array that is nothing but its numbers: no mask, no unit."""
    return type(leaf) in (np.ndarray, np.memmap) or isinstance(leaf, jax.Array)


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


def _is_dict(part: Any) -> bool:
    return type(part) in (dict, defaultdict)
