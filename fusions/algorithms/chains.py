"""Chains at the posterior: they fill what live points lost on their way there, and are a sample that trained no flow of the other fold.

A kernel leaves the prior above a contour invariant. A chain at the posterior draws the contour of each move below its own likelihood,
log L* = log L + ln(u) with uniform u (slice sampling, Neal 2003, doi:10.1214/aos/1056562461), so that the same kernels serve. Kernels
are tuned on the places of the fold that they do not move: chains that tune their own kernel lose the tails of the posterior. The first
`WARM_UP` moves are the exception, with kernels tuned on all chains, which bring in those that start far out.
"""

from statistics import NormalDist
from typing import NamedTuple

import jax
import numpy as np

from fusions.numerics import on_circles, systematic_resample
from fusions.types import Population, Walkers

CHAINS_PER_DIM, FEWEST, MOST = 32, 64, 256  # chains
SWEEP = 8  # moves between two fits of the kernel, later this share of all moves so far
KEPT = 16  # places in the last third of each chain that are kept
WARM_UP = 32  # moves with kernels that are tuned on all chains, not in the last two thirds of any
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
FALSE_ALARM = 0.2  # chance that settled chains seem to drift; two looks in a row must be calm


class Chains(NamedTuple):
    """Chains at the posterior.

    Attributes
    ----------
    x : (KEPT, c, d) places in the last third; logL : (KEPT, c).
    fold : (c,) of the nested points they started from.
    n_moves : moves of each chain; n_calls : likelihood calls of all.
    drift : largest difference of a mean or variance between the middle and the last third, of any coordinate or log L [standard errors].
    settled : whether it is no larger than chance allows, and each chain has seen most of what all have, if it must.
    """

    x: np.ndarray
    logL: np.ndarray
    fold: np.ndarray
    n_moves: int
    n_calls: int
    drift: float
    settled: bool

    def thinned(self):
        """Keep only so many places that they are about independent: a fit takes places close together for a narrow mode."""
        n = int(np.clip(self.n_moves / (2 * MOVES_PER_DIM * self.x.shape[2]), 1, len(self.x)))
        pick = np.linspace(len(self.x) - 1, 0, n).astype(int)
        return self._replace(x=self.x[pick], logL=self.logL[pick])

    def of_fold(self, fold):
        """Return the points (n, d) of one fold, their log L (n,), and which chain each belongs to (n,)."""
        mine = np.flatnonzero(self.fold == fold)
        x, logL = self.x[:, mine], self.logL[:, mine]
        return x.reshape(-1, x.shape[-1]), logL.ravel(), np.tile(np.arange(len(mine)), len(x))


