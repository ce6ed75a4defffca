"""Refine an evidence: fit flows to the posterior, draw from them, and estimate ln Z by importance and by bridge sampling.

The nested run's points form two folds, after the halves of the live points; chains at the posterior go on from them. Each fold trains
flows of its own, and its chains are the posterior sample that bridge sampling sets against draws of the *other* flows. Draws come from
the equal mixture of all; those of the adaptation rounds join the training of the next. No draw has trained a flow that it is from, so
that each round estimates ln Z; the reported figures use fresh draws and all rounds after the first good one.
"""

from typing import NamedTuple

import jax
import numpy as np

from fusions.algorithms.refine.chains import Chains, Start, run_chains
from fusions.algorithms.refine.checks import Bridged, bridged, finds_of, search_around_highest
from fusions.algorithms.refine.draws import Draws, Ensemble, Evaluate, RefineFunctions, draw, together, whole_units
from fusions.algorithms.refine.known import Known
from fusions.algorithms.refine.mode_draws import Search
from fusions.algorithms.refine.modes import Found, joined, survey
from fusions.algorithms.refine.rounds import Round, adapt, few_draws_dominate, fitted
from fusions.algorithms.refine.settings import UNIT, Refine
from fusions.algorithms.refine.training import MODE_SHARE, blended
from fusions.evidence.importance import Importance, importance
from fusions.evidence.volumes import Points, tempered
from fusions.numerics import keys_of, normalised
from fusions.types import Array, Budget, Schedule

INFORMATION = (0.6, 0.3)  # of two tempered targets, relative to that of the posterior
START_SHARES = (0.8, 0.1, 0.1)  # of chains that start from the posterior and from these
MODE_STARTS = 0.5  # of the chains that start from the posterior or before it, from the modes found with their masses
SURVEY_SHARE = 0.2  # of the budget, which looking for modes may take
LEAST_LEFT = 0.75  # of the budget that is left after the chains


class Refined(NamedTuple):
    """What the refine phase found.

    Attributes
    ----------
    importance : Importance estimate from the final draws.
    bridged : Bridged
    ode_error : rms difference of log q between the two directions of the ODE.
    rounds : (rounds, 3) ln Z, its error, and the effective fraction of the draws of each adaptation round but those among the final draws.
    draws : the final `Draws`: those of the rounds after the first good one, and fresh ones.
    flows : Ensemble that the fresh ones were drawn from.
    chains : `Chains` at the posterior.
    modes : (m,) ln of the part of the evidence of each mode, to about 0.4; none if there is one that nested points show well.
    finds : a `Find` for the survey of modes, each of the `rounds`, the final draws, and what is around the highest of all draws if it is
        higher than what was known before, if their estimate is not zero.
    """

    importance: Importance
    bridged: Bridged
    ode_error: float
    rounds: np.ndarray
    draws: Draws
    flows: Ensemble
    chains: Chains
    modes: np.ndarray
    finds: list


class Final(NamedTuple):
    """The final draws.

    Attributes
    ----------
    round : `Round` of the final draws; flows : Ensemble of the fresh ones.
    earlier : rounds, as `Round`, that are not among them.
    made : all `Draws`, for a search around the highest.
    """

    round: Round
    flows: Ensemble
    earlier: list
    made: list


