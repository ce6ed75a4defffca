"""Refine an evidence: fit flows to the posterior, draw from them, and estimate ln Z by importance and by bridge sampling.

The nested run's points form two folds, after the halves of the live points; chains at the posterior go on from them. Each fold trains
flows of its own, and its chains are the posterior sample that bridge sampling sets against draws of the *other* flows. Draws come from
the equal mixture of all; those of the adaptation rounds join the training of the next. No draw has trained a flow that it is from, so
that each round estimates ln Z; the reported figures use fresh draws and all rounds after the first good one.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from fusions.algorithms.refine.chains import Chains, run_chains
from fusions.algorithms.refine.modes import follow, joined, survey
from fusions.algorithms.refine.training import MODE_SHARE, blended, train
from fusions.evidence.importance import FINITE_KHAT, TRUSTED_KHAT, Importance, bridge, importance
from fusions.evidence.volumes import tempered
from fusions.flows.mixture import MixtureCNF
from fusions.kernels import Jump
from fusions.numerics import keys_of, logsumexp, normalised

BATCH = 256
FITS = 4  # of each fold, from other starts and rows, whose flows share the draws: what one fit misses another has
UNIT = 2 * FITS * BATCH  # a batch from each flow
LEAST_BUDGET = 10 * UNIT  # likelihood calls that a refine phase may spend after a short nested run
ROUND_SHARE = 0.05  # of the budget or of the calls of the chains, per adaptation round
FINAL_SHARE = 0.5  # of the budget that adaptation leaves to the final draws, if they need so many
EFFICIENCY = {"cheap": 0.3, "expensive": 0.5}  # effective fraction of draws with which adaptation may end
PROGRESS = 1.1  # ratio of effective fractions
FAIR = 0.5  # part of it with which a later round has not failed
N_BOOTSTRAP = 64
THIN = 3.0  # ln of the ratio of posterior and draws above which draws are too thin
INFORMATION = (0.6, 0.3)  # of two tempered targets, relative to that of the posterior
START_SHARES = (0.8, 0.1, 0.1)  # of chains that start from the posterior and from these
MODE_STARTS = 0.5  # of the chains that start from the posterior or before it, from the modes found with their masses
SURVEY_SHARE = 0.2  # of the budget, which looking for modes may take
HIGHER = 1.0  # nats above all points before, from which on the highest draw is followed
FOLLOWED = 200  # likelihood calls per dimension, and d^2 and a batch, that this may take
CHAIN_BUDGET = {"cheap": 5, "expensive": 2}  # budgets that chains may spend until they have settled
LEAST_LEFT = 0.75  # of the budget that is left after the chains
PATIENCE = 5  # rounds without a better effective fraction before adaptation ends
VELOCITY_AFTER = 3  # such rounds before flows learn a velocity


@dataclasses.dataclass(frozen=True)
class Refine:
    """Settings of the refine phase.

    Attributes
    ----------
    error : wanted standard error of ln Z by importance sampling [nats].
    efficiency : effective fraction of draws that is enough; None for 0.3 where calls are cheap and 0.5 where they are expensive.
    max_rounds : most adaptation rounds.
    max_draws : most draws of the final estimate.
    flow : settings of the flows.
    kernel : settings of the kernel of the chains at the posterior.
    """

    error: float = 0.011
    efficiency: float | None = None
    max_rounds: int = 12
    max_draws: int = 128 * BATCH
    flow: Any = MixtureCNF()
    kernel: Any = Jump(components=24, slides=0.6)


class Tools(NamedTuple):
    """Compiled functions of a refine phase; x are coordinates of `with_edges`.

    Attributes
    ----------
    init : key -> flow state.
    fit : (key, state, x (training.ROWS, d), *, with_velocity) -> state; the velocity field is trained only `with_velocity`.
    held_out : n -> flags (n,) of the rows that a fit does not train on.
    draw : (key, state) -> x (BATCH, d).
    roundtrip : (key, state) -> (BATCH,) error of log q that the ODE solver makes.
    logq : (state, x (BATCH, d)) -> (BATCH,).
    target : x (BATCH, d) -> (logL (BATCH,), blobs, logprior (BATCH,), likelihood calls).
    logprior : x (n, d) -> (n,), of any length.
    kernel : `Kernel` of the chains.
    trajectory : what `hamiltonian.make_trajectory` makes; None if the likelihood has no gradient.
    periodic : d flags; bounds : (2, d) edges of the prior, infinite where it has none.
    enter, leave : internal coordinates (n, d) -> x, and back.
    """

    init: Callable
    fit: Callable
    held_out: Callable
    draw: Callable
    roundtrip: Callable
    logq: Callable
    target: Callable
    logprior: Callable
    kernel: Any
    trajectory: Callable | None
    periodic: tuple
    bounds: np.ndarray
    enter: Callable
    leave: Callable


class Draws(NamedTuple):
    """Draws, each round from the equal mixture of its flows.

    Attributes
    ----------
    x : (n, d) coordinates of the `Tools`; logL : (n,); blobs : (n, b).
    logw_own : (n,) log(prior L / q), q the mixture of the flows of the fold that a draw is from.
    logw : (n,) log(prior L / q), q the mixture of all.
    fold : (n,) whose flow it was drawn from; -1 for one that has been given up since.
    """

    x: np.ndarray
    logL: np.ndarray
    blobs: np.ndarray
    logw_own: np.ndarray
    logw: np.ndarray
    fold: np.ndarray


class Find(NamedTuple):
    """An estimate of ln Z from draws of a known density, and its heaviest draw.

    Attributes
    ----------
    name : where the draws are from; estimate : Importance.
    x : (d,), logL : of the draw of the largest weight.
    """

    name: str
    estimate: Importance
    x: np.ndarray
    logL: float


class Asked:
    """The likelihood at any number of points.

    Attributes
    ----------
    n_calls : so far; highest : log L so far, inside of the prior.
    """

    def __init__(self, target, dtype, spent):
        """Take the target and the reporter of calls of a refine phase, and the type of its points."""
        self.target, self.dtype, self.spent = target, dtype, spent
        self.n_calls, self.highest = 0, -np.inf

    def __call__(self, x):
        """Return logL (n,), logprior (n,) at x (n, d)."""
        logL, logprior = np.empty((2, len(x)))
        for i, n, rows in _batches(x.astype(self.dtype)):
            values, _, inside, n_calls = self.target(rows)
            logL[i : i + n], logprior[i : i + n] = values[:n], inside[:n]
            self.spent(n_calls)
            self.n_calls += n_calls
        self.highest = np.max(logL, where=np.isfinite(logprior), initial=self.highest)
        return logL, logprior


class Refined(NamedTuple):
    """What the refine phase found.

    Attributes
    ----------
    importance : Importance estimate from the final draws.
    bridge : (ln Z, error).
    coverage : ln(Z_importance / Z_bridge), ln of the posterior mass that the flows cover, and its error.
    uncovered : part of the posterior that chains see where draws are too thin, beyond what these draws hold there.
    ode_error : rms difference of log q between the two directions of the ODE.
    rounds : (rounds, 3) ln Z, its error, and the effective fraction of the draws of each adaptation round but those among the final draws.
    draws : the final `Draws`: those of the rounds after the first good one, and fresh ones.
    flows : what the fresh ones were drawn from, a pair of flow states (one per fold) for each fit.
    chains : `Chains` at the posterior.
    modes : (m,) ln of the part of the evidence of each mode, to about 0.4; none if there is one that nested points show well.
    finds : a `Find` for the survey of modes, each of the `rounds`, the final draws, and what is around the highest of all draws if it is
        higher than what was known before, if their estimate is not zero.
    """

    importance: Importance
    bridge: tuple
    coverage: tuple
    uncovered: float
    ode_error: float
    rounds: np.ndarray
    draws: Draws
    flows: list
    chains: Chains
    modes: np.ndarray
    finds: list


def refine(key, rng, settings, tools, points, cost, budget, most, spent, expired):
    """Run the refine phase.

    Parameters
    ----------
    key : random key.
    rng : numpy Generator.
    settings : Refine
    tools : Tools
    points : `Points` of the nested run, in internal coordinates.
    cost : "cheap" or "expensive", of likelihood calls.
    budget : likelihood calls that shall be spent; chains that have not settled may take more.
    most : likelihood calls that may be spent.
    spent : called with the number of likelihood calls when they are made.
    expired : () -> whether time is up; the final draws are still made.

    Returns
    -------
    Refined, or None if the budget is too small.
    """
    if budget < 3 * UNIT:
        return None
    k_init, k_rounds, k_final, k_check, k_chains = keys_of(key, 5)
    points, asked = points._replace(x=tools.enter(points.x)), Asked(tools.target, points.x.dtype, spent)
    modes = survey(rng, points, asked, tools.periodic, tools.bounds, SURVEY_SHARE * budget, expired)
    points, found = joined(points, modes)
    budget, most = budget - asked.n_calls, most - asked.n_calls
    chains = _chains(k_chains, rng, tools, points, found, cost, budget, most, spent, expired)
    quick = chains.settled and (cost == "cheap" or chains.n_calls <= budget)
    budget = int(min(max(budget - chains.n_calls, LEAST_LEFT * budget), most - chains.n_calls))
    per_round = UNIT * int(np.clip(max(budget, chains.n_calls) * ROUND_SHARE / UNIT, 1, 4))
    flows, rounds, history, of_best, with_velocity = [[tools.init(k) for k in jax.random.split(k_init)]] * FITS, [], [], 0, False
    good, fitted = settings.efficiency or EFFICIENCY[cost], _fitter(k_rounds, rng, tools, points, chains, found)
    for i in range(settings.max_rounds):
        flows, k_draw = fitted(i, flows, rounds, with_velocity=with_velocity)
        rounds.append(draw(k_draw, tools, flows, per_round, spent))
        now = importance(rounds[-1].logw)
        history.append(_record(now, per_round))
        if history[i][-1] >= history[of_best][-1]:
            best, of_best = flows, i
        kept, with_velocity = _kept(history, good), with_velocity or (cost == "expensive" and _stalled(history, good))
        wanted = min((1 / max(history[of_best][-1], 1e-9) - 1) / settings.error**2, settings.max_draws) - per_round * len(kept)
        needed = max(min(wanted, FINAL_SHARE * budget), per_round)
        if _settled(history, now.khat, good, quick=quick) or budget - per_round * (len(rounds) + 1) < needed or expired():
            break
    fresh = draw(k_final, tools, best, whole_units(min(wanted, budget - per_round * len(rounds))), spent)
    draws = together([*(rounds[i]._replace(fold=np.where(i == of_best, rounds[i].fold, -1)) for i in kept), fresh])
    made, seen = [*rounds, fresh], [now for i, now in enumerate(rounds) if i not in kept]
    history = [record for i, record in enumerate(history) if i not in kept]
    estimate, n = importance(draws.logw), whole_units(min(len(draws.x), settings.max_draws))
    payable = per_round * len(rounds) + len(fresh.x) + n <= most - chains.n_calls
    if _uneven(estimate, len(draws.x), good) and payable and not expired():
        rounds.append(fresh)
        seen.append(draws)
        history.append(_record(estimate, len(draws.x)))
        best, k_draw = fitted(settings.max_rounds, best, rounds, with_velocity=with_velocity)
        draws = draw(k_draw, tools, best, n, spent)
        made.append(draws)
        estimate = importance(draws.logw)
    checks = _bridge(rng, tools, best, chains, draws, estimate.logZ)
    ode_error = float(np.sqrt(np.mean(tools.roundtrip(k_check, best[0][0]) ** 2)))
    finds = [*_finds(modes.drawn, seen, draws), *_followed(rng, tools, points, asked, chains, made, most, expired)]
    return Refined(estimate, *checks, ode_error, np.array(history), draws, best, chains, modes.logZ, finds)


def _chains(key, rng, tools, points, found, cost, budget, most, spent, expired):
    """Run chains from the posterior, from the two betas before it, and from the modes found, both by their masses and all alike."""
    starts = np.logaddexp.reduce(
        [np.log(s) + normalised(tempered(points.logw, points.logL, b)) for s, b in zip(START_SHARES, (1.0, *betas_of(points)), strict=True)]
    )
    known = points._replace(logw=blended(normalised(points.logw), found.alike, MODE_SHARE * found.held))
    starts = blended(blended(starts, found.masses, MODE_STARTS * found.held), found.alike, MODE_SHARE * found.held)
    most = min(CHAIN_BUDGET[cost] * budget, most // 2, most - 2 * UNIT)
    return run_chains(key, rng, tools, known, starts, found.held, found.sure, budget, most, spent, expired)


def _fitter(key, rng, tools, points, chains, found):
    """Make the function that fits flows once more, from the flows before and the rounds of draws; gives a key to draw from them too.

    Flows with a velocity cost much to fit: of these there is a new one of each fold, beside the one before.
    """

    def fitted(i, flows, rounds, *, with_velocity):
        k_fit, k_draw = jax.random.split(jax.random.fold_in(key, i))
        before = flows[:1] if with_velocity else flows
        keys = keys_of(k_fit, len(before))
        new = [
            train(k, rng, tools, pair, points, chains, rounds, found, with_velocity=with_velocity)
            for k, pair in zip(keys, before, strict=True)
        ]
        return [*new, *before] if with_velocity else new, k_draw

    return fitted


def _record(estimate, n):
    """Return what is kept of a round of n draws: ln Z, its error, effective fraction."""
    return estimate.logZ, estimate.logZ_err, estimate.ess / n


def _finds(surveyed, rounds, draws):
    """List what the survey of modes, each of the rounds and the final draws say of ln Z by themselves; not those that hold nothing.

    The laws of the survey were fitted to the draws that they weigh, so that the error of its estimate is not to be trusted.
    """
    first = [find._replace(estimate=find.estimate._replace(khat=np.inf)) for find in _find("the survey of modes", surveyed)]
    named = [*((f"round {i}", made) for i, made in enumerate(rounds, start=1)), ("the final draws", draws)]
    return first + [find for name, made in named for find in _find(name, made)]


def _find(name, draws):
    """Return a list of the `Find` of draws, empty if they hold nothing."""
    if not np.any(np.isfinite(draws.logw)):
        return []
    i = int(np.argmax(draws.logw))
    return [Find(name, importance(draws.logw), draws.x[i], float(draws.logL[i]))]


def _followed(rng, tools, points, asked, chains, made, most, expired):
    """Follow the highest of the places of chains and of all draws if it is higher than what was known before; returns a list of the `Find`.

    Flows need not have learned from a draw that is alone on a narrow peak, and its weight says little of the peak's mass.
    """
    x, logL = np.concatenate([chains.x.reshape(-1, chains.x.shape[-1]), *(draws.x for draws in made)]), chains.logL.ravel()
    logL = np.concatenate([logL, *(np.where(np.isfinite(draws.logw), draws.logL, -np.inf) for draws in made)])
    top, d = int(np.argmax(logL)), x.shape[1]
    left = most - chains.n_calls - sum(len(draws.x) for draws in made)
    if logL[top] < max(asked.highest, points.logL.max()) + HIGHER or left < FOLLOWED * d + d**2 + BATCH or expired():
        return []
    spread = np.asarray(points.x, np.float64).std(axis=0)
    around = follow(rng, BATCH, np.asarray(x[top], np.float64), spread, asked, tools.periodic, tools.bounds, left, expired)
    return _find("a search around the highest point", around)


def _kept(history, good):
    """Choose the rounds that are among the final draws, by number: all after the first good one but those that failed.

    A round that finds what flows missed has uneven weights: to keep the good ones alone would lose what they found.
    """
    first = next((i for i, (*_, share) in enumerate(history) if share > good), len(history))
    return [i for i in range(first + 1, len(history)) if history[i][-1] > FAIR * good]


def whole_units(n):
    """Round a number of draws up to a batch from each flow."""
    return UNIT * max(int(np.ceil(n / UNIT)), 1)


def _uneven(estimate, n, good):
    """Decide whether a few of n final draws carry their estimate: they have found what the flows miss, and shall train them once more."""
    return estimate.ess < good * n and estimate.khat > FINITE_KHAT


def _stalled(history, good):
    """Decide whether kernels and Gaussians alone do not do: no good round yet, and no progress."""
    return max(share for *_, share in history) < good and _no_progress(history, VELOCITY_AFTER)


def _no_progress(history, n):
    """Decide whether the last n rounds were not much better than the best before."""
    shares = [share for *_, share in history]
    return len(shares) > n and max(shares[-n:]) < PROGRESS * max(shares[:-n])


def _settled(history, khat, good, *, quick):
    """Decide whether adaptation may end: without progress, or if the last two rounds were good and agree.

    Where chains were not `quick` to settle, a part of the posterior fills slowly, and good rounds do not show that it is full.
    """
    if len(history) < 2:
        return False
    (a, a_err, a_share), (b, b_err, b_share) = history[-2:]
    if quick and min(a_share, b_share) > good and khat < TRUSTED_KHAT and abs(a - b) < 3 * np.hypot(a_err, b_err):
        return True
    return _no_progress(history, PATIENCE)


def betas_of(points):
    """Find the betas at which prior x L^beta has each share of the posterior's information in `INFORMATION`.

    Regions that live points lost on their way to the posterior are still among the points of earlier contours.
    """
    base = normalised(tempered(points.logw, points.logL, 0.0))

    def information(beta):
        logw = normalised(tempered(points.logw, points.logL, beta))
        seen = np.exp(logw) > 0
        return float(np.sum(np.exp(logw[seen]) * (logw[seen] - base[seen])))

    def solve(wanted):
        low, high = 0.0, 1.0
        for _ in range(40):
            beta = 0.5 * (low + high)
            low, high = (beta, high) if information(beta) < wanted else (low, beta)
        return beta

    whole = information(1.0)
    return [solve(share * whole) for share in INFORMATION]


def _batches(x):
    """Cut x (n, d) into batches of one shape, the last one filled with nan; yields the first row, how many there are, (BATCH, d)."""
    for i in range(0, len(x), BATCH):
        n = min(BATCH, len(x) - i)
        yield i, n, np.pad(x[i : i + n], ((0, BATCH - n), (0, 0)), constant_values=np.nan)


def _logq(tools, flows, fold, x):
    """Compute ln of the density at x (n, d) of the equal mixture of one fold's flows."""
    parts = [np.concatenate([tools.logq(pair[fold], rows)[:n] for _, n, rows in _batches(x)]) for pair in flows]
    return logsumexp(np.array(parts), axis=0) - np.log(len(parts))


