"""Modes among the points of a nested run, each followed to the posterior, however few points it has left.

The masses of modes drift along a nested run, and a narrow mode may lose its last live point long before the posterior; points of earlier
contours still show where it is. `find_modes` tells modes apart, `survey` gives each of them draws of its own.
"""

import dataclasses
from typing import NamedTuple

import numpy as np
from scipy.spatial import cKDTree
from scipy.stats import multivariate_t

from fusions.evidence import tempered
from fusions.numerics import effective_sample_size, logsumexp, on_circles
from fusions.types import turned

NEIGHBOURS = 6  # of a point among which a peak is the highest, or twice the dimension if that is more
MOST_POINTS = 20_000  # that are looked at, evenly taken from all
MOST_PEAKS = 128
PART_WAY = 0.382  # from a peak to a higher one, golden section: half-way between two modes of a lattice there is another
COMPARED = 4  # nearest higher peaks that a peak is compared with
START = 2  # effective points per dimension that the first Gaussian of a mode is fitted to
DRAWS = 6  # per dimension, of each Gaussian, that lie inside of the prior
LEAST_INSIDE = 0.25  # share of draws that is counted on
WANTED = 3  # effective draws per dimension, which make the next Gaussian or end the search
TRIES = 18  # Gaussians per mode
FIRST_LOOK = 8  # Gaussians after which a mode may be given up
NEGLIGIBLE = 12.0  # ln of the mass, relative to the largest, below which a mode is given up
SAME = 0.5  # difference of ln of a mode's mass that is none
WIDER = 2.0  # times the volume of the Gaussian fitted is that of the law: few effective draws make it too narrow
AROUND = 6.0  # and that of the law that looks for more around a mode: a narrow one on a slope is content with little
TAIL = 5.0  # degrees of freedom of the Student t that draws come from
BETAS = 0.85 ** np.arange(40)


class Survey(NamedTuple):
    """Draws from the modes, and how much posterior each mode holds.

    Attributes
    ----------
    x : (n, d); logL : (n,) finite.
    logw : (n,) log weights of the posterior, each mode's normalised to one.
    logZ : (m,) ln of each mode's part of the evidence [nats], to about 0.4.
    """

    x: np.ndarray
    logL: np.ndarray
    logw: np.ndarray
    logZ: np.ndarray


@dataclasses.dataclass
class Mode:
    """A mode on its way to the posterior.

    Attributes
    ----------
    law : mean (d,) of the next draws and the Student t around it; tried : those of the draws so far.
    n_draws : draws so far; x, logL, logprior, logw : those inside of the prior (n, d), (n,), (n,), normalised log weights (n,).
    logZ : ln of the mode's part of the evidence; ess : effective draws of that estimate.
    looking : whether the next law is a wide one, to look around; done : whether such a look changed nothing.
    """

    law: tuple
    x: np.ndarray
    tried: list = dataclasses.field(default_factory=list)
    n_draws: int = 0
    logL: np.ndarray = dataclasses.field(default_factory=lambda: np.empty(0))
    logprior: np.ndarray = dataclasses.field(default_factory=lambda: np.empty(0))
    logw: np.ndarray = dataclasses.field(default_factory=lambda: np.empty(0))
    logZ: float = -np.inf
    ess: float = 0.0
    looking: bool = False
    done: bool = False

    def inside(self):
        """Return the share of draws inside of the prior; the others cost no calls, so that more are made."""
        return max(len(self.x) / self.n_draws, LEAST_INSIDE) if self.n_draws else 1.0


