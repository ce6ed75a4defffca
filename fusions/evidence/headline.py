"""Which estimate of ln Z a run reports, decided by checks."""

from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np

from fusions.evidence.importance import FINITE_KHAT, TRUSTED_KHAT

LEAST_ESS = 200  # of the draws
LEAST_SHARE = 0.1  # effective fraction of draws below which weights with a bad k-hat are not believed
SURE_SHARE = 0.5  # effective fraction of draws below which a warning goes with importance weights that may have no finite variance
SIGMAS = 3
RARE = -np.log(2 * NormalDist().cdf(-SIGMAS))  # ln of an excess that draws of any density have as seldom (Markov's inequality)
LONG_CORRELATION = 0.35  # rank correlation of replacements with their parents above which the volumes carry a warning


class Headline(NamedTuple):
    """The reported estimate.

    Attributes
    ----------
    name : "volumes" or "importance".
    logZ, logZ_err : ln of the evidence and its standard error [nats].
    reason : why this one.
    warnings : tuple of str, each check that failed with advice.
    excess : nats by which another estimate exceeds it beyond chance, a part of the error; 0 if none does.
    """

    name: str
    logZ: float
    logZ_err: float
    reason: str
    warnings: tuple
    excess: float = 0.0


def choose(volumes: tuple[float, float], refined: Any, parent_correlation: float = 0.0):
    """Choose the headline.

    Importance sampling has the smallest error, and is wrong without knowing it where its flows have no mass. Where it disagrees with the
    bridge to posterior points that its flows were not trained on, or with the round before, that difference is a part of its error, and
    so is the part of the posterior that chains see and draws hardly reach. It is reported unless a check fails and the error of the
    volumes is smaller.

    The mean weight of draws of any density is not negative and has the mean Z: it exceeds c Z with a chance of at most 1/c, whatever the
    weights (Markov's inequality). What has found much more than either estimate says is a part of its error.

    Parameters
    ----------
    volumes : (ln Z, error) of nested sampling.
    refined : Refinement, or None.
    parent_correlation : mean correlation of the log L ranks of replacements and of the points they started from.

    Returns
    -------
    Headline
    """
    if refined is None:
        return Headline("volumes", *volumes, "nested-sampling volumes; there was no refine phase", _short_walks(parent_correlation))
    logZ, finds = refined.importance[0], refined.finds
    (excess, faults), (volumes_excess, volumes_faults) = _above(logZ, _error(refined), finds), _above(*volumes, finds)
    err, volumes_err = float(np.hypot(_error(refined), max(excess, abs(_step(refined))))), float(np.hypot(volumes[1], volumes_excess))
    failed = _failed(refined, found_more=excess > 0)
    if (faults or failed) and err >= volumes_err:
        reason = "nested-sampling volumes, because a check of importance sampling failed"
        warnings = (*volumes_faults, *failed, *_short_walks(parent_correlation))
        return Headline("volumes", volumes[0], volumes_err, reason, warnings, volumes_excess)
    faults += failed
    reason = "importance sampling: its weights, rounds and coverage passed their checks"
    if faults:
        reason = "importance sampling: a check failed, but with what it disagrees by its error is smaller than that of the volumes"
    warnings = (*faults, *_doubts((logZ, err), volumes, refined, bool(faults)))
    return Headline("importance", logZ, err, reason, warnings, excess)


def _above(logZ, err, finds):
    """Look for what exceeds an estimate most, beyond chance: returns by how much, 0 if nothing does, and a list of that warning."""
    beyond = [
        find for find in finds if find.logZ - logZ > np.hypot(SIGMAS * err, SIGMAS * find.logZ_err if find.khat < FINITE_KHAT else RARE)
    ]
    if not beyond:
        return 0.0, []
    find = max(beyond, key=lambda find: find.logZ)
    excess, place = float(find.logZ - logZ), ", ".join(f"{name}={value:.10g}" for name, value in find.at.items())
    text = (
        f"{find.name} of the refine phase found ln Z = {find.logZ:.2f} +- {find.logZ_err:.2f}, {excess:.2f} nats more than is "
        "reported and more than chance allows: a part of the posterior is missing in the result. Its heaviest point has log L = "
        f"{find.logL:.6g} at {place}. Look at the likelihood there, and run again with more live points, or with a prior narrowed to "
        "that region to measure it alone."
    )
    return excess, [text]


