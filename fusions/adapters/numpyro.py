"""numpyro models as problems.

The internal coordinates of a latent site are standard normal where its distribution can be written as a map of normals or has an inverse
cdf, angles on a circle, and else the unconstrained coordinates of numpyro with the site's density. A site may depend on sites before it:
the map from coordinates to values runs the model once.
"""

import itertools
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.extend.core import ClosedJaxpr, Var
from numpyro import handlers
from numpyro.distributions import biject_to, constraints
from numpyro.distributions.distribution import (
    ExpandedDistribution,
    FoldedDistribution,
    ImproperUniform,
    Independent,
    MaskedDistribution,
    TransformedDistribution,
)

from fusions.errors import ProblemError
from fusions.model.problem import Problem
from fusions.numerics import ADDRESS, digest_of, in_double
from fusions.priors.blocks import Block
from fusions.priors.maps import cauchy_map, cotangent, exponential_map, half_normal_map, turns, uniform_map, unit_interval
from fusions.priors.prior import Prior
from fusions.priors.quantiles import cut

LOG_2PI = math.log(2 * math.pi)


def _half_cauchy(x):
    angle = 0.5 * math.pi * unit_interval(-jnp.abs(x))  # by the nearer tail
    return jnp.where(x < 0, jnp.tan(angle), cotangent(x, 0.5))


# Maps of standard normals that are exact in both tails, in float32 as well
NORMAL_MAPS: dict[type, Callable] = {
    dist.Normal: lambda fn, x: fn.loc + fn.scale * x,
    dist.Uniform: lambda fn, x: uniform_map(x, fn.low, fn.high),
    dist.HalfNormal: lambda fn, x: half_normal_map(x, fn.scale),
    dist.Exponential: lambda fn, x: exponential_map(x, 1 / fn.rate),
    dist.Cauchy: lambda fn, x: cauchy_map(x, fn.loc, fn.scale),
    dist.HalfCauchy: lambda fn, x: fn.scale * _half_cauchy(x),
    dist.MultivariateNormal: lambda fn, x: fn.loc + jnp.einsum("...ij,...j->...i", fn.scale_tril, x, precision="highest"),
}


@in_double
def make_problem(model, args, kwargs):
    """Make a `Problem` of a model and its arguments; see `fusions.from_numpyro`.

    Parameters
    ----------
    model : numpyro model.
    args : tuple of its positional arguments; kwargs : dict of the others.
    """
    checked = handlers.substitute(model, substitute_fn=_refuse_latent)
    sites = handlers.trace(handlers.seed(checked, 0)).get_trace(*args, **kwargs)
    for site in sites.values():
        _refuse_site(site)
    latents = [_latent(site) for site in sites.values() if _is_latent(site)]
    if not latents:
        raise ProblemError("The numpyro model has no latent site; expected at least one numpyro.sample(name, distribution) without obs=.")
    derived = {name: jnp.shape(site["value"]) for name, site in sites.items() if site["type"] == "deterministic"}
    walk = _Walk(partial(model, *args, **kwargs), tuple(latents))
    blobs = tuple(itertools.chain.from_iterable(_components(name, shape) for name, shape in derived.items()))
    likelihood = partial(_loglikelihood, model=model, latents=walk.latents, derived=tuple(derived))
    return Problem(Prior(_block(walk)), likelihood, blobs=blobs, array=True, traceable=True, data=(args, kwargs))


# Latent sites -------------------------------------------------------------------------------------------------


class Latent(NamedTuple):
    """A latent site.

    Attributes
    ----------
    name : name of the site.
    shape : shape of its value.
    inner : shape of its internal coordinates.
    kind : key of `KINDS`.
    text : how its distribution is written.
    """

    name: str
    shape: tuple
    inner: tuple
    kind: str
    text: str

    @property
    def dim(self):
        """Number of internal coordinates."""
        return math.prod(self.inner)


def _is_latent(site):
    return site["type"] == "sample" and not site["is_observed"]


def _refuse_site(site):
    """Raise an error for what has no evidence, or none that can be computed here."""
    name, kind = site.get("name"), site["type"]
    if kind == "plate" and len(site["value"]) != site["args"][0]:
        size, subsample = site["args"]
        raise ProblemError(
            f"The plate {name!r} takes {subsample} of {size} at random, which makes the likelihood random; expected all of them. Leave "
            "subsample_size out."
        )
    if kind in ("param", "mutable", "prng_key"):
        raise ProblemError(
            f"The model has numpyro.{kind}({name!r}), which has no prior; expected sample, deterministic, factor and plate. Write "
            "numpyro.sample with a prior, or fix the value."
        )


