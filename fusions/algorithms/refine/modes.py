"""Modes among the points of a nested run, each found at the posterior, however few points it has left.

The masses of modes drift along a nested run, and a narrow mode may lose its last live point long before the posterior; points of earlier
contours still show where it is. `find_modes` tells modes apart, `survey` gives each draws of its own.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from scipy.spatial import cKDTree
from scipy.stats import multivariate_t

from fusions.algorithms.refine.laplace import laplace
from fusions.evidence.volumes import Points, tempered
from fusions.numerics import effective_sample_size, least_width, logsumexp, normalised, on_circles
from fusions.types import turned

NEIGHBOURS = 6  # of a point among which a peak is the highest, or twice the dimension if that is more
MOST_POINTS = 20_000  # that are looked at, evenly taken from all
MOST_PEAKS = 256
PART_WAY = 0.382  # from a peak to a higher one, golden section: half-way between two modes of a lattice there is another
COMPARED = 4  # nearest higher peaks that a peak is compared with
CLIMB_SHARE = 0.6  # of the calls, which the climbs may take
TRIAL_SHARE = 0.25  # of the calls, which are spent if the tops hold less than this part of the nested run's evidence:
LEAST_SEEN = 0.1  # pieces of a curved ridge or shell are not worth more
APART = 1.5  # standard deviations between the tops of two modes
DRAWS = 6  # per dimension, of each Gaussian, that lie inside of the prior
LEAST_INSIDE = 0.25  # share of draws that is counted on
WANTED = 3  # effective draws per dimension, which make the next Gaussian or end the search
TRIES = 12  # Gaussians per mode
GAUSSIAN = 0.35  # effective fraction of draws with which a proposal is not fitted again: few draws in many dimensions make it worse
FIRST_LOOK = 2  # Gaussians after which a mode may be given up
NEGLIGIBLE = 10.0  # ln of the mass, relative to the largest, below which a mode is given up
SAME = 0.5  # difference of ln of a mode's mass that is none
PLENTY = 2  # times d^2: effective draws from all modes that are nearly Gaussian, so that covariances can be told from them
ALONE = 50  # effective draws that are worth having from a single mode
LOST = 1.0  # ln of the mass of a mode over the nested run's evidence, from which on nested points do not show it well
WIDER = 2.0  # times the volume of the Gaussian fitted is that of the proposal: few effective draws make it too narrow
EXPLORE_VOLUME = 6.0  # and that of the proposal that looks for more around a mode: a narrow one on a slope is content with little
LEAST_WIDTH = 1e-3  # of a proposal in any direction, in its standard deviations along the coordinates
TAIL = 5.0  # degrees of freedom of the Student t that draws come from
HALVINGS = 24  # of the spread of the points, on the way to the width of a peak: to the resolution of single precision
BETAS = 0.85 ** np.arange(40)


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


class Drawn(NamedTuple):
    """All draws of a survey as draws from one density, the mixture of all proposals.

    Modes may overlap, so that the parts of the evidence that they hold do not add up; the mean weight of these draws estimates it.

    Attributes
    ----------
    u : (n, d) those inside of the prior; logL : (n,).
    logw : (m,) log(prior L / q) of these n, then -inf for each of those outside.
    """

    u: np.ndarray
    logL: np.ndarray
    logw: np.ndarray


class Search(NamedTuple):
    """What a search for modes may use.

    Attributes
    ----------
    evaluate : u (m, d) -> (logL (m,), logprior (m,)).
    space : RefineSpace; of it which coordinates are periodic, and the edges of the prior.
    limit : likelihood calls that it may take.
    expired : () -> whether time is up; what has been found by then is returned.
    """

    evaluate: Callable
    space: Any
    limit: float
    expired: Callable


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


@dataclasses.dataclass(frozen=True)
class Proposal:
    """A Student t that draws come from.

    Attributes
    ----------
    mean : (d,); scale : (d,) standard deviations of the Gaussian that it is made of; around : the Student t in their units.
    angle : (d,) flags.
    """

    mean: np.ndarray
    scale: np.ndarray
    around: Any
    angle: np.ndarray

    @classmethod
    def of(cls, mean, cov, angle, volume):
        """Make the proposal around a mean (d,) with so many times the volume of a Gaussian's covariance (d, d)."""
        scale = np.sqrt(np.diag(cov))
        shape = cov / np.outer(scale, scale) + LEAST_WIDTH**2 * np.eye(len(mean))
        return cls(mean, scale, multivariate_t(shape=shape, df=TAIL), angle).wider(volume)

    def wider(self, volume):
        """Return a proposal of so many times the volume."""
        return dataclasses.replace(self, around=multivariate_t(shape=volume ** (2 / len(self.mean)) * self.around.shape, df=TAIL))

    def units(self, u):
        """Express u (n, d) in standard deviations from the mean."""
        return _wrapped(u - self.mean, self.angle) / self.scale

    def distance(self, u):
        """Compute the Mahalanobis distance of u (d,) from the mean."""
        z = self.units(u[None])[0]
        return np.sqrt(z @ np.linalg.solve(self.around.shape, z))

    def logpdf(self, u):
        """Compute ln of the density at u (n, d)."""
        return np.reshape(self.around.logpdf(self.units(u)), -1) - np.sum(np.log(self.scale))

    def draw(self, rng, n):
        """Draw n points (n, d)."""
        return _wrapped(self.mean + self.scale * self.around.rvs(n, random_state=rng).reshape(n, -1), self.angle)


