"""Draws from modes by population Monte Carlo: proposals that are fitted to the draws from those before.

Cappe et al. 2004, doi:10.1198/106186004X12803.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import multivariate_t

from fusions.evidence.volumes import tempered
from fusions.numerics import effective_sample_size, logsumexp, normalised
from fusions.types import turned

DRAWS = 6  # per dimension, of each Gaussian, that lie inside of the prior
LEAST_INSIDE = 0.25  # share of draws that is counted on
WANTED = 3  # effective draws per dimension, which make the next Gaussian or end the search
TRIES = 12  # Gaussians per mode
GAUSSIAN = 0.35  # effective fraction of draws with which a proposal is not fitted again: few draws in many dimensions make it worse
FIRST_LOOK = 2  # Gaussians after which a mode may be given up
NEGLIGIBLE = 10.0  # ln of the mass, relative to the largest, below which a mode is given up
SAME = 0.5  # difference of ln of a mode's mass that is none
PLENTY = 2  # times d^2: effective draws from all modes that are nearly Gaussian, so that covariances can be told from them
WIDER = 2.0  # times the volume of the Gaussian fitted is that of the proposal: few effective draws make it too narrow
EXPLORE_VOLUME = 6.0  # and that of the proposal that looks for more around a mode: a narrow one on a slope is content with little
LEAST_WIDTH = 1e-3  # of a proposal in any direction, in its standard deviations along the coordinates
TAIL = 5.0  # degrees of freedom of the Student t that draws come from
BETAS = 0.85 ** np.arange(40)


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
    def of(cls, mean: np.ndarray, cov: np.ndarray, angle: np.ndarray, volume: float):
        """Make the proposal around a mean (d,) with so many times the volume of a Gaussian's covariance (d, d).

        Parameters
        ----------
        mean : (d,); cov : (d, d); angle : (d,) flags.
        volume : factor on the volume.
        """
        scale = np.sqrt(np.diag(cov))
        shape = cov / np.outer(scale, scale) + LEAST_WIDTH**2 * np.eye(len(mean))
        return cls(mean, scale, multivariate_t(shape=shape, df=TAIL), angle).wider(volume)

    def wider(self, volume: float):
        """Return a proposal of so many times the volume."""
        return dataclasses.replace(self, around=multivariate_t(shape=volume ** (2 / len(self.mean)) * self.around.shape, df=TAIL))

    def units(self, u: np.ndarray):
        """Express u (n, d) in standard deviations from the mean."""
        return wrapped(u - self.mean, self.angle) / self.scale

    def distance(self, u: np.ndarray):
        """Compute the Mahalanobis distance of u (d,) from the mean."""
        z = self.units(u[None])[0]
        return np.sqrt(z @ np.linalg.solve(self.around.shape, z))

    def logpdf(self, u: np.ndarray):
        """Compute ln of the density at u (n, d)."""
        return np.reshape(self.around.logpdf(self.units(u)), -1) - np.sum(np.log(self.scale))

    def draw(self, rng: np.random.Generator, n: int):
        """Draw n points (n, d)."""
        return wrapped(self.mean + self.scale * self.around.rvs(n, random_state=rng).reshape(n, -1), self.angle)


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


def draw_until_done(rng: np.random.Generator, modes: list[Mode], floor: np.ndarray, search: Search):
    """Draw from the proposals of modes and learn from it, until all are done or given up, or calls or time are spent; returns the calls.

    Parameters
    ----------
    rng : random generator; modes : list of `Mode`, which are changed.
    floor : (d,) least variances of a proposal.
    search : Search
    """
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
        rows = (np.split(values, ends) for values in (new, *search.evaluate(new)))
        for mode, u, logL, logprior in zip(active, *rows, strict=True):
            learn(mode, u, logL, logprior, floor)
    return spent


def fill(rng: np.random.Generator, modes: list[Mode], floor: np.ndarray, search: Search, *, lost: bool):
    """Draw more from modes that are done and nearly Gaussian or `lost`, by their masses, from the proposals before the wide ones.

    Parameters
    ----------
    rng : random generator; modes : list of `Mode`, which are changed.
    floor : (d,) least variances of a proposal.
    search : Search
    lost : whether the nested run has lost most of the posterior.
    """
    total, left = logsumexp(np.array([mode.logZ for mode in modes] or [0.0])), search.limit
    for mode in (mode for mode in modes if mode.done and (mode.gaussian() or lost)):
        missing = PLENTY * len(floor) ** 2 * np.exp(mode.logZ - total) - mode.ess
        n = int(min(missing * mode.n_draws / mode.ess, left))
        if n > 0:
            left -= n
            u = mode.history[-2][0].draw(rng, n)
            logL, logprior = search.evaluate(u)
            learn(mode, u, logL, logprior, floor)


def learn(mode: Mode, u: np.ndarray, logL: np.ndarray, logprior: np.ndarray, floor: np.ndarray):
    """Add draws (n, d) to those of a mode, weigh all of them against the mixture of the proposals tried, and fit the next proposal.

    Parameters
    ----------
    mode : Mode, which is changed.
    u : (n, d); logL, logprior : (n,).
    floor : (d,) least variances of a proposal.
    """
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


def drawn_from(modes: list[Mode], d: int):
    """Weigh the draws of all modes against the mixture of all their proposals."""
    tried = [proposal for mode in modes for proposal in mode.history]
    u = np.concatenate([np.empty((0, d)), *(mode.u for mode in modes)])
    logL, logprior = (np.concatenate([[], *(getattr(mode, name) for mode in modes)]) for name in ("logL", "logprior"))
    n = sum(made for _, made in tried)
    logw = np.full(n, -np.inf)
    if len(u):
        logw[: len(u)] = logprior + logL - logsumexp(np.array([proposal.logpdf(u) + np.log(made / n) for proposal, made in tried]), axis=0)
    return Drawn(u, logL, logw)


def _coolest(logw, logL, wanted):
    """Return log weights at the largest power of the likelihood that leaves `wanted` of the points effective, or as many as possible."""
    trials = [tempered(logw, logL, beta) for beta in BETAS]
    sizes = np.array([effective_sample_size(trial) for trial in trials])
    return trials[int(np.argmax(sizes >= wanted) if np.any(sizes >= wanted) else np.argmax(sizes))]


def _fitted(u, logw, angle, floor, volume):
    """Fit the `Proposal` to weighted points u (n, d): correlations shrink where few are effective, variances don't fall to zero."""
    w = np.exp(normalised(logw))
    delta = wrapped(u - u[np.argmax(w)], angle)
    mean = w @ delta
    cov = (delta - mean).T @ (w[:, None] * (delta - mean))
    n, d = effective_sample_size(logw), u.shape[1]
    return Proposal.of(u[np.argmax(w)] + mean, (n * cov + d * np.diag(np.diag(cov))) / (n + d) + np.diag(floor), angle, volume)


def wrapped(u: np.ndarray, angle: np.ndarray):
    """Wrap the angles of u (n, d) into [-pi, pi)."""
    return np.where(angle, turned(u), u)