def _refuse_latent(site):
    """Raise an error for a latent site without a proper continuous prior, before a value is drawn; None lets it be drawn."""
    if not _is_latent(site):
        return
    name, fn = site["name"], site["fn"]
    if fn.support is None or fn.support.is_discrete:
        raise ProblemError(
            f"The latent site {name!r} is discrete ({_text(fn)}); expected continuous ones. Sum over its values, for example with "
            "dist.MixtureGeneral or dist.MixtureSameFamily, or with logsumexp and numpyro.factor."
        )
    if isinstance(fn, ImproperUniform):
        raise ProblemError(f"The latent site {name!r} has an improper prior, so that there is no evidence. Give it a proper one.")
    if isinstance(_unwrapped(fn), dist.Delta):
        raise ProblemError(f"The latent site {name!r} is a Delta, which has no density. Write numpyro.deterministic({name!r}, value).")
    if isinstance(fn, MaskedDistribution) or site["scale"] is not None:
        raise ProblemError(
            f"The prior of the latent site {name!r} is masked or scaled, so that it is not normalised and there is no evidence. Put "
            "handlers.mask, handlers.scale and obs_mask on observed sites or factors alone."
        )


def _latent(site):
    """Describe a latent site of a trace."""
    name, fn, value = site["name"], site["fn"], site["value"]
    if site.get("_control_flow_done"):
        raise ProblemError(f"The latent site {name!r} stands in a scan; expected a plate or a Python loop instead.")
    kind = _kind(fn, name, periodic=bool(site["infer"].get("periodic")))
    inner = jnp.shape(biject_to(fn.support).inv(value)) if kind == "density" else jnp.shape(value)
    return Latent(name, jnp.shape(value), inner, kind, _text(fn) if KINDS[kind].standard else _text_with_parameters(fn))


def _kind(fn, name, *, periodic):
    """Choose the internal coordinates of a distribution."""
    bare = _unwrapped(fn)
    if periodic and type(bare) is dist.Uniform:
        return "turn"
    if _support(fn) is constraints.circular:
        return "angle"
    if periodic:
        raise ProblemError(f"The site {name!r} can't be periodic: expected dist.Uniform or dist.VonMises, got {_text(fn)}.")
    return "density" if _normal_map(fn) is None else "normal"


def _support(fn):
    support = fn.support
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return support


def _unwrapped(fn):
    """Return the distribution within expansions and `to_event`."""
    while isinstance(fn, (ExpandedDistribution, Independent)):
        fn = fn.base_dist
    return fn


def _normal_map(fn):
    """Return the map from standard normals to a value of the same shape, or None if there is none."""
    fn = _unwrapped(fn)
    if type(fn) in NORMAL_MAPS:
        return partial(NORMAL_MAPS[type(fn)], fn)
    if isinstance(fn, FoldedDistribution):
        return None
    if isinstance(fn, TransformedDistribution) and fn.base_dist.shape() == fn.shape():
        base = _normal_map(fn.base_dist)
        return base and partial(_transformed, base=base, transforms=fn.transforms)
    try:
        jax.eval_shape(fn.icdf, jax.ShapeDtypeStruct(fn.shape(), jnp.result_type(float)))
    except Exception:  # not implemented, or by a package that is not installed
        return None
    return lambda x: fn.icdf(unit_interval(x))


def _transformed(x, base, transforms):
    value = base(cut(x))
    for transform in transforms:
        value = transform(value)
    return value


def _text(fn):
    """Write a distribution as the name of its class."""
    return type(_unwrapped(fn)).__name__


def _text_with_parameters(fn):
    """Write a distribution whose parameters do not show in the map to its values, so that another one is told from it on resuming."""
    fn = _unwrapped(fn)
    known = [(name, np.asarray(getattr(fn, name))) for name in fn.arg_constraints if hasattr(fn, name)]
    return f"{_text(fn)}({', '.join(f'{name}={np.array2string(value, precision=5)}' for name, value in known)})"


# Kinds of coordinates: value and prior log density at coordinates, coordinates of a draw --------------------------


class Kind(NamedTuple):
    """How a site is written in internal coordinates.

    Attributes
    ----------
    place : (distribution, x) -> value, log density of x (a scalar).
    draw : (distribution, key, shape) -> x.
    periodic : whether coordinates are angles.
    standard : whether coordinates are standard normal, or uniform on the circle.
    """

    place: Callable
    draw: Callable
    periodic: bool
    standard: bool


def _place_normal(fn, x):
    return _normal_map(fn)(x), -0.5 * jnp.sum(x * x + LOG_2PI)


def _place_turn(fn, x):
    bare = _unwrapped(fn)
    return jnp.clip(bare.low + (bare.high - bare.low) * turns(x), bare.low, bare.high), jnp.asarray(-LOG_2PI * x.size, x.dtype)


def _place_angle(fn, x):
    value = 2 * math.pi * turns(x) - math.pi
    return value, jnp.sum(fn.log_prob(value))


def _place_density(fn, x):
    transform = biject_to(fn.support)
    value = transform(x)
    return value, jnp.sum(fn.log_prob(value)) + jnp.sum(transform.log_abs_det_jacobian(x, value))


KINDS = {
    "normal": Kind(_place_normal, lambda fn, key, shape: jax.random.normal(key, shape), periodic=False, standard=True),
    "turn": Kind(
        _place_turn, lambda fn, key, shape: jax.random.uniform(key, shape, minval=-math.pi, maxval=math.pi), periodic=True, standard=True
    ),
    "angle": Kind(_place_angle, lambda fn, key, shape: fn.sample(key), periodic=True, standard=False),
    "density": Kind(_place_density, lambda fn, key, shape: biject_to(fn.support).inv(fn.sample(key)), periodic=False, standard=False),
}


