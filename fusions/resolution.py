"""Whether floating-point numbers tell the points of a posterior apart.

A parameter whose values are spaced by h takes w/h of them within a posterior of width w. The evidence is then a sum over a comb: at five
teeth it was wrong by 0.04 nats, at fifty right. log L is known no better than to its own spacing; within a posterior in d dimensions it
spreads by sqrt(d/2) nats.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

from fusions.errors import PrecisionError
from fusions.numerics import in_double
from fusions.problem import Problem

COARSE, BLIND = 1e3, 30  # spacings in a spread, below which there is a warning, and an error
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
    change: object


def spacing(values: np.ndarray, largest: float) -> float:
    """Return the spacing of numbers at the largest of values (n,): that of float32 if these hold no more digits."""
    with np.errstate(over="ignore"):
        single = np.array_equal(values.astype(np.float32), values)
    return float(np.spacing(np.abs(np.float32(largest) if single else largest)))


def coarse(problem: Problem, x: np.ndarray, logL: np.ndarray, inside: Inside) -> list[Coarse]:
    """List what numbers hardly resolve among live points x (n, d) with logL (n,), the worst first.

    Parameters of which all points have the same value are left out, and so is log L on a plateau.
    """
    rows = np.linspace(0, len(x) - 1, min(WATCHED, len(x))).astype(int)
    found = []
    for name, values in zip(problem.prior.names, problem.prior.theta_rows(x[rows]).T, strict=True):
        spread, largest = values.std(), float(np.max(np.abs(values)))
        if np.isfinite(spread) and np.ptp(values) > 0:
            found.append(Coarse(name, spread / spacing(values, largest), REFERENCE, certain=True))
            if inside.casts:
                found.append(Coarse(name, spread / (2 * SINGLE * largest), REFERENCE, certain=False))
    heights = np.unique(logL[np.isfinite(logL)])
    if len(heights) > 1:
        nats = max(float(heights.std()), np.sqrt(x.shape[1] / 2))
        found.append(Coarse("log L", nats / spacing(heights, heights[-1]), f"leave a constant out of it, and {DOUBLES}", certain=True))
    return sorted((entry for entry in found if entry.n_spacings < COARSE), key=lambda entry: entry.n_spacings)


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
    single = [i for i, value in enumerate(closed.consts) if getattr(value, "dtype", None) == np.float32]

    def change(theta):
        rng, other = np.random.default_rng(0), list(closed.consts)
        for i in single:
            value = np.asarray(other[i])
            other[i] = jnp.asarray(np.nextafter(value, np.where(rng.random(value.shape) < 0.5, -np.inf, np.inf).astype(np.float32)))
        values = [jax.jit(jax.vmap(jaxpr_as_fun(ClosedJaxpr(closed.jaxpr, consts))))(theta)[0] for consts in (closed.consts, other)]
        return np.abs(np.asarray(values[1]) - np.asarray(values[0])) / 2  # a digit is off by half of the last place at most

    return Inside(_casts(closed.jaxpr), len(single), change)


def _casts(jaxpr) -> bool:
    """Tell whether a program rounds float64 to float32 anywhere."""
    for equation in jaxpr.eqns:
        narrow = equation.primitive.name == "convert_element_type" and equation.params["new_dtype"] == np.float32
        if narrow and equation.invars[0].aval.dtype == np.float64:
            return True
        values = [value for group in equation.params.values() for value in (group if isinstance(group, (tuple, list)) else [group])]
        if any(_casts(getattr(value, "jaxpr", value)) for value in values if hasattr(value, "eqns") or hasattr(value, "jaxpr")):
            return True
    return False


@in_double
def rounded_constants(problem: Problem, inside: Inside, x: np.ndarray, logL: np.ndarray) -> list[str]:
    """Warn of float32 data of a traced likelihood whose rounding matters near the highest points x (n, d) with logL (n,)."""
    if not inside.constants:
        return []
    change = float(np.max(inside.change(problem.prior.theta_rows(x))))
    rounding = max(change, SINGLE * float(np.max(np.abs(logL))))
    if not rounding > ROUNDING:
        return []
    return [
        f"The likelihood holds float32 data: their seven digits leave log L = {np.max(logL):.6g} uncertain by about {rounding:.2g} nats, "
        f"which no check of this run sees. Expected float64: {DOUBLES}."
    ]