def find_modes(x, logL, evaluate, periodic):
    """Label points with the mode that they belong to.

    A peak is a point with no higher one among its neighbours; every point climbs to a peak from neighbour to neighbour. A peak is joined
    to the nearest of some higher peaks to which the likelihood part way is no lower than its own (hill-valley test, Ursem 1999,
    doi:10.1109/CEC.1999.785525); not to several, or a chance peak in a valley would join the modes on its sides.

    Parameters
    ----------
    x : (n, d) internal coordinates; logL : (n,) finite.
    evaluate : x (m, d) -> (logL (m,), logprior (m,)).
    periodic : d flags.

    Returns
    -------
    labels (n,) : mode of each point, -1 for those that climb to one of too many peaks.
    """
    angle = np.asarray(periodic, bool)
    y = on_circles(np.where(angle, x, (x - x.mean(axis=0)) / (x.std(axis=0) + 1e-12)), angle)
    rank = np.empty(len(x), int)
    rank[np.argsort(-logL, kind="stable")] = np.arange(len(x))
    near = cKDTree(y).query(y, min(max(NEIGHBOURS, 2 * x.shape[1]) + 1, len(x)))[1]
    higher = rank[near] < rank[:, None]
    parent = np.where(higher.any(axis=1), near[np.arange(len(x)), higher.argmax(axis=1)], np.arange(len(x)))
    parent = _roots(parent)
    peaks = np.unique(parent)
    peaks = peaks[np.argsort(rank[peaks])][:MOST_PEAKS]
    pairs = np.array([(i, j) for i in range(1, len(peaks)) for j in _nearest(y[peaks[:i]], y[peaks[i]])], int).reshape(-1, 2)
    lower, upper = x[peaks[pairs[:, 0]]], x[peaks[pairs[:, 1]]]
    between = evaluate(_wrapped(lower + PART_WAY * _wrapped(upper - lower, angle), angle))[0]
    lower, higher = pairs[between >= logL[peaks[pairs[:, 0]]]].T
    into = np.arange(len(peaks))
    into[lower[::-1]] = higher[::-1]  # the nearest one is the last to be written
    of_point = np.full(len(x), -1)
    of_point[peaks] = np.unique(_roots(into), return_inverse=True)[1]
    return of_point[parent]


