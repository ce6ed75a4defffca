"""Priors of parameters; all constructors are here (``from fusions import priors as pr``).

Internal coordinates x: a standard normal latent for an ordinary one-dimensional prior, an angle in
[-pi, pi) for a periodic one, whitened parameters for a `joint` prior, nothing for `delta`.
"""

from fusions.priors.blocks import Block, check_names, gaussian, joint, transform
from fusions.priors.distributions import (
    Distribution,
    beta,
    cauchy,
    cosine,
    delta,
    exponential,
    from_scipy,
    gamma,
    half_normal,
    icdf,
    is_traceable,
    log_normal,
    log_uniform,
    normal,
    rayleigh,
    scalar_shape,
    sine,
    student_t,
    truncated_normal,
    uniform,
)
from fusions.priors.prior import Prior

__all__ = [
    "Block", "Distribution", "Prior", "beta", "cauchy", "check_names", "cosine", "delta", "exponential",
    "from_scipy", "gamma", "gaussian", "half_normal", "icdf", "is_traceable", "joint", "log_normal",
    "log_uniform", "normal", "rayleigh", "scalar_shape", "sine", "student_t", "transform",
    "truncated_normal", "uniform",
]  # fmt: skip