def refine(key: Array, settings: Refine, schedule: Schedule, functions: RefineFunctions, points: Points, budget: Budget, target: int):
    """Run the refine phase.

    Parameters
    ----------
    key : random key.
    settings : Refine; schedule : Schedule; functions : RefineFunctions.
    points : `Points` of the nested run, in internal coordinates.
    budget : Budget, whose limit holds for all; when time is up the final draws are still made.
    target : likelihood calls that should be spent; chains that have not settled may take more.

    Returns
    -------
    Refined, or None if the target is too small.
    """
    if target < 3 * UNIT:
        return None
    k_survey, k_chains, k_rounds, k_final, k_bridge, k_check, k_search = keys_of(key, 7)
    space, used = functions.space, budget.used
    points, evaluate = points._replace(x=space.enter(points.x)), Evaluate(functions.target, points.x.dtype)
    modes = survey(k_survey, points, Search(evaluate, space, SURVEY_SHARE * target, budget.expired))
    points, found = joined(points, modes)
    target -= budget.used - used
    limit = min(schedule.chain_budgets * target, 0.5 * budget.left, budget.left - 2 * UNIT)
    chains = run_chains(k_chains, functions, chain_start(points, found), target, limit, budget)
    known = Known(settings, schedule, functions, budget, points, found, chains)
    early, left = chains.settled and chains.n_calls <= schedule.early_chain_budgets * target, budget.left
    target = int(min(max(target - chains.n_calls, LEAST_LEFT * target), left))
    rounds = adapt(k_rounds, known, target, early=early)
    final = _final_draws(k_final, known, rounds, target, left)
    checks = bridged(k_bridge, functions, final.flows, chains, final.round)
    ode_error = float(np.sqrt(np.mean(functions.roundtrip(k_check, final.flows.fits[0][0]) ** 2)))
    left -= sum(len(draws.u) for draws in final.made)
    finds = finds_of(modes.drawn, [made.draws for made in final.earlier], final.round.draws)
    finds += search_around_highest(k_search, known, evaluate, final.made, left)
    history = np.array([made.summary() for made in final.earlier])
    return Refined(final.round.estimate, checks, ode_error, history, final.round.draws, final.flows, chains, modes.logZ, finds)


def chain_start(points: Points, found: Found):
    """Choose where chains start: at the posterior, at the two betas before it, and at the modes found, by their masses and all alike.

    Parameters
    ----------
    points : `Points` of the nested run and of the modes; found : Found.

    Returns
    -------
    Start
    """
    shares = zip(START_SHARES, (1.0, *betas_of(points)), strict=True)
    logw = np.logaddexp.reduce([np.log(share) + normalised(tempered(points.logw, points.logL, beta)) for share, beta in shares])
    known = points._replace(logw=blended(normalised(points.logw), found.logw_equal, MODE_SHARE * found.mode_fraction))
    logw = blended(logw, found.logw_mass, MODE_STARTS * found.mode_fraction)
    logw = blended(logw, found.logw_equal, MODE_SHARE * found.mode_fraction)
    return Start(known, logw, found.mode_fraction, found.gaussian_fraction)


def betas_of(points: Points):
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


def _final_draws(key, known, rounds, target, left):
    """Draw afresh from the best flows, pool that with the rounds that count; train once more where a few draws carry the estimate.

    Parameters
    ----------
    key : random key.
    known : Known; rounds : Rounds.
    target : likelihood calls of the rounds and these draws; left : the most that they may take.

    Returns
    -------
    Final
    """
    settings, pool, spent = known.settings, rounds.to_pool(), rounds.size * len(rounds.made)
    k_fresh, k_fit, k_last = jax.random.split(key, 3)
    fresh = draw(k_fresh, known.functions, rounds.best, whole_units(min(rounds.wanted(settings), target - spent)))
    kept = [rounds.made[i].draws if i == rounds.of_best else _without_fold(rounds.made[i].draws) for i in pool]
    draws = together([*kept, fresh])
    final = Round(draws, importance(draws.logw))
    earlier, made = [made for i, made in enumerate(rounds.made) if i not in pool], [*rounds.draws(), fresh]
    n = whole_units(min(len(draws.u), settings.max_draws))
    payable = spent + len(fresh.u) + n <= left
    if not few_draws_dominate(final, known.min_efficiency) or not payable or known.budget.expired():
        return Final(final, rounds.best, earlier, made)
    rounds.made.append(Round(fresh, importance(fresh.logw)))
    flows = fitted(k_fit, known, rounds.best, rounds)
    last = draw(k_last, known.functions, flows, n)
    return Final(Round(last, importance(last.logw)), flows, [*earlier, final], [*made, last])


def _without_fold(draws):
    """Mark draws whose flows have been given up."""
    return draws._replace(fold=np.full(len(draws.fold), -1))