def draw(key, tools, flows, n, spent):
    """Draw n points, batch by batch from each of the flows, with their weights under the mixture."""
    sources, parts = [(pair[fold], fold) for pair in flows for fold in (0, 1)], []
    for i in range(n // BATCH):
        state, fold = sources[i % len(sources)]
        x = tools.draw(jax.random.fold_in(key, i), state)
        logL, blobs, logprior, n_calls = tools.target(x)
        spent(n_calls)
        logp = np.where(np.isfinite(logprior), logprior + logL, -np.inf)
        both = np.array([_logq(tools, flows, f, x) for f in (0, 1)])
        mixture = np.logaddexp(*both) - np.log(2)
        parts.append(Draws(x, logL, blobs, logp - both[fold], logp - mixture, np.full(BATCH, fold)))
    return together(parts)


def together(parts):
    """Join `Draws`."""
    return Draws(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _bridge(rng, tools, flows, chains, draws, logZ_importance):
    """Bridge the chains of each fold with the flows of the other; errors by resampling chains and draws.

    Chains share ancestors, so that resampling them misses an error of mode masses; the difference of the folds, which share none, is
    added in quadrature.

    Returns
    -------
    (ln Z, error), (ln of the covered mass, error), uncovered mass as in `Refined`
    """
    folds = []
    for fold in (0, 1):
        x, logL, chain = chains.of_fold(fold)
        logw = tools.logprior(x) + logL - _logq(tools, flows, 1 - fold, x)
        folds.append((chain, logw, draws.logw_own[draws.fold == 1 - fold]))
    parts = [bridge(logw, np.ones(len(logw)), theirs) for _, logw, theirs in folds]
    logZ, scatter = np.mean(parts), abs(parts[1] - parts[0]) / 2
    replicas, w = [], np.exp(draws.logw - draws.logw.max())
    for _ in range(N_BOOTSTRAP):
        noise = rng.standard_exponential(len(w))
        values = [
            bridge(logw, rng.standard_exponential(chain.max() + 1)[chain], theirs, noise[draws.fold == 1 - fold])
            for fold, (chain, logw, theirs) in enumerate(folds)
        ]
        replicas.append((np.mean(values), np.log(noise @ w / noise.sum()) + draws.logw.max()))
    replicas = np.array(replicas)
    spread = replicas[:, 0].std(ddof=1)
    gap = (replicas[:, 1] - replicas[:, 0]).std(ddof=1)
    bridged, covered = (float(logZ), float(np.hypot(spread, scatter))), (float(logZ_importance - logZ), float(np.hypot(gap, scatter)))
    return bridged, covered, uncovered([(logw, theirs) for _, logw, theirs in folds], logZ_importance)


def uncovered(pairs, logZ):
    """Compute the part of the posterior that chains see where draws are too thin, beyond what the draws hold there.

    Parameters
    ----------
    pairs : for each fold log(prior L / q) of its chains, and of draws of the density q.
    logZ : ln of the evidence by importance sampling.

    Returns
    -------
    float, at least 0
    """
    seen = [np.mean(chains - logZ > THIN) for chains, _ in pairs]
    held = [np.sum(np.exp(draws[draws - logZ > THIN] - logZ)) / len(draws) for _, draws in pairs]
    return float(max(np.mean(seen) - np.mean(held), 0.0))