@dataclasses.dataclass
class Mode:
    """A mode on its way to the posterior.

    Attributes
    ----------
    proposal : `Proposal` of the next draws; history : those of the draws so far, and how many were made of each.
    u, logL, logprior, logw : those inside of the prior (n, d), (n,), (n,), normalised log weights (n,).
    logZ : ln of the mode's part of the evidence; ess : effective draws of that estimate.
    exploring : whether the next proposal is a wide one, to look around; done : whether such a look changed nothing.
    """

    proposal: Proposal
    u: np.ndarray
    history: list = dataclasses.field(default_factory=list)
    logL: np.ndarray = dataclasses.field(default_factory=lambda: np.empty(0))
    logprior: np.ndarray = dataclasses.field(default_factory=lambda: np.empty(0))
    logw: np.ndarray = dataclasses.field(default_factory=lambda: np.empty(0))
    logZ: float = -np.inf
    ess: float = 0.0
    exploring: bool = False
    done: bool = False

    @property
    def n_draws(self):
        """Draws so far."""
        return sum(n for _, n in self.history)

    def gaussian(self):
        """Return whether so many draws are effective as if the mode were nearly Gaussian."""
        return self.ess > GAUSSIAN * self.n_draws

    def inside(self):
        """Return the share of draws inside of the prior; the others cost no calls, so that more are made."""
        return max(len(self.u) / self.n_draws, LEAST_INSIDE) if self.n_draws else 1.0


def find_modes(u, logL, evaluate, periodic):
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
    between = evaluate(_wrapped(lower + PART_WAY * _wrapped(upper - lower, angle), angle))[0]
    joined = pairs[between >= logL[peaks[pairs[:, 0]]], 0]
    peaks = np.delete(peaks, joined)
    spread = _wrapped(u[near[peaks]] - u[peaks, None], angle)
    return peaks, np.sqrt(np.mean(spread**2, axis=1))


