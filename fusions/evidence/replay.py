"""A nested run played again on all that a run has learned of the prior: its nested points and the draws of its flows.

Volumes of a nested run drift, and with them the masses of modes; draws of known density q know the prior mass (prior/q)/N of each of
them without any volume. Both together are the prior as weighted points, on which nested sampling can be played without error: live points
stand for equal prior masses, and the lowest of them dies where the mass above the contour is as much smaller.
"""

import math
from typing import NamedTuple

import numpy as np

from fusions.evidence.headline import LEAST_ESS
from fusions.evidence.volumes import death_order
from fusions.numerics import effective_sample_size, logsumexp, normalised, systematic_resample

LIVE_SHARE = 0.01  # of the evidence, which the final live points hold
FEWEST = 10  # live points, however large the error of ln Z is


class PriorPoints(NamedTuple):
    """The prior as weighted points, in the order of log L.

    Attributes
    ----------
    row : (n,) which point it is: rows of the ledger, then rows of the draws.
    logL : (n,).
    logmass : (n,) ln of its prior mass; the masses sum to one.
    """

    row: np.ndarray
    logL: np.ndarray
    logmass: np.ndarray

    def logw(self):
        """Return the normalised posterior weights' logarithms (n,)."""
        return normalised(self.logmass + self.logL)


class Replay(NamedTuple):
    """The ledger of a nested run on prior points.

    Attributes
    ----------
    row : (N,) which point it is: rows of the ledger, then rows of the draws; the last `n_live` are the final live points.
    logL, logL_birth : (N,), births as in any ledger: NaN for a draw from the prior, -inf for a replacement of a point of zero likelihood.
    n_live : number of live points.
    """

    row: np.ndarray
    logL: np.ndarray
    logL_birth: np.ndarray
    n_live: int


def _log_above(logmass):
    """Add up masses from the top down to each point, in logarithms: (n,) -> (n,)."""
    return np.logaddexp.accumulate(logmass[::-1])[::-1]


def prior_points(logL: np.ndarray, logL_birth: np.ndarray, draws_logL: np.ndarray, draws_logw: np.ndarray):
    """Join nested points and draws where both know the enclosed prior mass X about equally well.

    From the draws, X(L) is the sum of the prior masses above L, with the relative variance sum v^2 / X^2 - 1/N; from the nested points the
    variance of ln X is the sum of 1/n^2 over the n alive at each death. Draws take over at the lowest contour from which on they know X
    better, `LEAST_ESS` effective draws at least. Below it stand the nested points, whose volumes are a Brownian path with that variance:
    its mean, given where it must arrive, adds to each ln X a part of the difference in proportion to the variance so far.

    Parameters
    ----------
    logL, logL_birth : (N,) ledger in any order.
    draws_logL, draws_logw : (m,) log L of draws and ln(prior x L / q).

    Returns
    -------
    PriorPoints
    """
    order, n_alive = death_order(logL, logL_birth)
    steps, variance = -1.0 / n_alive, np.concatenate([[0.0], np.cumsum(1.0 / n_alive**2)])
    usable = np.flatnonzero(np.isfinite(draws_logw) & np.isfinite(draws_logL))
    usable = usable[np.argsort(draws_logL[usable], kind="stable")]
    level = draws_logL[usable]
    logmass = draws_logw[usable] - level - np.log(len(draws_logw))
    logX = _log_above(logmass)
    spread = np.exp(_log_above(2 * logmass) - 2 * logX) - 1 / len(draws_logw)
    n_below = np.searchsorted(logL[order], level, side="left")
    known = (spread <= np.minimum(variance[n_below], 1 / LEAST_ESS)) & (logX < 0)
    first = int(np.argmax(known)) if known.any() else int(np.argmin(spread))
    below = n_below[first]
    missing = logX[first] - np.sum(steps[:below])
    path = np.cumsum(steps[:below] + missing * np.diff(variance[: below + 1]) / max(variance[below], np.finfo(float).tiny))
    path = np.minimum.accumulate(np.minimum(path, 0.0))
    before = np.concatenate([[0.0], path])[:-1]
    with np.errstate(divide="ignore"):
        shells = np.concatenate([before + np.log(-np.expm1(path - before)), logmass[first:]])
    rows, levels = [order[:below], len(logL) + usable[first:]], [logL[order[:below]], level[first:]]
    return PriorPoints(np.concatenate(rows), np.concatenate(levels), normalised(shells))