def _gap(refined):
    """Return by how much importance and bridge sampling differ, 0 if chance allows it."""
    gap, err = refined.coverage
    return gap if abs(gap) > SIGMAS * err else 0.0


def _step(refined):
    """Return by how much the final draws and the last round before differ, 0 if chance allows it."""
    (logZ, err), last = refined.importance, refined.rounds[-1]
    return logZ - last.logZ if abs(logZ - last.logZ) > SIGMAS * np.hypot(err, last.logZ_err) else 0.0


def _few(refined):
    """Decide whether few draws carry the importance estimate."""
    return (refined.khat > TRUSTED_KHAT and refined.ess < LEAST_SHARE * refined.n_draws) or refined.ess < LEAST_ESS


def _error(refined):
    """Return the error of importance sampling, what it differs by from the chains included."""
    return float(np.linalg.norm([refined.importance[1], _gap(refined), refined.missed_mass]))


def _failed(refined, *, found_more):
    """List the checks that importance sampling failed, with advice; of rounds that differ only if no more was found in one of them."""
    (logZ, err), (gap, gap_err), last = refined.importance, refined.coverage, refined.rounds[-1]
    faults = []
    if _few(refined):
        faults.append(
            f"few draws carry the importance estimate (Pareto k-hat {refined.khat:.2f}, ESS {refined.ess:,.0f}): the flows miss a "
            "part of the posterior. Run again with twice the live points, or give the refine phase more rounds."
        )
    if _gap(refined):
        faults.append(
            f"importance and bridge sampling differ by {gap:+.3f} +- {gap_err:.3f} nats: flows and posterior points do not cover the same "
            "region. Run again with twice the live points."
        )
    if _step(refined) and not found_more:
        faults.append(
            f"the last two rounds differ ({last.logZ:.3f} +- {last.logZ_err:.3f}, then {logZ:.3f} +- {err:.3f}): give the refine phase "
            "more rounds."
        )
    return faults


def _doubts(estimate, volumes, refined, failed):
    """List what warns of an importance estimate (ln Z, error) that is reported; shares of draws only if no check has `failed`."""
    (logZ, err), doubts = estimate, []
    if abs(logZ - volumes[0]) > SIGMAS * np.hypot(err, volumes[1]):
        doubts.append(
            f"importance sampling ({logZ:.3f} +- {err:.3f}) and volumes ({volumes[0]:.2f} +- {volumes[1]:.2f}) disagree: one of them lost "
            "or never found a part of the posterior. Run again with another seed and twice the live points."
        )
    if not refined.chains.settled:
        doubts.append(
            f"the MCMC chains at the posterior have not converged after {refined.chains.n_moves:,} moves (drift "
            f"{refined.chains.drift:.1f} standard errors, or each chain has seen only a part): posterior mass that neither chains nor "
            "flows have reached is missing from ln Z. Run again with twice the live points, or with a smaller precision in nested(), so "
            "that the nested run goes on further."
        )
    if refined.missed_mass > SIGMAS * refined.importance[1]:
        doubts.append(
            f"chains hold {refined.missed_mass:.1%} of the posterior where draws hardly come: the flows miss it, and ln Z is low by as "
            "much. Give the refine phase more rounds, fusions.Refine(max_rounds=24), or run again with twice the live points."
        )
    share = refined.ess / refined.n_draws
    if not failed and share < SURE_SHARE and refined.khat > FINITE_KHAT:
        doubts.append(
            f"only {share:.0%} of the draws are effective: the flows fit a part of the posterior badly and may miss another, so the error "
            "of ln Z may be several times larger than claimed. Run again with twice the live points."
        )
    return doubts


def _short_walks(r):
    """Warn if walks were so short that replacements remember where they started: fluctuations of the volumes then add up."""
    if r <= LONG_CORRELATION:
        return ()
    factor = np.sqrt((1 + r) / (1 - r))
    text = (
        f"walks were too short: replacements remember the points they started from (rank correlation {r:.2f}, wanted below "
        f"{LONG_CORRELATION}), and the error of the volumes may be {factor:.1f} times larger than claimed. Give the kernel more moves, or "
        "leave kernel=None."
    )
    return (text,)