def survey(rng, points, search):
    """Find each mode among the points of a nested run at the posterior.

    The highest point of a mode climbs to the top, where the curvature gives a first Gaussian. Draws from it (with the tails of a Student
    t) get their importance weights, and the next Gaussian is fitted to all draws of this mode so far, at the largest power of the
    likelihood that leaves enough of them effective. When that power is one, a wider proposal looks around, and a mode is done if
    that changes nothing. This is population Monte Carlo (Cappe et al. 2004, doi:10.1198/106186004X12803).

    Parameters
    ----------
    rng : numpy Generator.
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
    d, evaluate, limit = u.shape[1], search.evaluate, search.limit
    peaks, scales = find_modes(u, logL, evaluate, search.space.periodic)

    def allowed(integral):
        if search.expired():
            return 0
        return limit if integral > points.logZ + np.log(LEAST_SEEN) else TRIAL_SHARE * limit

    floor = least_width(points.x.dtype) ** 2 * u.var(axis=0) + np.finfo(float).tiny
    modes, integral, spent = _climbed(u[peaks], scales, floor, search, lambda seen: CLIMB_SHARE * allowed(seen))
    spent += _follow(rng, modes, floor, search._replace(limit=allowed(integral) - spent))
    best = max((mode.logZ for mode in modes), default=-np.inf)
    lost = best > points.logZ + LOST
    _fill(rng, modes, floor, search._replace(limit=allowed(integral) - spent), lost=lost)
    arrived = [mode for mode in modes if mode.ess >= WANTED * d and mode.logZ > best - NEGLIGIBLE]
    if not arrived or (len(arrived) == 1 and not ((arrived[0].gaussian() or lost) and arrived[0].ess > ALONE)):
        return Survey(np.empty((0, d)), *np.empty((2, 0)), np.empty(0, int), np.empty(0), np.empty(0, bool), _drawn(modes, d))
    columns = ([getattr(mode, name) for mode in arrived] for name in ("u", "logL", "logw"))
    which = np.repeat(np.arange(len(arrived)), [len(mode.u) for mode in arrived])
    logZ, gaussian = np.array([mode.logZ for mode in arrived]), np.array([mode.gaussian() for mode in arrived])
    return Survey(*map(np.concatenate, columns), which, logZ, gaussian, _drawn(modes, d))


def _drawn(modes, d):
    """Weigh the draws of all modes against the mixture of all their proposals."""
    tried = [proposal for mode in modes for proposal in mode.history]
    u = np.concatenate([np.empty((0, d)), *(mode.u for mode in modes)])
    logL, logprior = (np.concatenate([[], *(getattr(mode, name) for mode in modes)]) for name in ("logL", "logprior"))
    n = sum(made for _, made in tried)
    logw = np.full(n, -np.inf)
    if len(u):
        logw[: len(u)] = logprior + logL - logsumexp(np.array([proposal.logpdf(u) + np.log(made / n) for proposal, made in tried]), axis=0)
    return Drawn(u, logL, logw)


def follow(rng, n, top, spread, search):
    """Find the mass around a point that is higher than any known before: a climb, population Monte Carlo, and draws from the last proposal.

    Parameters
    ----------
    rng : numpy Generator.
    n : draws from the last proposal, which alone make the estimate.
    top : (d,); spread : (d,) standard deviation of the points known, which may be much wider than the peak.
    search : Search

    Returns
    -------
    Drawn
    """
    d, angle = len(top), np.asarray(search.space.periodic, bool)
    floor = 1e-10 * spread**2 + 1e-30
    scale = _widths(top, spread, search.evaluate, angle)
    modes, _, spent = _climbed(top[None], scale[None], floor, search, lambda seen: search.limit)
    _follow(rng, modes, floor, search._replace(limit=search.limit - spent - 2 * HALVINGS * d - n))
    proposal = modes[0].history[-2][0] if modes[0].done else modes[0].proposal
    last = Mode(proposal, np.empty((0, d)))
    u = proposal.draw(rng, n)
    _learn(last, u, *search.evaluate(u), floor)
    return _drawn([last], d)


def _widths(top, spread, evaluate, angle):
    """Find how far the likelihood changes by less than a factor of e on either side of a point (d,), along each coordinate."""
    d, steps = len(top), 0.5 ** np.arange(HALVINGS)[:, None] * spread
    moves = (steps[:, :, None] * np.eye(d)).reshape(-1, d)
    heights = evaluate(_wrapped(np.concatenate([top[None], top + moves, top - moves]), angle))[0]
    calm = np.all(np.abs(heights[1:].reshape(2, HALVINGS, d) - heights[0]) < 1, axis=0)
    within = np.logical_and.accumulate(calm[::-1], axis=0).sum(axis=0)
    return steps[HALVINGS - np.maximum(within, 1), np.arange(d)]


def joined(points, modes):
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
        return np.sum(search.evaluate(_wrapped(rows, angle)), axis=0)

    def known(row):
        return any(mode.proposal.distance(row) < APART for mode in modes)

    for peak, scale in zip(u, scales, strict=True):
        if spent < allowed(integral):
            top, cov, part, n_calls = laplace(peak, scale + np.sqrt(floor), height, search.space.bounds, known)
            integral, spent = np.logaddexp(integral, part), spent + n_calls
            if cov is not None:
                modes.append(Mode(Proposal.of(_wrapped(top, angle), cov + np.diag(floor), angle, WIDER), np.empty((0, u.shape[1]))))
    return modes, integral, spent


def _follow(rng, modes, floor, search):
    """Draw from the proposals of modes and learn from it, until all are done or given up, or calls or time are spent; returns the calls."""
    spent = 0
    for i in range(TRIES):
        best = max((mode.logZ for mode in modes), default=-np.inf)
        active = [m for m in modes if not m.done and (i < FIRST_LOOK or m.logZ > best - NEGLIGIBLE)]
        more = len(active) * DRAWS * len(floor)
        if not active or spent + more > search.limit or search.expired():
            break
        spent += more
        parts = [mode.proposal.draw(rng, int(DRAWS * len(floor) / mode.inside())) for mode in active]
        new, ends = np.concatenate(parts), np.cumsum([len(part) for part in parts])[:-1]
        for mode, *rows in zip(active, *(np.split(values, ends) for values in (new, *search.evaluate(new))), strict=True):
            _learn(mode, *rows, floor)
    return spent


def _fill(rng, modes, floor, search, *, lost):
    """Draw more from modes that are done and nearly Gaussian or `lost`, by their masses, from the proposals before the wide ones."""
    total, left = logsumexp(np.array([mode.logZ for mode in modes] or [0.0])), search.limit
    for mode in (mode for mode in modes if mode.done and (mode.gaussian() or lost)):
        missing = PLENTY * len(floor) ** 2 * np.exp(mode.logZ - total) - mode.ess
        n = int(min(missing * mode.n_draws / mode.ess, left))
        if n > 0:
            left -= n
            u = mode.history[-2][0].draw(rng, n)
            _learn(mode, u, *search.evaluate(u), floor)


def _nearest(others, row):
    """Return the indices of the nearest of others (n, d) to a row."""
    return np.argsort(np.sum((others - row) ** 2, axis=1), kind="stable")[:COMPARED]


def _wrapped(u, angle):
    """Wrap the angles of u (n, d) into [-pi, pi)."""
    return np.where(angle, turned(u), u)


def _coolest(logw, logL, wanted):
    """Return log weights at the largest power of the likelihood that leaves `wanted` of the points effective, or as many as possible."""
    trials = [tempered(logw, logL, beta) for beta in BETAS]
    sizes = np.array([effective_sample_size(trial) for trial in trials])
    return trials[int(np.argmax(sizes >= wanted) if np.any(sizes >= wanted) else np.argmax(sizes))]


def _fitted(u, logw, angle, floor, volume):
    """Fit the `Proposal` to weighted points u (n, d): correlations shrink where few are effective, variances don't fall to zero."""
    w = np.exp(normalised(logw))
    delta = _wrapped(u - u[np.argmax(w)], angle)
    mean = w @ delta
    cov = (delta - mean).T @ (w[:, None] * (delta - mean))
    n, d = effective_sample_size(logw), u.shape[1]
    return Proposal.of(u[np.argmax(w)] + mean, (n * cov + d * np.diag(np.diag(cov))) / (n + d) + np.diag(floor), angle, volume)