def live_points(points: PriorPoints, D_KL: float, logZ_err: float):
    """Choose how many live points the prior points are worth: so many that the effective size of the posterior is theirs.

    Each of n_live live points stops at a point of mass v with the probability v / X, and gives it the weight L X / n_live, so that the
    effective size (Kish) of the posterior is n_live / E[L X / Z]. No more than D_KL / err^2 either, with which the error of a nested
    run, about sqrt(D_KL / n_live) (Skilling 2006, doi:10.1214/06-BA127), is that of ln Z.

    Parameters
    ----------
    points : PriorPoints
    D_KL : information [nats]; logZ_err : error of ln Z [nats].
    """
    logw, logX = points.logw(), _log_above(points.logmass)[np.searchsorted(points.logL, points.logL, side="left")]
    logZ = logsumexp(points.logmass + points.logL)
    mean = np.sum(np.exp(logw + np.where(np.isfinite(logw), points.logL + logX - logZ, 0.0)))
    return max(int(min(effective_sample_size(logw) * mean, max(D_KL, 1.0) / max(logZ_err, 1e-6) ** 2)), FEWEST)


def replay(points: PriorPoints, n_live: int, rng: np.random.Generator):
    """Play nested sampling on prior points; it ends where what is above holds `LIVE_SHARE` of the evidence.

    How many of the live points die at each contour is no matter of chance: as many as bring n/(n+1) per death, with which anesthetic
    shrinks volumes, nearest to the prior mass that is left. So ln Z of the replay is that of the prior points to about 1/n_live, while
    anesthetic, which knows the number of live points alone, claims the error of a nested run.

    Parameters
    ----------
    points : PriorPoints
    n_live : number of live points.
    rng : numpy Generator.

    Returns
    -------
    Replay
    """
    logL, first = np.unique(points.logL, return_index=True)
    logX = np.append(_log_above(points.logmass)[first], -np.inf)
    n_dead = max(int(np.sum(_log_above(points.logw())[first] > np.log(LIVE_SHARE))) - 1, 0)
    deaths = _deaths(logX[1 : n_dead + 1], n_live, rng.random())
    contours = np.flatnonzero(deaths)
    dead, ends = np.repeat(first[contours], deaths[contours]), np.cumsum(deaths[contours])
    for i in np.flatnonzero(first[contours + 1] - first[contours] > 1):
        contour, n = contours[i], deaths[contours[i]]
        dead[ends[i] - n : ends[i]] = _systematic(points.logmass, first[contour], first[contour + 1], n, rng)
    picks = np.concatenate([dead, _systematic(points.logmass, first[n_dead], len(points.logL), n_live, rng)])
    return Replay(points.row[picks], points.logL[picks], _births(points.logL[picks], deaths[contours], n_live, rng), n_live)


def _deaths(left, n_live, phase):
    """Count the deaths at each contour out of n_live that bring ln X nearest to what is `left` above it, rounded with a phase."""
    logX, deaths = 0.0, np.zeros(len(left), int)
    for i, wanted in enumerate(left.tolist()):
        n = min(int((n_live + 1) * -math.expm1(wanted - logX) + phase), n_live) if wanted < logX else 0
        if n > 0:
            deaths[i] = n
            logX += math.log((n_live + 1 - n) / (n_live + 1))
    return deaths


def _births(logL, deaths, n_live, rng):
    """Let chance decide which of the live points die, so many at each contour; a birth is the log L at which the place became free."""
    within = np.arange(deaths.sum()) - np.repeat(np.cumsum(deaths) - deaths, deaths)
    dead = (np.repeat(rng.integers(n_live, size=len(deaths)), deaths) + within) % n_live
    place = np.concatenate([dead, rng.permutation(n_live)])
    order = np.argsort(place, kind="stable")
    same = place[order[1:]] == place[order[:-1]]
    births = np.full(len(logL), np.nan)
    births[order[1:][same]] = logL[order[:-1][same]]
    return births


def _systematic(logmass, start, stop, n, rng):
    """Draw n of the points from `start` to `stop` by mass, systematically; their indices in order."""
    return start + systematic_resample(rng, logmass[start:stop], n)