# The prior --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Walk:
    """A model without arguments and its latent sites, in their order."""

    model: Callable
    latents: tuple

    def values(self, x):
        """Return all values (k,) at internal coordinates x (d,), and the log density of x."""
        ends = np.cumsum([0, *(latent.dim for latent in self.latents)])
        parts = {latent.name: jnp.reshape(x[a:b], latent.inner) for latent, a, b in zip(self.latents, ends[:-1], ends[1:], strict=True)}
        values, densities = {}, []

        def place(latent, fn):
            values[latent.name], density = KINDS[latent.kind].place(fn, parts[latent.name])
            densities.append(density)
            return values[latent.name]

        self._run(place)
        return _flat(values, self.latents, x.dtype), sum(densities)

    def draw(self, key):
        """Return internal coordinates (d,) of one draw."""
        found = {}

        def place(latent, fn):
            own = jax.random.fold_in(key, self.latents.index(latent))
            found[latent.name] = KINDS[latent.kind].draw(fn, own, latent.inner)
            return KINDS[latent.kind].place(fn, found[latent.name])[0]

        self._run(place)
        return _flat(found, self.latents, jnp.result_type(float))

    def _run(self, place):
        """Run the model with the values that `place` gives its latent sites, in their order."""
        known = {latent.name: latent for latent in self.latents}

        def substitute(site):
            return place(known[site["name"]], site["fn"]) if site["type"] == "sample" and site["name"] in known else None

        handlers.substitute(self.model, substitute_fn=substitute)()


def _block(walk: _Walk) -> Block:
    """Make the prior of all latent sites."""
    names = tuple(itertools.chain.from_iterable(_components(latent.name, latent.shape) for latent in walk.latents))
    kinds = [KINDS[latent.kind] for latent in walk.latents]
    flags = tuple(kind.periodic for latent, kind in zip(walk.latents, kinds, strict=True) for _ in range(latent.dim))
    words = ", ".join(f"{latent.name}={latent.text}" for latent in walk.latents)
    own: dict[str, Any] = {}
    if not all(kind.standard for kind in kinds):
        draw = jax.jit(jax.vmap(walk.draw))
        own = {"draw": lambda key, n: draw(jax.random.split(key, n)), "log_prob": lambda x: walk.values(x)[1]}
    return Block(names, len(flags), lambda x: walk.values(x)[0], f"numpyro({words})", flags, **own, arguments=_program(walk))


def _program(walk):
    """Return a digest of what the prior computes, without the data that the likelihood alone reads; () if its text does not tell it all."""
    closed = jax.make_jaxpr(walk.values)(jax.ShapeDtypeStruct((sum(latent.dim for latent in walk.latents),), jnp.result_type(float)))
    needed, equations = {v for v in closed.jaxpr.outvars if isinstance(v, Var)}, []
    for equation in reversed(closed.jaxpr.eqns):
        if needed.intersection(equation.outvars):
            equations.append(equation)
            needed.update(v for v in equation.invars if isinstance(v, Var))
    known = {v: value for v, value in zip(closed.jaxpr.constvars, closed.consts, strict=True) if v in needed}
    jaxpr = closed.jaxpr.replace(eqns=equations[::-1], constvars=list(known))
    return () if re.search(ADDRESS, str(jaxpr)) else (digest_of(ClosedJaxpr(jaxpr, list(known.values()))),)


def _components(name, shape):
    """Return the names of the components of a site, such as theta[0]."""
    return [f"{name}[{','.join(map(str, index))}]" if index else name for index in np.ndindex(*shape)]


def _flat(values, latents, dtype):
    return jnp.concatenate([jnp.ravel(values[latent.name]).astype(dtype) for latent in latents])


# The likelihood ---------------------------------------------------------------------------------------------------


def _loglikelihood(theta, data, model, latents, derived):
    """Return log L of the observed sites at theta (k,), with the deterministic sites (b,) if there are any; data are args and kwargs."""
    args, kwargs = data
    ends = np.cumsum([0, *(math.prod(latent.shape) for latent in latents)])
    values = {latent.name: jnp.reshape(theta[a:b], latent.shape) for latent, a, b in zip(latents, ends[:-1], ends[1:], strict=True)}
    sites = handlers.trace(handlers.substitute(model, data=values)).get_trace(*args, **kwargs)
    observed = [site for site in sites.values() if site["type"] == "sample" and site["is_observed"]]
    logL = sum((_log_prob(site) for site in observed), start=jnp.zeros((), theta.dtype))
    if not derived:
        return logL
    return logL, jnp.concatenate([jnp.ravel(jnp.asarray(sites[name]["value"], theta.dtype)) for name in derived])


def _log_prob(site):
    """Return the log density of an observed site, a scalar."""
    log_prob = jnp.sum(site["fn"].log_prob(site["value"]))
    return log_prob if site["scale"] is None else jnp.sum(site["scale"] * site["fn"].log_prob(site["value"]))
