"""Evidence from nested sampling: the only place where volumes and weights are computed.

All arrays are float64 on the host. A ledger is the pair (logL, logL_birth) of N points. A birth of NaN
marks a draw from the whole prior; -inf marks a replacement of a zero-likelihood point.
"""

from typing import Any, NamedTuple

import numpy as np

from fusions.numerics import logsumexp, parts_of

RANKED = 512  # replacements that are ranked at once
MIN_RANKS = 20  # for a test of them
FAMILIES = 8  # of live points, half of them in each half
SMALLEST_FAMILY = 25  # live points of a family, if there are several in a half
MIN_FAMILIES = 4  # whose scatter is an estimate of the error


class Evidence(NamedTuple):
    """Evidence of a ledger with the errors of its volumes.

    Attributes
    ----------
    logZ, logZ_err : ln of the evidence and its standard error [nats].
    D_KL, D_KL_err : Kullback-Leibler divergence from prior to posterior [nats].
    d_G, d_G_err : Bayesian model dimensionality, 2 Var_posterior(log L).
    logw : (N,) normalised posterior weights' logarithms, in the order of the ledger.
    logX : (N,) ln of the prior volume after each death, in the order of the ledger.
    """

    logZ: float
    logZ_err: float
    D_KL: float
    D_KL_err: float
    d_G: float
    d_G_err: float
    logw: np.ndarray
    logX: np.ndarray


def death_order(logL: np.ndarray, logL_birth: np.ndarray):
    """Order the deaths of a ledger and count the points alive at each.

    Points of equal log L die one after another, so a plateau of m points among n shrinks the volume
    by n, n-1, ..., n-m+1 (Fowlie, Handley & Su 2021, arXiv:2010.13884).

    Returns
    -------
    order : (N,) indices that sort the ledger by log L.
    n_alive : (N,) number of points alive just before each death, in that order.
    """
    logL, logL_birth = np.asarray(logL, np.float64), np.asarray(logL_birth, np.float64)
    order = np.argsort(logL, kind="stable")
    sorted_logL = logL[order]
    n_prior = np.count_nonzero(np.isnan(logL_birth))
    births = np.sort(logL_birth[~np.isnan(logL_birth)])
    born = n_prior + np.searchsorted(births, sorted_logL, side="left")
    return order, born - np.arange(len(logL))


def shell_weights(logX: Any):
    """Turn volumes into the prior mass of each point by the trapezoid rule; the masses sum to one.

    The shell between two successive deaths is shared equally by its two ends; the first shell
    belongs to the first point and the volume inside of the last death to the last one.

    Parameters
    ----------
    logX : (N, ...) ln of the volume after each death, decreasing along the first axis.

    Returns
    -------
    (N, ...) ln of the prior mass of each point.
    """
    X = np.exp(logX)
    shells = np.concatenate([1.0 - X[:1], X[:-1] - X[1:]])
    shells[-1] += X[-1]
    mass = 0.5 * shells
    mass[:-1] += 0.5 * shells[1:]
    mass[0] += 0.5 * shells[0]
    with np.errstate(divide="ignore"):
        return np.log(mass)


def _moments(logL, logmass):
    """Return ln Z, D_KL, d_G and log weights for log masses of shape (N,) or (N, m); a constant added to log L cancels at once."""
    top = np.max(logL[np.isfinite(logL)], initial=-np.inf)
    below = logL.reshape(-1, *[1] * (logmass.ndim - 1)) - (top if np.isfinite(top) else 0.0)
    logw = below + logmass
    log_share = logsumexp(logw, axis=0)  # ln Z - top
    p = np.exp(logw - log_share)
    p /= p.sum(axis=0)
    mean = np.sum(np.where(p > 0, below, 0.0) * p, axis=0)
    var = np.sum(np.where(p > 0, below - mean, 0.0) ** 2 * p, axis=0)
    return top + log_share, mean - log_share, 2 * var, logw - log_share


