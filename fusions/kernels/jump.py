"""Moves along a Gaussian mixture: jumps between its components carry chains from mode to mode, slides carry them along a ridge."""

import dataclasses
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from fusions.errors import OptionError
from fusions.flows.cnf import coordinates
from fusions.flows.gaussian_mixture import (
    Axes,
    Components,
    fit_components,
    inverse_factors,
    log_shares,
    log_volume,
    principal_axes,
    rescaled,
    spread_out,
    standard_components,
    standardised,
)
from fusions.flows.matching import whiten
from fusions.flows.path import wrap
from fusions.kernels.base import Kernel, check_counts
from fusions.kernels.metropolis import accept, done, offer, report, start
from fusions.numerics import normal_from, pick_columns, uniforms
from fusions.types import Array, Space

EM_ITERATIONS = 6  # per tuning, from the last one's components and from far points
SLIDE_DECADES = (-0.3, 0.7)  # log10 of the scale of slides, in standard deviations along the axis


class JumpParams(NamedTuple):
    """Whitening, shift (d,) and lower triangular scale (d, d), components in whitened coordinates, their `Axes` if used."""

    shift: Any
    scale: Any
    base: Components
    axes: Any


def slide(axes: Any, w: Array, i: Array, axis: Array, scale: Any, noise: Array):
    """Move w (n, d) along an axis of the components i (n,) by a normal step of random scale, from uniform numbers (n,), (n,), (2, n).

    Parameters
    ----------
    axes : Axes; w : (n, d) whitened coordinates; i : (n,) indices of components.
    axis : (n,) uniform numbers that pick the axis; scale : (n,) those of the scale; noise : (2, n) those of the step.
    """
    a = pick_columns(axis, 2 * jnp.log(axes.widths[i]))
    low, high = SLIDE_DECADES
    step = normal_from(noise) * 10 ** (low + (high - low) * scale)
    return w + axes.directions[i, :, a] * (step * axes.widths[i, a])[:, None]


@dataclasses.dataclass(frozen=True)
class Jump:
    """Jumps from a component of a Gaussian mixture to the same place in another one, and slides along axes of the own one.

    A chain at x takes a component i with its share r_i(x) of the mixture's density, and another component j with equal chance. Expressed
    in the units of i, z = A_i^-1 (x - m_i), it goes to x' = m_j + A_j z, and is accepted with min(1, prior(x') r_j(x') det A_j /
    (prior(x) r_i(x) det A_i)). Modes far apart exchange chains however narrow they are, so that their masses do not drift.

    A slide keeps the component and moves x along one of its principal axes a, chosen with chance proportional to the variance along it,
    by a normal step of a random scale; it is accepted with min(1, prior(x') r_i(x') / (prior(x) r_i(x))).

    Attributes
    ----------
    n_moves : moves per walk (times the walk scale).
    components : number of Gaussians, fitted to the population; None for 120 / d within 8 and 24, as covariances need points.
    slides : chance that a move is a slide.
    """

    n_moves: int = 1
    components: int | None = None
    slides: float = 0.0

    def __post_init__(self):
        """Check the settings."""
        check_counts(self, "n_moves")
        if self.components is not None:
            check_counts(self, "components")
        if not 0 <= self.slides <= 1:
            raise OptionError(f"Expected slides of Jump to be between 0 and 1, got {self.slides!r}. Type kernels.Jump(slides=0.5).")

    def build(self, space: Space) -> Kernel:
        """Make the kernel's functions for a `Space`."""
        period_of, whitened = coordinates(space)
        n_components = self.components or min(max(120 // space.dim, 8), 24)
        circle = np.array(space.periodic)

        def init_params(key, population):
            del key
            dtype = population.x.dtype
            scale = jnp.diag(jnp.where(circle, jnp.pi, 1.0).astype(dtype))
            base = standard_components(n_components, space.dim, dtype)
            return JumpParams(
                jnp.zeros(space.dim, dtype), scale, base, Axes(base.factors, jnp.ones_like(base.means)) if self.slides else None
            )

        def tune(key, population, params, info):
            del info
            shift, scale = whiten(population.x, population.weights, space.periodic)
            known = rescaled(params.base, space.wrap(params.shift - shift), scale, params.scale)
            new = params._replace(shift=shift, scale=scale)
            base = fit_components(key, whitened(new, population.x), population.weights, known, period_of(new), EM_ITERATIONS)
            return new._replace(base=base, axes=principal_axes(base) if self.slides else None)

        def init(key, params, walkers):
            del key
            return start(params, {"x": walkers.x}, space.logprior(walkers.x), walkers, self.n_moves)

        def propose(key, s):
            return _proposed(self.slides, space, key, s)

        def finish(s):
            return report(s)

        return Kernel(init_params, tune, init, propose, accept, done, finish)


def _proposed(slides, space, key, s):
    """Propose a jump or a slide of each chain.

    Parameters
    ----------
    slides : chance of a slide; space : Space.
    key : random key; s : `metropolis.Moves`.

    Returns
    -------
    What `Kernel.propose` does.
    """
    period_of, whitened = coordinates(space)
    base, period, n = s.params.base, period_of(s.params), len(s.logw)
    origin, target, kind, u, axis, length, noise = uniforms(key, s.logw.dtype, *[(n,)] * 6, (2, n))
    inverse, rows = inverse_factors(base), jnp.arange(n)
    here = whitened(s.params, s.place["x"])
    z = standardised(inverse, base, here, period)
    shares = log_shares(base, z)
    i = pick_columns(origin, shares)
    j = (i + 1 + (target * (len(base.means) - 1)).astype(i.dtype)) % len(base.means)
    w = spread_out(base, j, z[rows, i])
    reversible = jnp.all(jnp.abs(w - base.means[j]) < period / 2, axis=1)
    if slides:
        sliding, moved = kind < slides, slide(s.params.axes, here, i, axis, length, noise)
        w, j, reversible = jnp.where(sliding[:, None], moved, w), jnp.where(sliding, i, j), reversible | sliding
    back = log_shares(base, standardised(inverse, base, wrap(w, period), period))
    x = space.wrap(s.params.shift + w @ s.params.scale.T)
    logprior, volume = space.logprior(x), log_volume(base)
    ratio = logprior - s.logw + back[rows, j] - shares[rows, i] + volume[j] - volume[i]
    return offer(u, s, {"x": x}, logprior, jnp.where(reversible, ratio, -jnp.inf))
