"""Chains at the posterior: they fill what live points lost on their way there, and are a sample that trained no flow of the other fold.

A kernel leaves the prior above a contour invariant. A chain at the posterior draws the contour of each move below its own likelihood,
log L* = log L + ln(u) with uniform u (slice sampling, Neal 2003, doi:10.1214/aos/1056562461), so that the same kernels serve. Kernels
are tuned on the places of the fold that they do not move: chains that tune their own kernel lose the tails of the posterior. The first
`WARM_UP` moves are the exception, with kernels tuned on all chains, which bring in those that start far out.

Where chains do not mix and the likelihood has a gradient, a Hamiltonian trajectory follows each round of moves.
"""

import dataclasses
from collections.abc import Callable
from statistics import NormalDist
from typing import NamedTuple

import jax
import numpy as np

from fusions.algorithms.refine.draws import RefineFunctions
from fusions.evidence.volumes import Points
from fusions.numerics import generator_of, normalised, on_circles, systematic_resample
from fusions.types import Array, Budget, Population, Walkers

CHAINS_PER_DIM, FEWEST, MOST = 32, 64, 256  # chains
SWEEP = 8  # moves between two fits of the kernel, later this share of all moves so far
KEPT = 16  # places in the last third of each chain that are kept
WARM_UP = 32  # moves with kernels that are tuned on all chains, not in the last two thirds of any
NOWHERE = 1e-9  # part of the posterior at lower likelihoods than a chain has after these, below which it starts again
REMEMBERED = 1024  # places of each chain in memory; from there on every second one
ROWS = 4096  # points that the kernel is fitted to
NESTED_ROWS = 1024  # of these from the nested run, so that no mode is forgotten
MOVES_PER_DIM = 5  # that lead to an independent place, about
LEAST_MOVES = 6, 2  # times d^2, and if masses of modes are known: moves along a ridge are random walks, and a slow drift takes time to show
CHAIN_SHARE = 0.33  # of the usual budget, in which all chains could make the fewer of their least moves
LEAST_SHARE = 1.0, 0.25  # of the usual budget, which these moves may take at most
MIXED = 0.4, 0.6  # of the variance of the ranks of log L that lies between chains, at most: on a ridge they may stand still together
FOUND = 0.9  # of the posterior in modes that have been found, whose draws train the flows too: half the chains will do
KNOWN = 0.7  # of it in modes whose masses are right: chains need not mix as well
STUCK = 0.6  # of that variance between chains, above which they get trajectories, if these can be paid
FIRST_CALLS = 0.2  # of the calls of the least trajectories, which moves take before
GRADIENT_CALLS = 2  # likelihood calls that a value with its gradient counts
STEPS = 100  # of a trajectory
PILOTS, PILOT_STEPS = 7, 8  # short trajectories that tune the step first, and their steps
FIRST_STEP = 0.3  # in units of 1 / (rms force)
ACCEPTED = 0.7  # of the trajectories, which the step is tuned to
RATES = 2.0, 0.5  # of this tuning, for pilots and later
LEAST_TRAJECTORIES = PILOTS + 4
FALSE_ALARM = 0.2  # chance that settled chains seem to drift; two looks in a row must be calm


class Chains(NamedTuple):
    """Chains at the posterior.

    Attributes
    ----------
    u : (KEPT, c, d) places in the last third; logL : (KEPT, c).
    fold : (c,) of the nested points they started from.
    n_moves : moves of each chain; n_calls : likelihood calls of all.
    n_trajectories : of each chain.
    drift : largest difference of a mean or variance between the middle and the last third, of any coordinate or log L [standard errors].
    settled : whether it is no larger than chance allows, and each chain has seen most of what all have, if it must.
    """

    u: np.ndarray
    logL: np.ndarray
    fold: np.ndarray
    n_moves: int
    n_calls: int
    n_trajectories: int
    drift: float
    settled: bool

    def thinned(self):
        """Keep only so many places that they are about independent: a fit takes places close together for a narrow mode."""
        n = int(np.clip(self.n_trajectories / 3 or self.n_moves / (2 * MOVES_PER_DIM * self.u.shape[2]), 1, len(self.u)))
        pick = np.linspace(len(self.u) - 1, 0, n).astype(int)
        return self._replace(u=self.u[pick], logL=self.logL[pick])

    def of_fold(self, fold: int):
        """Return the points (n, d) of one fold, their log L (n,), and which chain each belongs to (n,)."""
        mine = np.flatnonzero(self.fold == fold)
        u, logL = self.u[:, mine], self.logL[:, mine]
        return u.reshape(-1, u.shape[-1]), logL.ravel(), np.tile(np.arange(len(mine)), len(u))