def families(n_live: int):
    """Part the places among the live points, half by half, into families: (n_live,) numbers of theirs from 0.

    Replacements start from a point of their family. Chains that don't reach every mode, or remember where they started, let the
    population drift; families drift independently, so that their scatter shows by how much.
    """
    each = int(np.clip(n_live // (2 * SMALLEST_FAMILY), 1, FAMILIES // 2))
    return np.concatenate([np.arange(n_live // 2) % each, each + np.arange(n_live - n_live // 2) % each])


def evaluate_ledger(logL: np.ndarray, logL_birth: np.ndarray, family: Any = (), *, n_draws: int = 256, seed: int = 0):
    """Compute the evidence of a ledger and its error from simulated volumes and from the scatter of families.

    The point estimate uses the mean log shrinkage E[ln t_i] = -1/n_i; the errors are the standard deviations over
    draws ln t_i = ln(u)/n_i, u uniform (Skilling 2006, doi:10.1214/06-BA127, section 3), which holds for independent
    replacements, or the standard errors of the mean over the families, each a nested run by itself, if these are larger.

    Parameters
    ----------
    logL, logL_birth : (N,) dead and final live points in any order.
    family : (N,) families of the places where they lived, -1 for none; empty if unknown.
    n_draws : number of volume simulations.
    seed : seed of the simulations.

    Returns
    -------
    Evidence
    """
    logL = np.asarray(logL, np.float64)
    order, n_alive = death_order(logL, logL_birth)
    sorted_logL = logL[order]
    logX = np.cumsum(-1.0 / n_alive)
    logZ, D_KL, d_G, logw = _moments(sorted_logL, shell_weights(logX))
    rng = np.random.default_rng(seed)
    chunk = max(1, int(2e6 // len(logL)))
    draws = []
    for start in range(0, n_draws, chunk):
        m = min(chunk, n_draws - start)
        t = -rng.standard_exponential((len(logL), m)) / n_alive[:, None]
        draws.append(np.stack(_moments(sorted_logL, shell_weights(np.cumsum(t, axis=0)))[:3]))
    errors = np.fmax(np.concatenate(draws, axis=1).std(axis=1, ddof=1), _scatter(logL, logL_birth, np.asarray(family)))
    back = np.empty_like(order)
    back[order] = np.arange(len(order))
    return Evidence(float(logZ), float(errors[0]), float(D_KL), float(errors[1]), float(d_G), float(errors[2]), logw[back], logX[back])


def simulated_weights(logL: np.ndarray, logL_birth: np.ndarray, *, n_draws: int = 32, seed: int = 0):
    """Simulate the volumes of a ledger, a part of it after the other: yields rows (r,) and their posterior weights (r, n_draws).

    Parameters
    ----------
    logL, logL_birth : (N,) dead and final live points in any order, some of finite log L.
    n_draws : number of simulations, whose weights have sums of their own.
    seed : of the simulations.
    """
    order, n_alive = death_order(logL, logL_birth)
    top = np.max(logL[order] + np.cumsum(-1.0 / n_alive) - np.log(n_alive))
    rng, before = np.random.default_rng(seed), np.zeros((1, n_draws))
    for part in parts_of(len(order)):
        rows, alive = order[part], n_alive[part, None]
        after = before[-1] - np.cumsum(rng.standard_exponential((len(rows), n_draws)) / alive, axis=0)
        before = np.concatenate([before[-1:], after])
        with np.errstate(divide="ignore"):
            yield rows, np.exp(logL[rows, None] - top + before[:-1] + np.log(-np.expm1(after - before[:-1])))


def _scatter(logL, logL_birth, family):
    """Return the standard errors (3,) of the means over families of ln Z, D_KL and d_G; NaN if there are too few."""
    found = []
    for number in np.unique(family[family >= 0]):
        mine = family == number
        order, n_alive = death_order(logL[mine], logL_birth[mine])
        found.append(_moments(logL[mine][order], shell_weights(np.cumsum(-1.0 / n_alive)))[:3])
    return np.std(found, axis=0, ddof=1) / np.sqrt(len(found)) if len(found) >= MIN_FAMILIES else np.full(3, np.nan)


class Points(NamedTuple):
    """The points of a nested run as weighted posterior points in two halves.

    Attributes
    ----------
    x : (N, d) internal coordinates; those of its own, u, in the refine phase.
    logL : (N,).
    fold : (N,) 0 or 1, the half of the live points that a point belongs to.
    logw : (N,) normalised posterior weights' logarithms.
    logZ : ln of the evidence.
    """

    x: np.ndarray
    logL: np.ndarray
    fold: np.ndarray
    logw: np.ndarray
    logZ: float


def tempered(logw: np.ndarray, logL: np.ndarray, beta: float):
    """Turn log weights of the posterior into those of prior x L^beta; -inf stays.

    Parameters
    ----------
    logw, logL : (n,) log weights and log L [nats].
    beta : power of the likelihood.
    """
    return np.where(np.isfinite(logw), logw + (beta - 1) * np.where(np.isfinite(logL), logL, 0.0), -np.inf)


class Running(NamedTuple):
    """Evidence so far, and the sum of squared weights, updated death by death with E[ln t] = -1/n."""

    logX: float = 0.0
    logZ: float = -np.inf
    logZ_squared: float = -np.inf

    def kill(self, logL: np.ndarray, n: int):
        """Add deaths at sorted log L (m,) out of n points alive."""
        logX = self.logX - np.cumsum(1.0 / (n - np.arange(len(logL))))
        before = np.concatenate([[self.logX], logX[:-1]])
        shells = before + np.log1p(-np.exp(logX - before))
        logw = logL + shells
        return Running(
            float(logX[-1]), float(np.logaddexp(self.logZ, logsumexp(logw))), float(np.logaddexp(self.logZ_squared, logsumexp(2 * logw)))
        )

    def effective(self, live_logL: np.ndarray):
        """Return the effective number of posterior points among the dead and the live."""
        logw = self.logX - np.log(len(live_logL)) + live_logL
        logZ, squared = np.logaddexp(self.logZ, logsumexp(logw)), np.logaddexp(self.logZ_squared, logsumexp(2 * logw))
        return float(np.exp(2 * logZ - squared)) if np.isfinite(logZ) else 0.0

    def remaining(self, live_logL: np.ndarray):
        """Return ln of the share of the evidence that the live points' volume could still hold, at their highest likelihood."""
        live = self.logX + np.max(live_logL)
        return float(live - np.logaddexp(self.logZ, live)) if np.isfinite(live) else 0.0


def insertion_uniforms(rng: np.random.Generator, survivors: np.ndarray, inserted: np.ndarray):
    """Rank replacements among the live points and turn the ranks into uniforms.

    In random order, the j-th of k replacements is ranked among the m survivors and the j-1 inserted before it: uniform on
    0..m+j-1 and independent in j if replacements sample the constrained prior (after Fowlie, Handley & Su 2020, arXiv:2006.03371).
    Ties are broken at random.

    Parameters
    ----------
    rng : numpy Generator.
    survivors : (m,) log L of the points that stay.
    inserted : (k,) log L of the replacements.

    Returns
    -------
    (k,) values in [0, 1), independent and uniform under correct sampling.
    """
    inserted = rng.permutation(inserted)
    below = np.searchsorted(np.sort(survivors), inserted, side="left").astype(np.float64)
    ties = np.searchsorted(np.sort(survivors), inserted, side="right") - below.astype(int)
    for j in range(0, len(inserted), RANKED):
        now = inserted[j : j + RANKED, None]
        earlier = np.arange(len(inserted)) < np.arange(j, j + len(now))[:, None]
        below[j : j + RANKED] += (earlier & (inserted < now)).sum(1)
        ties[j : j + RANKED] += (earlier & (inserted == now)).sum(1)
    rank = below + rng.integers(0, ties + 1)
    return (rank + rng.random(len(rank))) / (len(survivors) + np.arange(len(rank)) + 1)


def uniformity_pvalue(uniforms: np.ndarray):
    """Compute the Kolmogorov-Smirnov p-value of insertion ranks (r,) against uniform; None with fewer than `MIN_RANKS`."""
    if len(uniforms) < MIN_RANKS:
        return None
    from scipy.stats import kstest

    return float(kstest(uniforms, "uniform").pvalue)
