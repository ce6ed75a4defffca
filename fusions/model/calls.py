"""Calls of the user's likelihood: what it takes, and what it must return."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from fusions.errors import LikelihoodError, advice_on


class ReturnError(Exception):
    """The user's function returned something else than agreed; the text says what."""


@dataclass(frozen=True)
class Call:
    """How the user's function is called, at one point or at many.

    Attributes
    ----------
    function : the user's; it returns log L, or log L and b blobs.
    names : of the n_names parameters.
    blobs : names of the derived parameters.
    array : whether it takes the vector of parameters instead of a dict.
    rest : what it takes after them: the data, or nothing.
    """

    function: Callable[..., Any]
    names: tuple[str, ...]
    blobs: tuple[str, ...]
    array: bool
    rest: tuple[Any, ...]

    def argument(self, theta: Any) -> Any:
        """Return what the function takes at theta (..., n_names)."""
        if self.array:
            return theta
        return dict(zip(self.names, theta if isinstance(theta, list) else theta.T, strict=True))

    def checked(self, result: Any) -> tuple[Any, list[Any]]:
        """Return log L and the list of blobs of one point, all of them real scalars (tracers as well)."""
        logL, blobs = self._split(result)
        logL, values = _alone(logL), [_alone(value) for value in self._blob_values(blobs)]
        _check_real(logL, (), "log L")
        for name, value in zip(self.blobs, values, strict=True):
            _check_real(value, (), f"the blob {name!r}")
        return logL, values

    def rows(self, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return log L (n,) and blobs (n, b) at theta (n, n_names), by a call for each point."""
        return self.stacked([self.row(row) for row in theta])

    def row(self, row: np.ndarray, numbers: Callable = np.ndarray.tolist) -> tuple[float, list[float]]:
        """Return log L and blobs at one point (n_names,), which `numbers` turns into a list."""
        argument = row.copy() if self.array else self.argument(numbers(row))
        try:
            result = self.function(argument, *self.rest)
        except Exception as error:
            raise _raised(error, describe_theta(self.names, row)) from error
        return self.read_row(row, result)

    def read_row(self, row: np.ndarray, result: Any) -> tuple[float, list[float]]:
        """Return log L and blobs of what the function returned at one point (n_names,)."""
        try:
            logL, blobs = self.checked(result)
        except ReturnError as error:
            msg = f"Likelihood at {describe_theta(self.names, row)}: {error}"
            raise LikelihoodError(msg) from None
        return float(logL), [float(value) for value in blobs]

    def stacked(self, rows: list[tuple[float, list[float]]]) -> tuple[np.ndarray, np.ndarray]:
        """Return log L (n,) and blobs (n, b) of single points."""
        logL = np.array([row[0] for row in rows], float)
        return logL, np.array([row[1] for row in rows], float).reshape(len(rows), len(self.blobs))

    def batch(self, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return log L (n,) and blobs (n, b) of a vectorized function at theta (n, n_names)."""
        n = len(theta)
        if n == 0:
            return np.zeros(0), np.zeros((0, len(self.blobs)))
        try:
            result = self.function(self.argument(theta.copy()), *self.rest)
        except Exception as error:
            raise _raised(error, self._find_raising(theta)) from error
        return self.read_batch(theta, result)

    def read_batch(self, theta: np.ndarray, result: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return log L (n,) and blobs (n, b) of what a vectorized function returned at theta (n, n_names)."""
        n = len(theta)
        try:
            logL, blobs = self._split(result)
            _check_real(logL, (n,), f"log L of a batch of {n} points")
            columns = self._blob_columns(blobs, n)
        except ReturnError as error:
            msg = f"Likelihood in a batch of {n} points, the first at {describe_theta(self.names, theta[0])}: {error}"
            raise LikelihoodError(msg) from None
        return np.asarray(logL, float), columns

    def _split(self, result: Any) -> tuple[Any, Any]:
        """Return log L and blobs (None without) of what the function returned."""
        if result is None:
            text = "the likelihood returned None; is a return statement missing?"
            raise ReturnError(text)
        if not self.blobs:
            if isinstance(result, Mapping) or (isinstance(result, (tuple, list)) and len(result) != 1):
                text = (
                    f"the likelihood returned a {type(result).__name__} of {len(result)}, expected log L alone; "
                    "name derived parameters with blobs=[...]."
                )
                raise ReturnError(text)
            return result, None
        if not isinstance(result, (tuple, list)) or len(result) != 2:
            got = f"{len(result)} values" if isinstance(result, (tuple, list)) else type(result).__name__
            text = f"expected the likelihood to return (logL, blobs), blobs={list(self.blobs)!r}, got {got}."
            raise ReturnError(text)
        return tuple(result)

    def _blob_values(self, blobs: Any) -> list[Any]:
        """Return the blobs of one point in the order of their names."""
        names = self.blobs
        if isinstance(blobs, Mapping):
            if set(blobs) != set(names):
                text = f"expected blobs with the keys {list(names)!r}, got {list(blobs)!r}."
                raise ReturnError(text)
            return [blobs[name] for name in names]
        if not names:
            return []
        if len(names) == 1 and not isinstance(_alone(blobs), (tuple, list)):
            return [_alone(blobs)]
        shape = np.shape(blobs) if not isinstance(blobs, (tuple, list)) else (len(blobs),)
        if shape != (len(names),):
            text = f"expected {len(names)} blobs {list(names)!r}, got shape {shape}."
            raise ReturnError(text)
        return [blobs[i] for i in range(len(names))]

    def _blob_columns(self, blobs: Any, n: int) -> np.ndarray:
        """Return the blobs (n, b) of a vectorized function, given so or as a dict of (n,) arrays."""
        if not self.blobs:
            return np.zeros((n, 0))
        if isinstance(blobs, Mapping):
            columns = self._blob_values(blobs)
            for name, column in zip(self.blobs, columns, strict=True):
                _check_real(column, (n,), f"the blob {name!r}")
            return np.stack([np.asarray(column, float) for column in columns], axis=1)
        if len(self.blobs) == 1 and np.shape(blobs) == (n,):
            blobs = np.reshape(blobs, (n, 1))
        _check_real(blobs, (n, len(self.blobs)), "the array of blobs")
        return np.asarray(blobs, float)

    def _find_raising(self, theta: np.ndarray) -> str:
        """Name the point at which a vectorized function raises, by halving the batch."""
        n = len(theta)
        while len(theta) > 1:
            half = len(theta) // 2
            theta = theta[:half] if self._raises(theta[:half]) else theta[half:]
        where = describe_theta(self.names, theta[0])
        return where if n == 1 or self._raises(theta) else f"a batch of {n} points, one of them {where}"

    def _raises(self, theta: np.ndarray) -> bool:
        """Tell whether a vectorized function raises on a batch."""
        try:
            self.function(self.argument(theta.copy()), *self.rest)
        except Exception:  # whatever a user's function raises
            return True
        return False


def describe_theta(names: tuple[str, ...], theta: np.ndarray) -> str:
    """Write parameters theta (n_names,) as ``m=1.2, c=0.3``."""
    return ", ".join(f"{name}={value:.10g}" for name, value in zip(names, theta, strict=True))


def _raised(error: BaseException, where: str) -> LikelihoodError:
    """Return the error for an exception of the user's function."""
    text = f"{type(error).__name__}: {error}"
    return LikelihoodError(f"Likelihood raised {text} at {where}. {advice_on(text)}")


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
        raise ReturnError(text)
    dtype = value.dtype if hasattr(value, "dtype") else np.asarray(value).dtype
    if np.shape(value) != shape:
        what_else = "; sum over the data, or name vectorized=True" if shape == () and what == "log L" else ""
        text = f"expected {what} to have shape {shape}, got shape {np.shape(value)}{what_else}."
        raise ReturnError(text)
    if jnp.issubdtype(dtype, np.complexfloating):
        text = f"expected {what} to be real, got complex numbers; return the real part."
        raise ReturnError(text)
    if (dtype.kind in "USmMO" and not _is_float(value)) or (dtype.kind == "b" and what.startswith("log L")):
        text = f"expected {what} to be a number, got {value!r}."
        raise ReturnError(text)


def _is_float(value: Any) -> bool:
    """Tell whether Python can convert an exotic number (a Decimal, an mpmath float) to a float."""
    if isinstance(value, str):
        return False
    try:
        float(value)
    except (TypeError, ValueError, OverflowError):
        return False
    return True
