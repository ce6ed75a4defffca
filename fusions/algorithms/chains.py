"""Chains at the posterior: they fill what live points lost on their way there, and are a sample that trained no flow of the other fold.

A kernel leaves the prior above a contour invariant. A chain at the posterior draws the contour of each move below its own likelihood,
log L* = log L + ln(u) with uniform u (slice sampling, Neal 2003, doi:10.1214/aos/1056562461), so that the same kernels serve.
"""

from statistics import NormalDist
from typing import NamedTuple

import jax
import numpy as np

from fusions.numerics import systematic_resample
from fusions.types import Population, Walkers

CHAINS_PER_DIM, FEWEST, MOST = 32, 128, 256  # chains
SWEEP = 8  # moves between two fits of the kernel, later this share of all moves so far
KEPT = 16  # places in the last half of each chain that are kept
REMEMBERED = 1024  # places of each chain in memory; from there on every second one
ROWS = 4096  # points that the kernel is fitted to
NESTED_ROWS = 1024  # of these from the nested run, so that no mode is forgotten
MOVES_PER_DIM = 5  # that lead to an independent place, about
LEAST_MOVES = 2  # times d^2: moves along a ridge are random walks, and a slow drift takes time to show
LEAST_SHARE = 0.25  # of the usual budget, which these moves may take at most
FALSE_ALARM = 0.2  # chance that settled chains seem to drift; two looks in a row must be calm


class Chains(NamedTuple):
    """Chains at the posterior.

    Attributes
    ----------
    x : (KEPT, c, d) places in the last half; logL : (KEPT, c).
    fold : (c,) of the nested points they started from.
    n_moves : moves of each chain; n_calls : likelihood calls of all.
    drift : largest difference of a mean or variance between the middle and the last third, of any coordinate or log L [standard errors].
    settled : whether it is no larger than chance allows.
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


def run_chains(key, rng, kernel, target, points, starts, periodic, budget, most, spent, expired):
    """Run chains from the points of a nested run until they have settled or the calls are spent.

    Parameters
    ----------
    key : random key; rng : numpy Generator.
    kernel : `Kernel` of compiled functions.
    target : x (n, d) -> (logL (n,), blobs, logprior, likelihood calls); rows of nan cost no call.
    points : `Points` of the nested run.
    starts : (N,) log weights with which chains start at them; wider than the posterior, so that modes which lost their points get some.
    periodic : d flags.
    budget : likelihood calls of the refine phase; chains that drift may take more.
    most : likelihood calls that may be spent.
    spent : called with the number of likelihood calls when they are made.
    expired : () -> whether time is up.

    Returns
    -------
    Chains
    """
    n_chains = int(np.clip(CHAINS_PER_DIM * points.x.shape[1], FEWEST, MOST))
    fold, start = np.arange(n_chains) % 2, np.empty(n_chains, int)
    for f in (0, 1):
        pick = np.flatnonzero((points.fold == f) & np.isfinite(starts))
        start[fold == f] = pick[systematic_resample(rng, starts[pick], n_chains // 2)]
    x, logL, used = points.x[start], points.logL[start], 0
    k_init, k_loop = jax.random.split(key)
    ones = np.ones(ROWS, points.x.dtype)
    params = kernel.init_params(k_init, Population(_rows(rng, points, []), ones))
    places, logLs, made, stride, settled = [], [], 0, 1, False
    while True:
        k_tune, k_walk = jax.random.split(jax.random.fold_in(k_loop, made))
        params = kernel.tune(k_tune, Population(_rows(rng, points, places), ones), params, None)
        n_moves = max(SWEEP, made // SWEEP)
        effort, on = np.asarray(n_moves, x.dtype), np.ones(n_chains, bool)
        state = kernel.init(k_walk, params, Walkers(x, logL.astype(x.dtype), np.zeros((n_chains, 0), x.dtype), on, effort))
        for i in range(n_moves):
            state, proposed, wanted = kernel.propose(jax.random.fold_in(k_walk, i), state)
            proposed, wanted = np.asarray(proposed), np.asarray(wanted)
            new_logL, _, _, n_calls = target(np.where(wanted[:, None], proposed, np.nan))
            spent(n_calls)
            used += n_calls
            above = wanted & (new_logL > logL - rng.standard_exponential(n_chains))
            state, _ = kernel.accept(state, above)
            x, logL = np.where(above[:, None], proposed, x), np.where(above, new_logL, logL)
            made += 1
            if made % stride == 0:
                places.append(x)
                logLs.append(logL)
            if len(places) > REMEMBERED:
                places, logLs, stride = places[1::2], logLs[1::2], 2 * stride
        before = settled
        drift, settled = _drift(np.array(places), np.array(logLs), periodic)
        enough = made >= LEAST_MOVES * x.shape[1] ** 2 or used > LEAST_SHARE * budget
        if (enough and settled and before) or most - used < n_chains * max(SWEEP, made // SWEEP) or expired():
            break
    kept = np.linspace(len(places) // 2, len(places) - 1, KEPT).astype(int)
    return Chains(np.array([places[i] for i in kept]), np.array([logLs[i] for i in kept]), fold, made, used, drift, settled)


def _rows(rng, points, places):
    """Choose the rows that the kernel is fitted to: posterior points of the nested run and of the last half of the chains."""
    n = NESTED_ROWS if places else ROWS
    nested = points.x[systematic_resample(rng, points.logw, n)]
    if not places:
        return nested
    late = places[len(places) // 2 :]
    step, chain = rng.integers(len(late), size=ROWS - n), rng.integers(len(late[0]), size=ROWS - n)
    return np.concatenate([nested, np.array(late)[step, chain]])


def _drift(x, logL, periodic):
    """Compare the middle and the last third of chains x (T, c, d), logL (T, c).

    Returns
    -------
    largest difference of a mean or variance in standard errors, whether chance allows it.
    """
    angles = np.asarray(periodic, bool)
    columns = np.concatenate([x[:, :, ~angles], np.cos(x[:, :, angles]), np.sin(x[:, :, angles]), logL[:, :, None]], axis=2)
    columns = np.concatenate([columns, (columns - columns.mean(axis=(0, 1))) ** 2], axis=2)
    third = len(x) // 3
    change = columns[-third:].mean(axis=0) - columns[-2 * third : -third].mean(axis=0)
    drift = float(np.max(np.abs(change.mean(axis=0)) / (change.std(axis=0, ddof=1) / np.sqrt(len(change)) + 1e-12)))
    return drift, bool(drift < NormalDist().inv_cdf(1 - 0.5 * FALSE_ALARM / change.shape[1]))
