"""Modes among the points of a nested run, each found at the posterior, however few points it has left.

The masses of modes drift along a nested run, and a narrow mode may lose its last live point long before the posterior; points of earlier
contours still show where it is. `find_modes` tells modes apart, `survey` gives each draws of its own.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from scipy.spatial import cKDTree

from fusions.algorithms.refine.laplace import laplace
from fusions.algorithms.refine.mode_draws import (
    NEGLIGIBLE,
    WANTED,
    WIDER,
    Mode,
    Proposal,
    Search,
    draw_until_done,
    drawn_from,
    fill,
    learn,
    wrapped,
)
from fusions.evidence.volumes import Points
from fusions.numerics import generator_of, least_width, on_circles
from fusions.types import Array

NEIGHBOURS = 6  # of a point among which a peak is the highest, or twice the dimension if that is more
MOST_POINTS = 20_000  # that are looked at, evenly taken from all
MOST_PEAKS = 256
PART_WAY = 0.382  # from a peak to a higher one, golden section: half-way between two modes of a lattice there is another
COMPARED = 4  # nearest higher peaks that a peak is compared with
CLIMB_SHARE = 0.6  # of the calls, which the climbs may take
TRIAL_SHARE = 0.25  # of the calls, which are spent if the tops hold less than this part of the nested run's evidence:
LEAST_SEEN = 0.1  # pieces of a curved ridge or shell are not worth more
APART = 1.5  # standard deviations between the tops of two modes
ALONE = 50  # effective draws that are worth having from a single mode
LOST = 1.0  # ln of the mass of a mode over the nested run's evidence, from which on nested points do not show it well
HALVINGS = 24  # of the spread of the points, on the way to the width of a peak: to the resolution of single precision


class Survey(NamedTuple):
    """Draws from the modes, and how much posterior each mode holds.

    Attributes
    ----------
    u : (n, d); logL : (n,) finite.
    logw : (n,) log weights of the posterior, each mode's normalised to one.
    mode : (n,) which mode each is from.
    logZ : (m,) ln of each mode's part of the evidence [nats], to about 0.4.
    gaussian : (m,) flags, whether it is nearly Gaussian; of others a part may be missing.
    drawn : `Drawn`, all draws, also from modes that were given up.
    """

    u: np.ndarray
    logL: np.ndarray
    logw: np.ndarray
    mode: np.ndarray
    logZ: np.ndarray
    gaussian: np.ndarray
    drawn: Any


class Found(NamedTuple):
    """What a `Survey` added to the nested points.

    Attributes
    ----------
    logw_equal : (n,) log weights of all points that give each mode the same share, on its draws; logw_mass : those that give it its own.
    mode_fraction : part of the nested run's evidence that the modes hold, at most 1: pieces of a curved shell hold little.
    gaussian_fraction : the same of the modes that are nearly Gaussian.
    """

    logw_equal: np.ndarray
    logw_mass: np.ndarray
    mode_fraction: float
    gaussian_fraction: float


def find_modes(u: np.ndarray, logL: np.ndarray, evaluate: Callable, periodic: tuple[bool, ...]):
    """Find the highest point of each mode.

    A peak is a point with no higher one among its neighbours. It is a mode unless the likelihood part way to one of the nearest higher
    peaks is no lower than its own (hill-valley test, Ursem 1999, doi:10.1109/CEC.1999.785525).

    Parameters
    ----------
    u : (n, d); logL : (n,) finite.
    evaluate : u (m, d) -> (logL (m,), logprior (m,)).
    periodic : d flags.

    Returns
    -------
    (m,) indices, the highest first; (m, d) standard deviation of the neighbours of each.
    """
    angle = np.asarray(periodic, bool)
    y = on_circles(np.where(angle, u, (u - u.mean(axis=0)) / (u.std(axis=0) + np.finfo(float).tiny)), angle)
    near = cKDTree(y).query(y, min(max(NEIGHBOURS, 2 * u.shape[1]) + 1, len(u)))[1]
    peaks = np.flatnonzero(logL >= logL[near].max(axis=1))
    peaks = peaks[np.argsort(-logL[peaks], kind="stable")][:MOST_PEAKS]
    pairs = np.array([(i, j) for i in range(1, len(peaks)) for j in _nearest(y[peaks[:i]], y[peaks[i]])], int).reshape(-1, 2)
    lower, upper = u[peaks[pairs[:, 0]]], u[peaks[pairs[:, 1]]]
    between = evaluate(wrapped(lower + PART_WAY * wrapped(upper - lower, angle), angle))[0]
    joined = pairs[between >= logL[peaks[pairs[:, 0]]], 0]
    peaks = np.delete(peaks, joined)
    spread = wrapped(u[near[peaks]] - u[peaks, None], angle)
    return peaks, np.sqrt(np.mean(spread**2, axis=1))


def survey(key: Array, points: Points, search: Search):
    """Find each mode among the points of a nested run at the posterior.

    The highest point of a mode climbs to the top, where the curvature gives a first Gaussian. Draws from it (with the tails of a Student
    t) get their importance weights, and the next Gaussian is fitted to all draws of this mode so far, at the largest power of the
    likelihood that leaves enough of them effective. When that power is one, a wider proposal looks around, and a mode is done if
    that changes nothing. This is population Monte Carlo (Cappe et al. 2004, doi:10.1198/106186004X12803).

    Parameters
    ----------
    key : random key.
    points : `Points` of the nested run.
    search : Search

    Returns
    -------
    Survey; of no modes if there is a single one that nested points show well: unless it is nearly Gaussian in many dimensions, or they
    have lost most of it.
    """
    keep = np.flatnonzero(np.isfinite(points.logw) & np.isfinite(points.logL))
    keep = keep[:: -(-len(keep) // MOST_POINTS)]
    u, logL = np.asarray(points.x[keep], np.float64), points.logL[keep]
    d, evaluate, limit, rng = u.shape[1], search.evaluate, search.limit, generator_of(key)
    peaks, scales = find_modes(u, logL, evaluate, search.space.periodic)

    def allowed(integral):
        if search.expired():
            return 0
        return limit if integral > points.logZ + np.log(LEAST_SEEN) else TRIAL_SHARE * limit

    floor = least_width(points.x.dtype) ** 2 * u.var(axis=0) + np.finfo(float).tiny
    modes, integral, spent = _climbed(u[peaks], scales, floor, search, lambda seen: CLIMB_SHARE * allowed(seen))
    spent += draw_until_done(rng, modes, floor, search._replace(limit=allowed(integral) - spent))
    best = max((mode.logZ for mode in modes), default=-np.inf)
    lost = best > points.logZ + LOST
    fill(rng, modes, floor, search._replace(limit=allowed(integral) - spent), lost=lost)
    arrived = [mode for mode in modes if mode.ess >= WANTED * d and mode.logZ > best - NEGLIGIBLE]
    if not arrived or (len(arrived) == 1 and not ((arrived[0].gaussian() or lost) and arrived[0].ess > ALONE)):
        return Survey(np.empty((0, d)), np.empty(0), np.empty(0), np.empty(0, int), np.empty(0), np.empty(0, bool), drawn_from(modes, d))
    u, logL, logw = (np.concatenate([getattr(mode, name) for mode in arrived]) for name in ("u", "logL", "logw"))
    which = np.repeat(np.arange(len(arrived)), [len(mode.u) for mode in arrived])
    logZ, gaussian = np.array([mode.logZ for mode in arrived]), np.array([mode.gaussian() for mode in arrived])
    return Survey(u, logL, logw, which, logZ, gaussian, drawn_from(modes, d))


def follow(key: Array, n: int, top: np.ndarray, spread: np.ndarray, search: Search):
    """Find the mass around a point that is higher than any known before: a climb, population Monte Carlo, and draws from the last proposal.

    Parameters
    ----------
    key : random key.
    n : draws from the last proposal, which alone make the estimate.
    top : (d,); spread : (d,) standard deviation of the points known, which may be much wider than the peak.
    search : Search

    Returns
    -------
    Drawn
    """
    d, angle, rng = len(top), np.asarray(search.space.periodic, bool), generator_of(key)
    floor = 1e-10 * spread**2 + 1e-30
    scale = _widths(top, spread, search.evaluate, angle)
    modes, _, spent = _climbed(top[None], scale[None], floor, search, lambda seen: search.limit)
    draw_until_done(rng, modes, floor, search._replace(limit=search.limit - spent - 2 * HALVINGS * d - n))
    proposal = modes[0].history[-2][0] if modes[0].done else modes[0].proposal
    last = Mode(proposal, np.empty((0, d)))
    u = proposal.draw(rng, n)
    logL, logprior = search.evaluate(u)
    learn(last, u, logL, logprior, floor)
    return drawn_from([last], d)


def _widths(top, spread, evaluate, angle):
    """Find how far the likelihood changes by less than a factor of e on either side of a point (d,), along each coordinate."""
    d, steps = len(top), 0.5 ** np.arange(HALVINGS)[:, None] * spread
    moves = (steps[:, :, None] * np.eye(d)).reshape(-1, d)
    heights = evaluate(wrapped(np.concatenate([top[None], top + moves, top - moves]), angle))[0]
    calm = np.all(np.abs(heights[1:].reshape(2, HALVINGS, d) - heights[0]) < 1, axis=0)
    within = np.logical_and.accumulate(calm[::-1], axis=0).sum(axis=0)
    return steps[HALVINGS - np.maximum(within, 1), np.arange(d)]


def joined(points: Points, modes: Survey):
    """Append the draws of a `Survey` to points, in both folds and without posterior weight.

    Returns
    -------
    points, `Found`
    """
    n, more = len(points.x), len(modes.u)
    both = Points(
        np.concatenate([points.x, modes.u.astype(points.x.dtype)]),
        np.concatenate([points.logL, modes.logL]),
        np.concatenate([points.fold, np.arange(more) % 2]),
        np.concatenate([points.logw, np.full(more, -np.inf)]),
        points.logZ,
    )
    parts = np.exp(np.minimum(modes.logZ - points.logZ, 0.0))
    fractions = (min(float(part.sum()), 1.0) for part in (parts, parts[modes.gaussian]))
    equal, mass = (np.concatenate([np.full(n, -np.inf), logw]) for logw in (modes.logw, modes.logw + modes.logZ[modes.mode]))
    return both, Found(equal, mass, *fractions)


def _climbed(u, scales, floor, search, allowed):
    """Climb from points (m, d) to the tops of their modes, each of them once.

    Returns
    -------
    modes; ln of the integral of their Gaussians; likelihood calls, about `allowed(integral)` at most.
    """
    modes, integral, spent, angle = [], -np.inf, 0, np.asarray(search.space.periodic, bool)

    def height(rows):
        return np.sum(search.evaluate(wrapped(rows, angle)), axis=0)

    def known(row):
        return any(mode.proposal.distance(row) < APART for mode in modes)

    for peak, scale in zip(u, scales, strict=True):
        if spent < allowed(integral):
            top, cov, part, n_calls = laplace(peak, scale + np.sqrt(floor), height, search.space.bounds, known)
            integral, spent = np.logaddexp(integral, part), spent + n_calls
            if cov is not None:
                modes.append(Mode(Proposal.of(wrapped(top, angle), cov + np.diag(floor), angle, WIDER), np.empty((0, u.shape[1]))))
    return modes, integral, spent


def _nearest(others, row):
    """Return the indices of the nearest of others (n, d) to a row."""
    return np.argsort(np.sum((others - row) ** 2, axis=1), kind="stable")[:COMPARED]
