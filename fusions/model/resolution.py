"""Whether floating-point numbers tell the points of a posterior apart.

A parameter whose values are spaced by h takes w/h of them within a posterior of width w. The evidence is then a sum over a comb: at five
teeth it was wrong by 0.04 nats, at fifty right. log L is known no better than to its own spacing; within a posterior in d dimensions it
spreads by sqrt(d/2) nats. Live points are as wide as the posterior when the dead hold half of the evidence, and narrower later.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

from fusions.errors import PrecisionError
from fusions.model.problem import Problem
from fusions.numerics import constants_of, in_double, programs_within

COARSE, BLIND = 1e3, 30  # spacings in a spread, below which there is a warning, and an error
CONSTANT = 2  # spacings below which a derived parameter does not vary, but for rounding
WATCHED = 64  # live points that are looked at
ROUNDING = 0.01  # nats by which rounding may change log L without a word: the usual error of ln Z
SINGLE = float(np.finfo(np.float32).epsneg)  # relative rounding error of float32
DOUBLES = "pass float64 data (NumPy arrays, or JAX arrays made with jax_enable_x64 on)"
REFERENCE = "subtract a reference value from it, and from the data that it is compared with"


class Coarse(NamedTuple):
    """What numbers hardly resolve.

    Attributes
    ----------
    name : of the parameter, or "log L".
    n_spacings : spacings of numbers in the spread of the live points.
    advice : what to do about it.
    certain : whether the run itself can't tell the points apart, not just a likelihood that rounds to float32 on the way.
    """

    name: str
    n_spacings: float
    advice: str
    certain: bool

    def __str__(self) -> str:
        """Say so in a sentence."""
        numbers = "floating-point numbers" if self.certain else "float32 numbers, to which the likelihood rounds on the way,"
        return f"the live points spread over no more than {self.n_spacings:.3g} {numbers} in {self.name}: {self.advice}."


class Inside(NamedTuple):
    """What a traced likelihood computes in single precision.

    Attributes
    ----------
    casts : whether it rounds to float32 on the way.
    constants : number of float32 arrays that it closes over.
    change : function (theta (n, n_names)) -> (n,), by how much log L changes if the last digits of these do.
    """

    casts: bool
    constants: int
    change: Callable[..., Any] | None


def spacing(values: np.ndarray, largest: float) -> float:
    """Return the spacing of numbers at the largest of values (n,): that of float32 if these hold no more digits, and are no integers."""
    with np.errstate(over="ignore"):
        single = np.array_equal(values.astype(np.float32), values)
    counts = np.abs(largest) < 2**23 and np.array_equal(values, np.rint(values))  # float32 has fractions there
    return float(np.spacing(np.abs(np.float32(largest) if single and not counts else largest)))


def _spread(values: np.ndarray) -> tuple[float, float]:
    """Return the standard deviation of values (n,) and the largest of them, without overflow."""
    largest = float(np.max(np.abs(values)))
    return (float((values / largest).std()) * largest, largest) if largest > 0 else (0.0, 0.0)


def coarse(problem: Problem, x: np.ndarray, logL: np.ndarray, inside: Inside) -> list[Coarse]:
    """List what numbers hardly resolve among live points x (n, d) with logL (n,), the worst first.

    Parameters of which all points have the same value are left out, and so is log L on a plateau. What a transform of the prior adds may
    be constant but for its rounding.
    """
    rows = np.linspace(0, len(x) - 1, min(WATCHED, len(x))).astype(int)
    free = {name for block in problem.prior.blocks if block.dim for name in block.names}
    found = []
    for name, values in zip(problem.prior.names, problem.prior.theta_rows(x[rows]).T, strict=True):
        spread, largest = _spread(values) if np.isfinite(values).all() else (0.0, 0.0)
        if spread > 0 and np.ptp(values) > 0:
            found.append(Coarse(name, spread / spacing(values, largest), REFERENCE, certain=name in free))
            if inside.casts:
                found.append(Coarse(name, spread / (2 * SINGLE * largest), REFERENCE, certain=False))
    heights = np.unique(logL[np.isfinite(logL)])
    if len(heights) > 1:
        nats = max(_spread(heights)[0], np.sqrt(x.shape[1] / 2))
        found.append(Coarse("log L", nats / spacing(heights, heights[-1]), f"leave a constant out of it, and {DOUBLES}", certain=True))
    varying = [entry for entry in found if entry.name in free or entry.name == "log L" or entry.n_spacings > CONSTANT]
    return sorted((entry for entry in varying if entry.n_spacings < COARSE), key=lambda entry: entry.n_spacings)


def refuse_blind(found: Sequence[Coarse]) -> None:
    """Raise a PrecisionError for what numbers do not resolve."""
    for entry in found:
        if entry.certain and entry.n_spacings < BLIND:
            raise PrecisionError(f"The run can't go on because {entry}")


@in_double
def look_inside(problem: Problem) -> Inside:
    """Find out what a likelihood computes in single precision; of a black box nothing is known, and in single precision nothing new."""
    if not problem.traceable or jnp.result_type(float) != np.float64:
        return Inside(casts=False, constants=0, change=None)
    shape = jax.ShapeDtypeStruct((len(problem.prior.names),), jnp.float64)
    closed = jax.make_jaxpr(lambda theta: problem.call_one(theta)[0])(shape)

    def change(theta):
        programs = closed, _moved(closed, np.random.default_rng(0))
        values = [np.asarray(jax.jit(jax.vmap(jaxpr_as_fun(program)))(theta)[0]) for program in programs]
        return np.abs(values[1] - values[0]) / 2  # a digit is off by half of the last place at most

    return Inside(_casts(closed.jaxpr), sum(map(_is_narrow, constants_of(closed))), change)


def _is_narrow(value) -> bool:
    """Tell whether an array holds fewer digits than float64."""
    dtype = getattr(value, "dtype", np.dtype(int))
    return jnp.issubdtype(dtype, jnp.floating) and dtype.itemsize < 8


def _moved(closed, rng):
    """Return the program with the last digits of the arrays of `_is_narrow` moved up or down."""

    def of_value(value):
        if isinstance(value, (tuple, list)):
            return type(value)(map(of_value, value)) if any(isinstance(part, ClosedJaxpr) for part in value) else value
        return _moved(value, rng) if isinstance(value, ClosedJaxpr) else value

    def of_constant(value):
        if not _is_narrow(value):
            return value
        exact, eps = np.asarray(value).astype(float), float(jnp.finfo(value.dtype).eps)
        return jnp.asarray(exact * (1 + eps * rng.choice([-1.0, 1.0], exact.shape)), value.dtype)

    equations = [eqn.replace(params={name: of_value(value) for name, value in eqn.params.items()}) for eqn in closed.jaxpr.eqns]
    return ClosedJaxpr(closed.jaxpr.replace(eqns=equations), [of_constant(value) for value in closed.consts])


def _casts(jaxpr) -> bool:
    """Tell whether a program rounds float64 to fewer digits anywhere."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "convert_element_type" and equation.invars[0].aval.dtype == np.float64:
            if _is_narrow(equation.outvars[0].aval):
                return True
    return any(_casts(part.jaxpr) for part in programs_within(jaxpr))


@in_double
def rounded_constants(problem: Problem, inside: Inside, x: np.ndarray, logL: np.ndarray) -> list[str]:
    """Warn of float32 data of a traced likelihood whose rounding matters near the highest points x (n, d) with logL (n,).

    Parameters
    ----------
    problem : Problem; inside : Inside.
    x : (n, d); logL : (n,) [nats].

    Returns
    -------
    list of warnings, one or none.
    """
    if not inside.constants or inside.change is None:
        return []
    change = float(np.max(inside.change(problem.prior.theta_rows(x))))
    rounding = max(change, SINGLE * float(np.max(np.abs(logL))))
    if not rounding > ROUNDING:
        return []
    return [
        f"The likelihood holds float32 data: their seven digits leave log L = {np.max(logL):.6g} uncertain by about {rounding:.2g} nats, "
        f"which no check of this run sees. Expected float64: {DOUBLES}."
    ]
