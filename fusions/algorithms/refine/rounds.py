"""Adaptation rounds: fit flows to all that is known of the posterior, draw from them, and again, until the draws are good."""

import dataclasses
from typing import NamedTuple

import jax
import numpy as np

from fusions.algorithms.refine.draws import Draws, Ensemble, draw
from fusions.algorithms.refine.known import Known
from fusions.algorithms.refine.settings import FITS, UNIT, Refine
from fusions.algorithms.refine.training import train
from fusions.evidence.importance import FINITE_KHAT, TRUSTED_KHAT, Importance, importance
from fusions.numerics import keys_of
from fusions.types import Array

ROUND_SHARE = 0.05  # of the budget or of the calls of the chains, per adaptation round
FINAL_SHARE = 0.5  # of the budget that adaptation leaves to the final draws, if they need so many
PROGRESS = 1.1  # ratio of effective fractions
MIN_RELATIVE_EFFICIENCY = 0.5  # part of the wanted efficiency with which a later round has not failed
PATIENCE = 5  # rounds without a better effective fraction before adaptation ends


class Round(NamedTuple):
    """One round: its draws and what they say of ln Z."""

    draws: Draws
    estimate: Importance

    @property
    def efficiency(self):
        """Effective fraction of the draws."""
        return self.estimate.ess / len(self.draws.u)

    def summary(self):
        """Return ln Z, its error and the effective fraction."""
        return self.estimate.logZ, self.estimate.logZ_err, self.efficiency


@dataclasses.dataclass
class Rounds:
    """The rounds so far.

    Attributes
    ----------
    size : draws per round; min_efficiency : effective fraction that is enough.
    made : list of `Round`.
    best : Ensemble of the latest round with the highest efficiency; of_best : its number.
    with_velocity : whether flows learn a velocity field from now on.
    """

    size: int
    min_efficiency: float
    best: Ensemble
    of_best: int = 0
    with_velocity: bool = False
    made: list = dataclasses.field(default_factory=list)

    def add(self, draws: Draws, flows: Ensemble):
        """Append a round of draws from flows."""
        self.made.append(Round(draws, importance(draws.logw)))
        if self.made[-1].efficiency >= self.made[self.of_best].efficiency:
            self.best, self.of_best = flows, len(self.made) - 1

    def draws(self):
        """List the draws of all rounds."""
        return [made.draws for made in self.made]

    def to_pool(self):
        """Choose the rounds that are among the final draws, by number: all after the first good one but those that failed.

        A round that finds what flows missed has uneven weights: to keep the good ones alone would lose what they found.
        """
        shares = [made.efficiency for made in self.made]
        first = next((i for i, share in enumerate(shares) if share > self.min_efficiency), len(shares))
        return [i for i in range(first + 1, len(shares)) if shares[i] > MIN_RELATIVE_EFFICIENCY * self.min_efficiency]

    def wanted(self, settings: Refine):
        """Return the number of fresh draws that the wanted error asks for, beside those of the rounds to pool."""
        needed = (1 / max(self.made[self.of_best].efficiency, 1e-9) - 1) / settings.error**2
        return min(needed, settings.max_draws) - self.size * len(self.to_pool())

    def stalled(self, n: float):
        """Decide whether kernels and Gaussians alone do not do: no good round yet, and no progress in the last n."""
        return max(made.efficiency for made in self.made) < self.min_efficiency and self._no_progress(n)

    def settled(self, *, early: bool):
        """Decide whether adaptation may end: without progress, or if the last two rounds were good and agree.

        Where chains did not settle `early`, a part of the posterior fills slowly, and good rounds do not show that it is full.
        """
        if len(self.made) < 2:
            return False
        a, b = self.made[-2:]
        good = min(a.efficiency, b.efficiency) > self.min_efficiency and b.estimate.khat < TRUSTED_KHAT
        apart = abs(a.estimate.logZ - b.estimate.logZ)
        if early and good and apart < 3 * np.hypot(a.estimate.logZ_err, b.estimate.logZ_err):
            return True
        return self._no_progress(PATIENCE)

    def _no_progress(self, n):
        """Decide whether the last n rounds were not much better than the best before."""
        shares = [made.efficiency for made in self.made]
        return len(shares) > n and max(shares[-int(n) :]) < PROGRESS * max(shares[: -int(n)])


def adapt(key: Array, known: Known, budget: int, *, early: bool):
    """Do adaptation rounds.

    Parameters
    ----------
    key : random key.
    known : Known
    budget : likelihood calls for the rounds and the final draws.
    early : whether good rounds may end adaptation.

    Returns
    -------
    Rounds
    """
    functions, settings, (k_init, k_loop) = known.functions, known.settings, jax.random.split(key)
    flows = Ensemble.of([functions.init(k) for k in jax.random.split(k_init)], FITS)
    size = UNIT * int(np.clip(max(budget, known.chains.n_calls) * ROUND_SHARE / UNIT, 1, 4))
    rounds = Rounds(size, known.min_efficiency, flows)
    for i in range(settings.max_rounds):
        k_fit, k_draw = jax.random.split(jax.random.fold_in(k_loop, i))
        flows = fitted(k_fit, known, flows, rounds)
        rounds.add(draw(k_draw, functions, flows, size), flows)
        rounds.with_velocity = rounds.with_velocity or rounds.stalled(known.schedule.velocity_after)
        needed = max(min(rounds.wanted(settings), FINAL_SHARE * budget), size)
        if rounds.settled(early=early) or budget - size * (i + 2) < needed or known.budget.expired():
            break
    return rounds


def fitted(key: Array, known: Known, flows: Ensemble, rounds: Rounds):
    """Fit the flows once more, from those before, to all that is known by now.

    Flows with a velocity cost much to fit: of these there is a new one of each fold, beside the one before.

    Parameters
    ----------
    key : random key.
    known : Known; flows : Ensemble; rounds : Rounds.

    Returns
    -------
    Ensemble
    """
    before = flows.fits[:1] if rounds.with_velocity else flows.fits
    new = [train(k, known, pair, rounds.draws(), with_velocity=rounds.with_velocity) for k, pair in _paired(key, before)]
    return Ensemble((*new, *before) if rounds.with_velocity else tuple(new))


def _paired(key, pairs):
    """Pair flows with a key each."""
    return zip(keys_of(key, len(pairs)), pairs, strict=True)


def few_draws_dominate(made: Round, min_efficiency: float):
    """Decide whether a few of the final draws carry their estimate: they show what the flows miss, and should train them once more."""
    return made.efficiency < min_efficiency and made.estimate.khat > FINITE_KHAT