def _learn(mode, u, logL, logprior, floor):
    """Add draws (n, d) to those of a mode, weigh all of them against the mixture of the proposals tried, and fit the next proposal."""
    inside = np.isfinite(logL) & np.isfinite(logprior)
    mode.history.append((mode.proposal, len(u)))
    mode.u, mode.logL, mode.logprior = (
        np.concatenate([old, new[inside]]) for old, new in ((mode.u, u), (mode.logL, logL), (mode.logprior, logprior))
    )
    if not len(mode.u):
        return
    logw = mode.logprior + mode.logL - logsumexp(np.array([proposal.logpdf(mode.u) + np.log(n) for proposal, n in mode.history]), axis=0)
    before = mode.logZ
    mode.logZ, mode.ess, mode.logw = logsumexp(logw), effective_sample_size(logw), normalised(logw)
    wanted = WANTED * u.shape[1]
    enough = mode.ess >= wanted
    mode.done = enough and mode.exploring and abs(mode.logZ - before) < SAME
    mode.exploring = enough
    if mode.gaussian():
        mode.proposal = mode.proposal.wider(EXPLORE_VOLUME / WIDER if enough else 1.0)
    else:
        mode.proposal = _fitted(mode.u, _coolest(logw, mode.logL, wanted), mode.proposal.angle, floor, EXPLORE_VOLUME if enough else WIDER)
