"""One-dimensional priors: what they are called, their arguments, and the map from a latent coordinate (or an angle) to theta."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fusions.errors import PriorError
from fusions.numerics import in_double
from fusions.priors.maps import (
    cauchy_map,
    cosine_map,
    delta_map,
    exponential_map,
    half_normal_map,
    host_icdf_map,
    host_turns,
    icdf_map,
    log_normal_map,
    log_uniform_map,
    normal_map,
    rayleigh_map,
    sine_map,
    turns,
    uniform_map,
    uniform_unit_map,
)
from fusions.priors.quantiles import tabulate


@dataclass(frozen=True)
class Distribution:
    """A one-dimensional prior, made by the constructors of this module.

    Attributes
    ----------
    name, arguments : the constructor and its values; two distributions are equal if these are.
    from_latent : map from x ~ N(0, 1) to theta.
    from_unit : map from u in [0, 1) to theta, for periodic priors (else None).
    periodic : whether the internal coordinate is an angle.
    dim : 1, or 0 for `delta`.
    traceable : whether the maps are JAX functions; if not they take and return plain numbers.
    """

    name: str
    arguments: tuple
    from_latent: Callable[[Any], Any] = field(compare=False, repr=False)
    from_unit: Callable[[Any], Any] | None = field(default=None, compare=False, repr=False)
    periodic: bool = False
    dim: int = 1
    traceable: bool = True

    def __repr__(self) -> str:
        """Return the call that makes this distribution, such as ``uniform(-5, 5)``."""
        words = [_show(a) for a in self.arguments] + ["periodic=True"] * self.periodic
        return f"{self.name}({', '.join(words)})"

    def theta(self, x: Any) -> Any:
        """Return theta at the internal coordinate x (a normal latent, or an angle if periodic)."""
        if self.from_unit is None:
            return self.from_latent(x)
        return self.from_unit(turns(x) if self.traceable else float(host_turns(x)))


def is_traceable(function: Callable, *shapes: Any) -> bool:
    """Tell whether JAX can trace `function` on arguments of these shapes, without running it."""
    try:
        jax.eval_shape(function, *shapes)
    except Exception:  # any failure of a user's function under tracing means "call it on the host"
        return False
    return True


def scalar_shape() -> jax.ShapeDtypeStruct:
    """Return the shape of a number in the default float precision."""
    return jax.ShapeDtypeStruct((), jnp.result_type(float))


def uniform(lo: float, hi: float, *, periodic: bool = False) -> Distribution:
    """Make a uniform prior on [lo, hi]; with ``periodic=True`` the two ends are the same point.

    Parameters
    ----------
    lo, hi : ends, lo < hi.
    periodic : whether the parameter lives on a circle.

    Examples
    --------
    >>> uniform(-5, 5)
    uniform(-5, 5)
    """
    lo, hi = _ordered("uniform", lo, hi)
    unit = partial(uniform_unit_map, lo=lo, hi=hi) if periodic else None
    return Distribution("uniform", (lo, hi), partial(uniform_map, lo=lo, hi=hi), unit, bool(periodic))


def log_uniform(lo: float, hi: float) -> Distribution:
    """Make a prior with density 1 / theta on [lo, hi], 0 < lo < hi."""
    lo, hi = _ordered("log_uniform", lo, hi)
    if lo <= 0:
        msg = f"log_uniform needs lo > 0, got lo={lo:g}; use a small positive number, such as 1e-3 * hi."
        raise PriorError(msg)
    return Distribution("log_uniform", (lo, hi), partial(log_uniform_map, lo=lo, hi=hi))


def normal(mu: float, sigma: float) -> Distribution:
    """Make a normal prior with mean mu and standard deviation sigma."""
    mu, sigma = _number("normal", "mu", mu), _positive("normal", "sigma", sigma)
    return Distribution("normal", (mu, sigma), partial(normal_map, mu=mu, sigma=sigma))


def truncated_normal(mu: float, sigma: float, lo: float, hi: float) -> Distribution:
    """Make a normal prior of (untruncated) mean mu and deviation sigma, restricted to [lo, hi].

    A bound may be infinite.

    Parameters
    ----------
    mu, sigma : mean and standard deviation before the truncation.
    lo, hi : bounds, lo < hi.
    """
    name = "truncated_normal"
    mu, sigma = _number(name, "mu", mu), _positive(name, "sigma", sigma)
    lo, hi = _ordered(name, lo, hi, infinite=True)
    from scipy.stats import truncnorm

    standard = truncnorm((lo - mu) / sigma, (hi - mu) / sigma)
    mirrored = truncnorm((mu - hi) / sigma, (mu - lo) / sigma)  # scipy's own isf loses the upper tail
    standard = SimpleNamespace(ppf=standard.ppf, isf=lambda p: -mirrored.ppf(p), pdf=standard.pdf, support=standard.support)
    return Distribution(name, (mu, sigma, lo, hi), tabulate(standard, mu, sigma, (lo, hi)))


def half_normal(sigma: float) -> Distribution:
    """Make the prior of ``|theta|`` for theta ~ N(0, sigma^2)."""
    sigma = _positive("half_normal", "sigma", sigma)
    return Distribution("half_normal", (sigma,), partial(half_normal_map, sigma=sigma))


def log_normal(mu: float, sigma: float) -> Distribution:
    """Make a prior in which ln theta ~ N(mu, sigma^2)."""
    mu, sigma = _number("log_normal", "mu", mu), _positive("log_normal", "sigma", sigma)
    return Distribution("log_normal", (mu, sigma), partial(log_normal_map, mu=mu, sigma=sigma))


def exponential(scale: float) -> Distribution:
    """Make an exponential prior of mean `scale` (the inverse of the rate)."""
    scale = _positive("exponential", "scale", scale)
    return Distribution("exponential", (scale,), partial(exponential_map, scale=scale))


def gamma(shape: float, scale: float) -> Distribution:
    """Make a gamma prior with density ~ theta^(shape - 1) exp(-theta / scale)."""
    shape, scale = _positive("gamma", "shape", shape), _positive("gamma", "scale", scale)
    from scipy import stats

    return Distribution("gamma", (shape, scale), tabulate(stats.gamma(shape), 0.0, scale))


def beta(a: float, b: float) -> Distribution:
    """Make a beta prior on [0, 1] with density ~ theta^(a - 1) (1 - theta)^(b - 1)."""
    a, b = _positive("beta", "a", a), _positive("beta", "b", b)
    from scipy import stats

    return Distribution("beta", (a, b), tabulate(stats.beta(a, b), 0.0, 1.0))


def student_t(df: float, mu: float, sigma: float) -> Distribution:
    """Make a Student-t prior with df degrees of freedom, centre mu and scale sigma.

    Parameters
    ----------
    df : degrees of freedom, > 0.
    mu : centre; sigma : scale, > 0.
    """
    name = "student_t"
    df, mu, sigma = _positive(name, "df", df), _number(name, "mu", mu), _positive(name, "sigma", sigma)
    from scipy import stats

    return Distribution(name, (df, mu, sigma), tabulate(stats.t(df), mu, sigma))


def cauchy(mu: float, gamma: float) -> Distribution:
    """Make a Cauchy prior with centre mu and half width at half maximum gamma."""
    mu, gamma = _number("cauchy", "mu", mu), _positive("cauchy", "gamma", gamma)
    return Distribution("cauchy", (mu, gamma), partial(cauchy_map, mu=mu, gamma=gamma))


def rayleigh(sigma: float, upper: float = math.inf) -> Distribution:
    """Make a Rayleigh prior, density ~ theta exp(-theta^2 / (2 sigma^2)), truncated at `upper`."""
    sigma = _positive("rayleigh", "sigma", sigma)
    upper = _positive("rayleigh", "upper", upper, infinite=True)
    arguments = (sigma,) if math.isinf(upper) else (sigma, upper)
    return Distribution("rayleigh", arguments, partial(rayleigh_map, sigma=sigma, upper=upper))


def sine() -> Distribution:
    """Make a prior with density sin(theta) / 2 on [0, pi]: a polar angle or inclination."""
    return Distribution("sine", (), sine_map)


def cosine() -> Distribution:
    """Make a prior with density cos(theta) / 2 on [-pi/2, pi/2]: a latitude or declination."""
    return Distribution("cosine", (), cosine_map)


def delta(value: float) -> Distribution:
    """Fix a parameter: it is reported, but not sampled."""
    value = _number("delta", "value", value)
    return Distribution("delta", (value,), partial(delta_map, value=value), dim=0)


@in_double
def icdf(function: Callable, *, periodic: bool = False) -> Distribution:
    """Make a prior from its inverse cumulative distribution function.

    Parameters
    ----------
    function : map from a number u in (0, 1) to theta; a JAX function, or plain Python or numpy.
    periodic : whether function(0) and function(1) are the same point of a circle.
    """
    if not callable(function):
        msg = f"icdf(function) needs a function u -> theta, got {function!r}; write icdf(lambda u: ...)."
        raise PriorError(msg)
    traceable = is_traceable(function, scalar_shape())
    try:
        values = [np.asarray(function(jnp.asarray(u) if traceable else u)) for u in (0.25, 0.5, 0.75)]
    except Exception as error:
        msg = f"icdf: the function raised {type(error).__name__}: {error}, at u=0.25, 0.5 or 0.75."
        raise PriorError(msg) from error
    if any(v.shape != () or v.dtype.kind not in "fiu" or not np.isfinite(v) for v in values):
        msg = f"icdf: expected the function to return one finite number, got {values[1]!r} at u=0.5."
        raise PriorError(msg)
    latent = partial(icdf_map if traceable else host_icdf_map, function=function)
    unit = function if periodic else None
    return Distribution("icdf", (function,), latent, unit, bool(periodic), traceable=traceable)


def from_scipy(frozen: Any) -> Distribution:
    """Make a prior from a frozen continuous scipy distribution, such as ``scipy.stats.gamma(2)``."""
    from scipy import stats

    family = getattr(frozen, "dist", None)
    if isinstance(family, stats.rv_discrete):
        msg = (
            f"scipy's {family.name!r} is discrete; expected a continuous distribution. "
            "Sum over a discrete parameter inside the likelihood instead."
        )
        raise PriorError(msg)
    if not isinstance(family, stats.rv_continuous):
        msg = (
            "Expected a frozen one-dimensional scipy distribution, such as scipy.stats.gamma(2), "
            f"got {frozen!r}. For a multivariate normal use priors.gaussian(names, mean, cov)."
        )
        raise PriorError(msg)
    shapes, options = frozen.args[: family.numargs], dict(sorted(frozen.kwds.items()))
    loc, scale = (*frozen.args[family.numargs :], None, None)[:2]
    loc = options.pop("loc", 0.0) if loc is None else loc
    scale = options.pop("scale", 1.0) if scale is None else scale
    words = [*shapes, *options.values(), loc, scale]
    if any(np.shape(w) != () for w in words):
        msg = f"from_scipy: expected scalars, got an array in {words!r}; make one prior per parameter."
        raise PriorError(msg)
    loc, scale = _number("from_scipy", "loc", loc), _positive("from_scipy", "scale", scale)
    latent = tabulate(family(*shapes, **options), loc, scale)
    name = str(getattr(family, "name", None) or type(family).__name__)
    known = name if type(getattr(stats, name, None)) is type(family) else family  # one of the user's own equals itself alone
    arguments = (known, *map(float, shapes), *(f"{name}={float(value)!r}" for name, value in options.items()), loc, scale)
    return Distribution("from_scipy", arguments, latent)


# Checks of arguments -------------------------------------------------------------------------------


def _show(value: Any) -> str:
    """Return a number without a trailing '.0', and a function by its name (stable between sessions)."""
    if isinstance(value, float):
        return repr(value).removesuffix(".0")
    return getattr(value, "__qualname__", None) or (value if isinstance(value, str) else type(value).__name__)


def _number(name: str, argument: str, value: Any, *, infinite: bool = False) -> float:
    """Return `value` as a float, or say what was expected."""
    try:
        number = float(value)
        usable = np.shape(value) == () and not isinstance(value, (str, bool))
    except (TypeError, ValueError):
        number, usable = math.nan, False
    if not usable or math.isnan(number) or (math.isinf(number) and not infinite):
        kind = "a number" if infinite else "a finite number"
        msg = f"{name}: expected {argument} to be {kind}, got {value!r}."
        raise PriorError(msg)
    return number


def _positive(name: str, argument: str, value: Any, *, infinite: bool = False) -> float:
    """Return `value` as a positive float, or say what was expected."""
    number = _number(name, argument, value, infinite=infinite)
    if number <= 0:
        msg = f"{name} needs {argument} > 0, got {argument}={number:g}."
        raise PriorError(msg)
    return number


def _ordered(name: str, lo: Any, hi: Any, *, infinite: bool = False) -> tuple[float, float]:
    """Return two floats with lo < hi, or say what was expected."""
    lo, hi = _number(name, "lo", lo, infinite=infinite), _number(name, "hi", hi, infinite=infinite)
    if not lo < hi:
        fix = f"write {name}(..., {hi:g}, {lo:g})" if hi < lo else "to fix a parameter use delta(value)"
        msg = f"{name} needs lo < hi, got lo={lo:g}, hi={hi:g}; {fix}."
        raise PriorError(msg)
    return lo, hi
