"""Evidence from draws of a known density: importance and bridge sampling, and how far to trust them.

All arrays are float64 on the host. A log weight is log(prior x likelihood) - log q at a point, q a normalised density.
"""

from typing import NamedTuple

import numpy as np

from fusions.numerics import effective_sample_size, logsumexp, normalised

BRIDGE_ITERATIONS = 200
BRIDGE_TOLERANCE = 1e-10
FINITE_KHAT = 0.5  # largest Pareto shape of weights of finite variance
TRUSTED_KHAT = 0.7  # largest Pareto shape of weights that can be trusted (Vehtari et al. 2024, arXiv:1507.02646)


class Importance(NamedTuple):
    """Importance-sampling estimate: ln Z, its standard error [nats], effective sample size, Pareto shape of the largest weights."""

    logZ: float
    logZ_err: float
    ess: float
    khat: float


def importance(logw: np.ndarray):
    """Estimate ln Z from log weights (n,) of independent draws; -inf where the likelihood or the prior is zero."""
    if not np.any(np.isfinite(logw)):
        return Importance(-np.inf, np.inf, 0.0, np.inf)
    n, ess = len(logw), effective_sample_size(logw)
    return Importance(logsumexp(logw) - np.log(n), float(np.sqrt(max(1 / ess - 1 / n, 0.0))), ess, pareto_khat(logw))


class Information(NamedTuple):
    """D_KL from prior to posterior [nats] and the Bayesian model dimensionality d_G = 2 Var(log L), with their standard errors."""

    D_KL: float
    D_KL_err: float
    d_G: float
    d_G_err: float


def information(logL: np.ndarray, logw: np.ndarray, logZ: float, logZ_err: float):
    """Compute D_KL = E[log L] - ln Z and d_G from draws, without volumes; errors to first order in the weights.

    Parameters
    ----------
    logL, logw : (n,) log L of draws, and their log weights; of those of no weight log L may be anything.
    logZ, logZ_err : ln of the evidence and its standard error [nats].
    """
    w = np.exp(normalised(logw))
    excess = np.where(w > 0, logL, 0.0)
    mean = float(np.sum(w * excess))
    excess = excess - mean
    var = float(np.sum(w * excess**2))
    noise = w - 1 / len(w)
    beyond = np.sqrt(max(logZ_err**2 - float(noise @ noise), 0.0))  # what ln Z is uncertain by besides the scatter of weights
    return Information(
        mean - logZ, float(np.hypot(np.linalg.norm(w * excess - noise), beyond)), 2 * var, float(2 * np.linalg.norm(w * (excess**2 - var)))
    )


def pareto_khat(logw: np.ndarray):
    """Fit a generalised Pareto distribution to the largest importance weights and return its shape.

    Above `TRUSTED_KHAT` the estimate can't be trusted at practical sample sizes; the fit is that of Zhang & Stephens 2009
    (doi:10.1198/tech.2009.08017) with its weak prior towards 0.5.
    """
    n = len(logw)
    tail = int(min(0.2 * n, 3 * np.sqrt(n)))
    if tail < 5:
        return np.inf
    w = np.exp(np.sort(logw)[-tail - 1 :] - np.max(logw))
    x = w[1:] - w[0]
    if x[-1] <= 0:
        return -np.inf
    x = x[x > 0]
    m = len(x)
    grid = 30 + int(np.sqrt(m))
    quartile = x[max(int(m / 4 + 0.5) - 1, 0)]
    b = 1 / x[-1] + (1 - np.sqrt(grid / (np.arange(1, grid + 1) - 0.5))) / (3 * quartile)
    k = np.mean(np.log1p(-b[:, None] * x), axis=1)
    profile = m * (np.log(-b / k) - k - 1)
    weights = np.exp(profile - logsumexp(profile))
    shape = np.mean(np.log1p(-np.sum(b * weights) * x))
    return float((m * shape + 5) / (m + 10))


def bridge(logw_posterior: np.ndarray, weights: np.ndarray, logw_draws: np.ndarray, draw_weights: np.ndarray | None = None):
    """Estimate ln Z from both posterior points and draws of q by optimal bridge sampling.

    Iterates the fixed point of Meng & Wong 1996 (Statistica Sinica 6, 831), eq. 4.1.

    Parameters
    ----------
    logw_posterior : (n,) log weights at points of the posterior that q was not trained on.
    weights : (n,) non-negative weights of those points.
    logw_draws : (m,) log weights at independent draws of q.
    draw_weights : (m,) non-negative weights of the draws (for a bootstrap); default equal.
    """
    v = weights / weights.sum()
    u = np.full(len(logw_draws), 1 / len(logw_draws)) if draw_weights is None else draw_weights / draw_weights.sum()
    n, m = 1 / np.sum(v**2), 1 / np.sum(u**2)
    s_posterior, s_draws = n / (n + m), m / (n + m)
    shift = logsumexp(logw_draws + np.log(np.maximum(u, 1e-300)))
    above, below = np.exp(np.minimum(logw_posterior - shift, 600)), np.exp(np.minimum(logw_draws - shift, 600))
    r = 1.0
    for _ in range(BRIDGE_ITERATIONS):
        new = np.sum(u * below / (s_posterior * below + s_draws * r)) / np.sum(v / (s_posterior * above + s_draws * r))
        if abs(np.log(new / r)) < BRIDGE_TOLERANCE:
            break
        r = new
    return float(np.log(new) + shift)
