"""Merge runs of one problem into one result of more live points."""

from typing import Any

import numpy as np

from fusions.errors import OptionError, Status
from fusions.evidence.headline import SIGMAS
from fusions.evidence.importance import importance
from fusions.evidence.refinement import ChainsReport, Refinement, RoundReport
from fusions.report.table import with_error
from fusions.results.result import Result

SEVERITY = (
    Status.CONVERGED,
    Status.PLATEAU,
    Status.USER_RULE,
    Status.CLONES,
    Status.MAX_CALLS,
    Status.MAX_TIME,
    Status.INTERRUPTED,
    Status.TERMINATED,
    Status.FAILED,
)


def merge(results: Any):
    """Merge runs of one problem into one result of more live points.

    Parameters
    ----------
    results : Results with the same names, from different seeds.

    Returns
    -------
    Result with the ledgers together (births say which points were alive when), live points, calls, seconds
    and compilations summed, no level trace, the worst status, and the parts' facts in info["parts"]. If all
    runs report importance sampling, so does this, from all draws together; the flows stay with the parts. A
    warning tells of runs that disagree.
    """
    results = [results] if isinstance(results, Result) else list(results)
    _check_mergeable(results)
    first = results[0]
    live = [np.arange(len(r.logL)) >= len(r.logL) - r.n_live for r in results]

    def joined(parts):
        return np.concatenate([p[~a] for p, a in zip(parts, live, strict=True)] + [p[a] for p, a in zip(parts, live, strict=True)])

    keys = dict.fromkeys(k for r in results for k in r.seconds)
    notes = dict.fromkeys(w for r in results for w in r.info.get("warnings", ()))
    info = {
        **{k: first.info[k] for k in ("name", "path", "fingerprint", "data") if k in first.info},
        "parts": [{**r.info, "n_live": r.n_live, "status": r.status.name} for r in results],
        "warnings": [*notes, *_disagreements(results), *_found_above(results)],
    }
    return Result(
        first.names,
        first.n_params,
        first.labels,
        joined([r.theta for r in results]),
        joined([r.logL for r in results]),
        joined([r.logL_birth for r in results]),
        n_live=sum(r.n_live for r in results),
        family=joined(_families(results)) if all(len(r.family) for r in results) else np.empty(0),
        status=max((r.status for r in results), key=SEVERITY.index),
        insertion_uniforms=np.concatenate([r.insertion_uniforms for r in results]),
        n_calls=sum(r.n_calls for r in results),
        seconds={k: sum(r.seconds.get(k, 0.0) for r in results) for k in keys},
        n_compilations=sum(r.n_compilations for r in results),
        constraint_logmass=min((r.constraint_logmass for r in results), key=lambda m: m[1]),
        info=info,
        **_merged_refinement(results),
    )


def _families(results):
    """Return the families of each result, numbered on from those of the results before."""
    before = np.cumsum([0, *(r.family.max() + 1 for r in results)])
    return [np.where(r.family >= 0, r.family + first, -1) for r, first in zip(results, before, strict=False)]


def _merged_refinement(results):
    """Return the fields of the refine phase, with all draws together; none if one of the parts does not report its own."""
    if any(r.headline.name != "importance" for r in results):
        return {}
    parts = [r.refined for r in results]
    logw, norm_err = np.concatenate([r.draws_logw for r in results]), min(r.constraint_logmass[1] for r in results)
    found = importance(logw)
    bridges, gaps = np.array([p.bridge for p in parts]), np.array([p.coverage for p in parts])
    bridge = float(bridges[:, 0].mean())
    chains = [p.chains for p in parts]
    refined = Refinement(
        importance=(found.logZ, float(np.hypot(found.logZ_err, norm_err))),
        bridge=(bridge, _of_mean(bridges[:, 1])),
        coverage=(found.logZ - bridge, _of_mean(gaps[:, 1])),
        missed_mass=max(p.missed_mass for p in parts),
        ess=found.ess,
        khat=found.khat,
        n_draws=len(logw),
        n_calls=sum(p.n_calls for p in parts),
        ode_error=max(p.ode_error for p in parts),
        rounds=(RoundReport(found.logZ, found.logZ_err, found.ess / len(logw)),),
        chains=ChainsReport(
            n_moves=min(c.n_moves for c in chains),
            n_trajectories=min(c.n_trajectories for c in chains),
            drift=max(c.drift for c in chains),
            settled=all(c.settled for c in chains),
        ),
        modes=max((p.modes for p in parts), key=len),
        finds=tuple(find for p in parts for find in p.finds),
        settings=parts[0].settings,
    )
    draws = {name: np.concatenate([getattr(r, name) for r in results]) for name in ("draws", "draws_logL")}
    return {"refined": refined, **draws, "draws_logw": logw}


def _of_mean(errors):
    """Return the error of the mean of independent values."""
    return float(np.sqrt(np.sum(errors**2)) / len(errors))


def _disagreements(results):
    """Tell of the first pair of runs whose ln Z differ by more than their errors allow."""
    for j, b in enumerate(results):
        for i, a in enumerate(results[:j]):
            if abs(a.logZ - b.logZ) > SIGMAS * np.hypot(a.logZ_err, b.logZ_err):
                return [
                    f"runs {i} and {j} of the merged ones disagree (ln Z {with_error(a.logZ, a.logZ_err)} and "
                    f"{with_error(b.logZ, b.logZ_err)}): one of them lost or never found a part of the posterior. Run both again with "
                    "twice the live points."
                ]
    return []


def _found_above(results):
    """Tell what the refine phases of parts found above their estimates, if these phases are not merged."""
    if all(r.headline.name == "importance" for r in results):
        return []
    return [f"run {i} of the merged ones: {r.headline.warnings[0]}" for i, r in enumerate(results) if r.headline.excess]


def _check_mergeable(results):
    """Refuse what is not several runs of one problem."""
    if not results or not all(isinstance(r, Result) for r in results):
        raise OptionError("Expected a non-empty list of Results. Type fusions.merge([result_a, result_b]).")
    first = results[0]
    for i, other in enumerate(results[1:], 1):
        if (other.names, other.n_params) != (first.names, first.n_params):
            only = [sorted(set(a.names) - set(b.names)) for a, b in ((first, other), (other, first))]
            raise OptionError(
                f"Can't merge runs of different problems: result 0 has {list(first.names)}, result {i} has "
                f"{list(other.names)} (only in 0: {only[0]}, only in {i}: {only[1]}). Merge runs of one "
                "problem."
            )
        if first.info.get("fingerprint") != other.info.get("fingerprint"):
            raise OptionError(f"Can't merge result 0 with result {i}: same names, other prior or labels. Merge runs of one problem.")
        if first.info.get("data", "") != other.info.get("data", ""):
            raise OptionError(f"Can't merge result 0 with result {i}: they were made with other data. Merge runs of one problem.")
        for j in range(i):
            if np.array_equal(results[j].logL, other.logL) and len(np.unique(other.logL)) > 1:
                raise OptionError(f"Results {j} and {i} are the same run twice, which would understate the error. Run with different keys.")