class Start(NamedTuple):
    """Where chains may start.

    Attributes
    ----------
    points : `Points` of the nested run and of the modes, in u, with the weights that kernels learn from.
    logw : (N,) log weights with which chains start at them; wider than the posterior, so that modes which lost their points get some.
    mode_fraction : part of the posterior in modes that have been found.
    gaussian_fraction : part of it in those whose masses `logw` gives right.
    """

    points: Points
    logw: np.ndarray
    mode_fraction: float
    gaussian_fraction: float


class Seen(NamedTuple):
    """What one look at the chains shows.

    Attributes
    ----------
    drift : largest difference of a mean or variance between the middle and the last third [standard errors].
    between : part of the variance of the ranks of log L that lies between chains.
    settled : whether chance allows both.
    """

    drift: float = np.inf
    between: float = 1.0
    settled: bool = False


@dataclasses.dataclass
class Record:
    """Where chains have been: places (c, d) and log L (c,), of every `stride`-th of the moves made."""

    places: list = dataclasses.field(default_factory=list)
    logLs: list = dataclasses.field(default_factory=list)
    made: int = 0
    stride: int = 1

    def add(self, x: np.ndarray, logL: np.ndarray):
        """Append a move."""
        self.made += 1
        if self.made % self.stride == 0:
            self.places.append(x)
            self.logLs.append(logL)
        if len(self.places) > REMEMBERED:
            self.places, self.logLs, self.stride = self.places[1::2], self.logLs[1::2], 2 * self.stride

    def begun_again(self):
        """Return a record of the last few moves alone."""
        return Record(self.places[-SWEEP:], self.logLs[-SWEEP:])

    def sweep(self):
        """Return the moves until the next look."""
        return max(SWEEP, self.made // SWEEP)

    def kept(self):
        """Return the places (KEPT, c, d) and log L (KEPT, c) of the last third that are kept."""
        pick = np.linspace(2 * len(self.places) // 3, len(self.places) - 1, KEPT).astype(int)
        return np.array([self.places[i] for i in pick]), np.array([self.logLs[i] for i in pick])


@dataclasses.dataclass
class Trajectories:
    """Hamiltonian trajectories of the chains.

    The widths and the step of each fold are learned from the other: widths from the mean square of the forces, which hold where chains
    have not yet spread, the step from how many are accepted.
    """

    trajectory: Callable
    forces: tuple  # sums of their squares (d,) so far
    steps: tuple = (FIRST_STEP, FIRST_STEP)
    made: int = 0

    def move(self, key: Array, u: np.ndarray):
        """Move each chain at u (c, d) along a trajectory; returns u, logL (c,)."""
        rate = RATES[self.made >= PILOTS]
        widths = [1 / np.sqrt(1 + self.forces[g] / max(self.made, 1)) for g in (1, 0)]  # none wider than the prior, about
        parts = zip(jax.random.split(key), (u[::2], u[1::2]), widths, self.steps, strict=True)
        ends = [self.trajectory(*part, steps_of(self.made)) for part in parts]
        self.steps = tuple(self.steps[g] * np.exp(rate * (ends[g][2].mean() - ACCEPTED)) for g in (1, 0))
        self.forces = tuple(self.forces[f] + np.mean(np.nan_to_num(ends[f][3]) ** 2, axis=0) for f in (0, 1))
        self.made += 1
        u, logL = (_interleaved(pair) for pair in list(zip(*ends, strict=True))[:2])
        return u, logL


def steps_of(made: int):
    """Return the steps of a trajectory after so many: none to learn the forces, then a few short ones to tune the step."""
    return 0 if made == 0 else PILOT_STEPS if made < PILOTS else STEPS


def calls_of(made: int, n_chains: int):
    """Return the likelihood calls of a trajectory of each chain, after so many."""
    return GRADIENT_CALLS * n_chains * (steps_of(made) + 1)


def run_chains(key: Array, functions: RefineFunctions, start: Start, target: float, limit: float, budget: Budget):
    """Run chains from the points of a nested run until they have settled or the calls are spent.

    Parameters
    ----------
    key : random key.
    functions : RefineFunctions; of them the kernel, the target, the trajectory if there is one, and which coordinates are periodic.
    start : Start
    target : likelihood calls of the refine phase; chains that drift may take more.
    limit : likelihood calls that the chains may take.
    budget : Budget that they are charged to.

    Returns
    -------
    Chains
    """
    d, known, used = start.points.x.shape[1], start.gaussian_fraction > KNOWN, budget.used
    n_chains = chains_for(d, target, found=start.mode_fraction > FOUND)
    k_start, k_init, k_come_in, k_loop = jax.random.split(key, 4)
    fold, u, logL = _started(k_start, start.points, start.logw, n_chains)
    params = _tuned(k_init, functions.kernel.init_params, start.points, [], ((0, 1), (0, 1)))
    record, trajectories, seen, made = Record(), None, Seen(), 0
    least = sum(calls_of(i, n_chains) for i in range(LEAST_TRAJECTORIES))
    while True:
        k_tune, k_walk, k_trajectory = jax.random.split(jax.random.fold_in(k_loop, made), 3)
        sources = ((1,), (0,)) if made >= WARM_UP else ((0, 1), (0, 1))
        params = _tuned(k_tune, functions.kernel.tune, start.points, record.places, sources, params)
        for place in _walk(k_walk, functions, params, u, logL, record.sweep()):
            u, logL = place
            made += 1
            record.add(u, logL)
        if made == WARM_UP:
            u, logL = _come_in(k_come_in, start.points, u, logL)
        if trajectories is not None:
            u, logL = trajectories.move(k_trajectory, u)
            record.add(u, logL)
        before, seen, spent = seen, look(record, functions.space.periodic, known=known), budget.used - used
        enough = made >= 3 * WARM_UP and (made >= LEAST_MOVES[known] * d**2 or spent > LEAST_SHARE[known] * target)
        if trajectories is not None:
            enough = trajectories.made >= LEAST_TRAJECTORIES
        n_next = n_chains * record.sweep() + (calls_of(trajectories.made, n_chains) if trajectories is not None else 0)
        if (enough and seen.settled and before.settled) or limit - spent < n_next or budget.expired():
            break
        stuck = not known and seen.between > STUCK and made >= 3 * WARM_UP and FIRST_CALLS * least < spent < limit - least
        if trajectories is None and functions.trajectory is not None and stuck:
            trajectories, record = Trajectories(functions.trajectory, (np.zeros(d), np.zeros(d))), record.begun_again()
    n_trajectories = 0 if trajectories is None else trajectories.made
    u, logL = record.kept()
    return Chains(u, logL, fold, made, budget.used - used, n_trajectories, seen.drift, seen.settled)


def _started(key, points, starts, n_chains):
    """Choose where chains start: fold (c,), u (c, d), logL (c,)."""
    fold, start, rng = np.arange(n_chains) % 2, np.empty(n_chains, int), generator_of(key)
    for f in (0, 1):
        pick = np.flatnonzero((points.fold == f) & np.isfinite(starts))
        start[fold == f] = pick[systematic_resample(rng, starts[pick], n_chains // 2)]
    return fold, points.x[start], points.logL[start]


def _come_in(key, points, u, logL):
    """Let chains at u (c, d) that are still where there is no posterior start again from points of it.

    A move to an independent place above the own likelihood comes in by one nat of volume: those that started tens of nats out never do.
    """
    order = np.argsort(points.logL, kind="stable")
    below = np.append(0.0, np.cumsum(np.exp(normalised(points.logw[order]))))
    lost = below[np.searchsorted(points.logL[order], logL, side="right")] < NOWHERE
    if not lost.any():
        return u, logL
    _, start_u, start_logL = _started(key, points, points.logw, len(u))
    return np.where(lost[:, None], start_u, u), np.where(lost, start_logL, logL)


def _tuned(key, tune, points, places, sources, params=None):
    """Fit the kernel of each fold.

    Parameters
    ----------
    key : random key.
    tune : a kernel's `init_params`, or its `tune` if there are params.
    points : `Points` of the nested run; places : list of (c, d), where chains have been.
    sources : for each fold the folds that its kernel learns from.
    params : of the kernels before, or None.

    Returns
    -------
    The params of both kernels.
    """
    fits = []
    for fold, k_fold in enumerate(jax.random.split(key)):
        k_rows, k_fit = jax.random.split(k_fold)
        population = _population(k_rows, points, places, sources[fold])
        fits.append(tune(k_fit, population) if params is None else tune(k_fit, population, params[fold], None))
    return fits


def chains_for(dim: int, budget: float, *, found: bool = False):
    """Return the number of chains, even: more in more dimensions, as far as the budget lets each make its least moves and as many again.

    Half of them do where the modes have been found.

    Parameters
    ----------
    dim : number of coordinates d; budget : likelihood calls.
    found : whether the modes have been found.
    """
    wanted = np.clip(CHAINS_PER_DIM * dim, 2 * FEWEST, MOST)
    allowed = min(wanted, CHAIN_SHARE * budget / (min(LEAST_MOVES) * dim**2))
    return 2 * int(max(allowed / 2 if found else allowed, FEWEST) // 2)


def _walk(key, functions, params, u, logL, n_moves):
    """Move the chains of each fold with its kernel; yields u (c, d), logL (c,) after each move."""
    kernel, n, dtype = functions.kernel, len(u) // 2, u.dtype
    blobs, on, walk_scale = np.zeros((n, 0), dtype), np.ones(n, bool), np.asarray(n_moves, dtype)
    *keys, k_accept = jax.random.split(key, 3)
    rng = generator_of(k_accept)
    walkers = [Walkers(u[f::2], logL[f::2].astype(dtype), blobs, on, walk_scale) for f in (0, 1)]
    states = [kernel.init(*start) for start in zip(keys, params, walkers, strict=True)]
    for i in range(n_moves):
        offers = [kernel.propose(jax.random.fold_in(k, i), s) for k, s in zip(keys, states, strict=True)]
        states, proposed, wanted = zip(*offers, strict=True)
        proposed, wanted = _interleaved(proposed), _interleaved(wanted)
        new_logL = functions.target(np.where(wanted[:, None], proposed, np.nan))[0]
        above = wanted & (new_logL > logL - rng.standard_exponential(len(u)))
        states = [kernel.accept(s, above[f::2])[0] for f, s in enumerate(states)]
        u, logL = np.where(above[:, None], proposed, u), np.where(above, new_logL, logL)
        yield u, logL


def _interleaved(pair):
    """Join arrays of the two folds in the order of the chains."""
    return np.stack([np.asarray(part) for part in pair], axis=1).reshape(-1, *pair[0].shape[1:])


def _population(key, points, places, folds):
    """Choose what a kernel is fitted to: posterior points of the nested run and places in the last half of the chains, of some folds."""
    rng, n = generator_of(key), NESTED_ROWS if places else ROWS
    pick = np.flatnonzero(np.isin(points.fold, folds))
    x = points.x[pick[systematic_resample(rng, points.logw[pick], n)]]
    if places:
        late = np.array(places[len(places) // 2 :])
        late = late[:, np.isin(np.arange(late.shape[1]) % 2, folds)]
        step, chain = rng.integers(len(late), size=ROWS - n), rng.integers(late.shape[1], size=ROWS - n)
        x = np.concatenate([x, late[step, chain]])
    return Population(x, np.ones(ROWS, x.dtype))


def look(record: Record, periodic: tuple[bool, ...], *, known: bool):
    """See whether chains have settled.

    Parameters
    ----------
    record : Record; periodic : d flags.
    known : whether the masses of modes are known, so that chains need not mix as well.

    Returns
    -------
    Seen
    """
    logL = np.array(record.logLs)
    drift, calm = _drift(np.array(record.places), logL, periodic)
    between = _between(logL)
    return Seen(drift, between, calm and between < MIXED[known])


def _drift(u, logL, periodic):
    """Compare the middle and the last third of chains u (T, c, d), logL (T, c).

    Returns
    -------
    largest difference of a mean or variance in standard errors, whether chance allows it.
    """
    columns = np.concatenate([on_circles(u, periodic), logL[:, :, None]], axis=2)
    columns = np.concatenate([columns, (columns - columns.mean(axis=(0, 1))) ** 2], axis=2)
    third = len(u) // 3
    change = columns[-third:].mean(axis=0) - columns[-2 * third : -third].mean(axis=0)
    drift = float(np.max(np.abs(change.mean(axis=0)) / (change.std(axis=0, ddof=1) / np.sqrt(len(change)) + np.finfo(float).tiny)))
    return drift, bool(drift < NormalDist().inv_cdf(1 - 0.5 * FALSE_ALARM / change.shape[1]))


def _between(logL):
    """Compute the part of the variance of the ranks of log L (T, c), in the last two thirds, that is between the means of chains.

    Ranks, because a few chains that stay where there is next to no posterior would make all of the variance of log L itself.
    """
    late = logL[len(logL) // 3 :]
    ranks = np.argsort(np.argsort(late, axis=None, kind="stable")).reshape(late.shape)
    return float(ranks.mean(axis=0).var() / ranks.var())