def survey(rng, points, evaluate, periodic, most):
    """Follow each mode among the points of a nested run to the posterior.

    A Gaussian is fitted to the highest points of a mode, draws from it (with the tails of a Student t) get their importance weights, and
    the next Gaussian is fitted to all draws of this mode so far, at the largest power of the likelihood that leaves enough of them
    effective. When that power is one, a wider law looks around, and a mode is done if that changes nothing. This is population Monte
    Carlo (Cappe et al. 2004, doi:10.1198/106186004X12803).

    Parameters
    ----------
    rng : numpy Generator.
    points : `Points` of the nested run.
    evaluate : x (m, d) -> (logL (m,), logprior (m,)).
    periodic : d flags.
    most : likelihood calls that the draws may take.

    Returns
    -------
    Survey, of no modes if fewer than two hold a part of the posterior.
    """
    keep = np.flatnonzero(np.isfinite(points.logw) & np.isfinite(points.logL))
    keep = keep[:: -(-len(keep) // MOST_POINTS)]
    x, logL, logw = np.asarray(points.x[keep], np.float64), points.logL[keep], points.logw[keep]
    d, angle = x.shape[1], np.asarray(periodic, bool)
    labels = find_modes(x, logL, evaluate, periodic)
    members = [np.flatnonzero(labels == m) for m in range(labels.max() + 1)]
    modes, floor = [], 1e-10 * x.var(axis=0) + 1e-30
    for mine in members:
        if len(mine) >= d + 2:
            wanted = min(START * d, len(mine) / 4)
            law = _law(x[mine], _coolest(logw[mine], logL[mine], wanted), angle, floor)
            modes.append(Mode(law, np.empty((0, d))))
    for i in range(TRIES if len(modes) > 1 else 0):
        best = max(mode.logZ for mode in modes)
        active = [m for m in modes if not m.done and (i < FIRST_LOOK or m.logZ > best - NEGLIGIBLE)]
        most -= len(active) * DRAWS * d
        if not active or most < 0:
            break
        parts = [_draws(rng, mode.law, int(DRAWS * d / mode.inside()), angle) for mode in active]
        new, ends = np.concatenate(parts), np.cumsum([len(part) for part in parts])[:-1]
        for mode, *rows in zip(active, *(np.split(values, ends) for values in (new, *evaluate(new))), strict=True):
            _learn(mode, *rows, angle, floor)
    best = max((mode.logZ for mode in modes), default=-np.inf)
    arrived = [mode for mode in modes if mode.ess >= WANTED * d and mode.logZ > best - NEGLIGIBLE]
    if len(arrived) < 2:
        return Survey(np.empty((0, d)), *np.empty((3, 0)))
    columns = ([getattr(mode, name) for mode in arrived] for name in ("x", "logL", "logw"))
    return Survey(*map(np.concatenate, columns), np.array([mode.logZ for mode in arrived]))


def _roots(parent):
    """Follow parents (n,) to those that are their own."""
    while np.any(parent != parent[parent]):
        parent = parent[parent]
    return parent


def _nearest(others, row):
    """Return the indices of the nearest of others (n, d) to a row."""
    return np.argsort(np.sum((others - row) ** 2, axis=1), kind="stable")[:COMPARED]


def _wrapped(x, angle):
    """Wrap the angles of x (n, d) into [-pi, pi)."""
    return np.where(angle, turned(x), x)


def _coolest(logw, logL, wanted):
    """Return log weights at the largest power of the likelihood that leaves `wanted` of the points effective, or as many as possible."""
    trials = [tempered(logw, logL, beta) for beta in BETAS]
    sizes = np.array([effective_sample_size(trial) for trial in trials])
    return trials[int(np.argmax(sizes >= wanted) if np.any(sizes >= wanted) else np.argmax(sizes))]


def _law(x, logw, angle, floor, volume=1.0):
    """Fit the mean and a Student t around it, so many times larger, to weighted points x (n, d).

    Correlations shrink where few are effective, variances don't fall to zero.
    """
    w = np.exp(logw - logsumexp(logw))
    delta = _wrapped(x - x[np.argmax(w)], angle)
    mean = w @ delta
    cov = (delta - mean).T @ (w[:, None] * (delta - mean))
    n, d = effective_sample_size(logw), x.shape[1]
    shape = (n * cov + d * np.diag(np.diag(cov))) / (n + d) + np.diag(floor)
    return x[np.argmax(w)] + mean, multivariate_t(shape=volume ** (2 / d) * shape, df=TAIL)


def _draws(rng, law, n, angle):
    """Draw n points (n, d) of a law."""
    mean, around = law
    return _wrapped(mean + around.rvs(n, random_state=rng).reshape(n, -1), angle)


def _learn(mode, x, logL, logprior, angle, floor):
    """Add draws (n, d) to those of a mode, weigh all of them against the mixture of the laws tried, and fit the next law."""
    inside = np.isfinite(logL) & np.isfinite(logprior)
    mode.tried.append(mode.law)
    mode.n_draws += len(x)
    mode.x, mode.logL, mode.logprior = (
        np.concatenate([old, new[inside]]) for old, new in ((mode.x, x), (mode.logL, logL), (mode.logprior, logprior))
    )
    if not len(mode.x):
        return
    logq = [around.logpdf(_wrapped(mode.x - mean, angle)) for mean, around in mode.tried]
    logw = mode.logprior + mode.logL - np.reshape(logsumexp(logq, axis=0), -1) + np.log(len(logq))
    before = mode.logZ
    mode.logZ, mode.ess, mode.logw = logsumexp(logw) - np.log(mode.n_draws), effective_sample_size(logw), logw - logsumexp(logw)
    wanted = WANTED * x.shape[1]
    enough = mode.ess >= wanted
    mode.done = enough and mode.looking and abs(mode.logZ - before) < SAME
    mode.looking = enough
    mode.law = _law(mode.x, _coolest(logw, mode.logL, wanted), angle, floor, AROUND if enough else WIDER)