def run_chains(key, rng, kernel, target, points, starts, held, sure, periodic, budget, most, spent, expired):
    """Run chains from the points of a nested run until they have settled or the calls are spent.

    Parameters
    ----------
    key : random key; rng : numpy Generator.
    kernel : `Kernel` of compiled functions.
    target : x (n, d) -> (logL (n,), blobs, logprior, likelihood calls); rows of nan cost no call.
    points : `Points` of the nested run.
    starts : (N,) log weights with which chains start at them; wider than the posterior, so that modes which lost their points get some.
    held : part of the posterior in modes that have been found; sure : in those whose masses `starts` give right.
    periodic : d flags.
    budget : likelihood calls of the refine phase; chains that drift may take more.
    most : likelihood calls that may be spent.
    spent : called with the number of likelihood calls when they are made.
    expired : () -> whether time is up.

    Returns
    -------
    Chains
    """
    n_chains, known = chains_for(points.x.shape[1], budget, found=held > FOUND), sure > KNOWN
    fold, start = np.arange(n_chains) % 2, np.empty(n_chains, int)
    for f in (0, 1):
        pick = np.flatnonzero((points.fold == f) & np.isfinite(starts))
        start[fold == f] = pick[systematic_resample(rng, starts[pick], n_chains // 2)]
    x, logL, used = points.x[start], points.logL[start], 0
    k_init, k_loop = jax.random.split(key)
    params = [kernel.init_params(k, _population(rng, points, [], (0, 1))) for k in jax.random.split(k_init)]
    places, logLs, made, stride, settled = [], [], 0, 1, False
    while True:
        k_tune, k_walk = jax.random.split(jax.random.fold_in(k_loop, made))
        sources = ((0, 1), (0, 1)) if made < WARM_UP else ((1,), (0,))
        fits = zip(jax.random.split(k_tune), sources, params, strict=True)
        params = [kernel.tune(k, _population(rng, points, places, folds), p, None) for k, folds, p in fits]
        n_moves = max(SWEEP, made // SWEEP)
        for now in _walk(k_walk, rng, kernel, target, params, x, logL, n_moves):
            x, logL, n_calls = now
            spent(n_calls)
            used, made = used + n_calls, made + 1
            if made % stride == 0:
                places.append(x)
                logLs.append(logL)
            if len(places) > REMEMBERED:
                places, logLs, stride = places[1::2], logLs[1::2], 2 * stride
        before = settled
        heights = np.array(logLs)
        drift, calm = _drift(np.array(places), heights, periodic)
        settled = calm and _between(heights) < MIXED[known]
        enough = made >= 3 * WARM_UP and (made >= LEAST_MOVES[known] * x.shape[1] ** 2 or used > LEAST_SHARE[known] * budget)
        if (enough and settled and before) or most - used < n_chains * max(SWEEP, made // SWEEP) or expired():
            break
    kept = np.linspace(2 * len(places) // 3, len(places) - 1, KEPT).astype(int)
    return Chains(np.array([places[i] for i in kept]), np.array([logLs[i] for i in kept]), fold, made, used, drift, settled)


def chains_for(dim, budget, *, found=False):
    """Return the number of chains, even: more in more dimensions, as far as the budget lets each make its least moves and as many again.

    Half of them do where the modes have been found.
    """
    wanted = np.clip(CHAINS_PER_DIM * dim, 2 * FEWEST, MOST)
    allowed = min(wanted, CHAIN_SHARE * budget / (min(LEAST_MOVES) * dim**2))
    return 2 * int(max(allowed / 2 if found else allowed, FEWEST) // 2)


def _walk(key, rng, kernel, target, params, x, logL, n_moves):
    """Move the chains of each fold with its kernel; yields x (c, d), logL (c,) and the likelihood calls of each move."""
    n, dtype = len(x) // 2, x.dtype
    blobs, on, effort = np.zeros((n, 0), dtype), np.ones(n, bool), np.asarray(n_moves, dtype)
    keys = jax.random.split(key)
    walkers = [Walkers(x[f::2], logL[f::2].astype(dtype), blobs, on, effort) for f in (0, 1)]
    states = [kernel.init(*start) for start in zip(keys, params, walkers, strict=True)]
    for i in range(n_moves):
        offers = [kernel.propose(jax.random.fold_in(k, i), s) for k, s in zip(keys, states, strict=True)]
        states, proposed, wanted = zip(*offers, strict=True)
        proposed, wanted = _interleaved(proposed), _interleaved(wanted)
        new_logL, _, _, n_calls = target(np.where(wanted[:, None], proposed, np.nan))
        above = wanted & (new_logL > logL - rng.standard_exponential(len(x)))
        states = [kernel.accept(s, above[f::2])[0] for f, s in enumerate(states)]
        x, logL = np.where(above[:, None], proposed, x), np.where(above, new_logL, logL)
        yield x, logL, n_calls


def _interleaved(pair):
    """Join arrays of the two folds in the order of the chains."""
    return np.stack([np.asarray(part) for part in pair], axis=1).reshape(-1, *pair[0].shape[1:])


def _population(rng, points, places, folds):
    """Choose what a kernel is fitted to: posterior points of the nested run and places in the last half of the chains, of some folds."""
    n = NESTED_ROWS if places else ROWS
    pick = np.flatnonzero(np.isin(points.fold, folds))
    x = points.x[pick[systematic_resample(rng, points.logw[pick], n)]]
    if places:
        late = np.array(places[len(places) // 2 :])
        late = late[:, np.isin(np.arange(late.shape[1]) % 2, folds)]
        step, chain = rng.integers(len(late), size=ROWS - n), rng.integers(late.shape[1], size=ROWS - n)
        x = np.concatenate([x, late[step, chain]])
    return Population(x, np.ones(ROWS, x.dtype))


def _drift(x, logL, periodic):
    """Compare the middle and the last third of chains x (T, c, d), logL (T, c).

    Returns
    -------
    largest difference of a mean or variance in standard errors, whether chance allows it.
    """
    columns = np.concatenate([on_circles(x, periodic), logL[:, :, None]], axis=2)
    columns = np.concatenate([columns, (columns - columns.mean(axis=(0, 1))) ** 2], axis=2)
    third = len(x) // 3
    change = columns[-third:].mean(axis=0) - columns[-2 * third : -third].mean(axis=0)
    drift = float(np.max(np.abs(change.mean(axis=0)) / (change.std(axis=0, ddof=1) / np.sqrt(len(change)) + 1e-12)))
    return drift, bool(drift < NormalDist().inv_cdf(1 - 0.5 * FALSE_ALARM / change.shape[1]))


def _between(logL):
    """Compute the part of the variance of the ranks of log L (T, c), in the last two thirds, that is between the means of chains.

    Ranks, because a few chains that stay where there is next to no posterior would make all of the variance of log L itself.
    """
    late = logL[len(logL) // 3 :]
    ranks = np.argsort(np.argsort(late, axis=None, kind="stable")).reshape(late.shape)
    return float(ranks.mean(axis=0).var() / ranks.var())
