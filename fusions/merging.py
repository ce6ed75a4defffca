"""Merge runs of one problem into one result of more live points."""

import numpy as np

from fusions.errors import OptionError, Status
from fusions.result import Result

SEVERITY = (
    Status.CONVERGED,
    Status.PLATEAU,
    Status.USER_RULE,
    Status.MAX_CALLS,
    Status.MAX_TIME,
    Status.INTERRUPTED,
    Status.FAILED,
)


def merge(results):
    """Merge runs of one problem into one result of more live points.

    Parameters
    ----------
    results : Results with the same names, from different seeds.

    Returns
    -------
    Result with the ledgers together (births say which points were alive when), live points, calls, seconds
    and compilations summed, no level trace, the worst status, and the parts' facts in info["parts"].
    """
    results = [results] if isinstance(results, Result) else list(results)
    _check_mergeable(results)
    first = results[0]
    live = [np.arange(len(r.logL)) >= len(r.logL) - r.n_live for r in results]

    def joined(name):
        parts = [getattr(r, name) for r in results]
        return np.concatenate([p[~a] for p, a in zip(parts, live, strict=True)] + [p[a] for p, a in zip(parts, live, strict=True)])

    keys = dict.fromkeys(k for r in results for k in r.seconds)
    notes = dict.fromkeys(w for r in results for w in r.info.get("warnings", ()))
    info = {
        **{k: first.info[k] for k in ("name", "path", "fingerprint") if k in first.info},
        "parts": [{**r.info, "n_live": r.n_live, "status": r.status.name} for r in results],
        "warnings": list(notes),
    }
    return Result(
        first.names,
        first.n_params,
        first.labels,
        joined("theta"),
        joined("logL"),
        joined("logL_birth"),
        n_live=sum(r.n_live for r in results),
        status=max((r.status for r in results), key=SEVERITY.index),
        insertion_uniforms=np.concatenate([r.insertion_uniforms for r in results]),
        n_calls=sum(r.n_calls for r in results),
        seconds={k: sum(r.seconds.get(k, 0.0) for r in results) for k in keys},
        n_compilations=sum(r.n_compilations for r in results),
        constraint_logmass=min((r.constraint_logmass for r in results), key=lambda m: m[1]),
        info=info,
    )


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
        for j in range(i):
            if np.array_equal(results[j].logL, other.logL) and len(np.unique(other.logL)) > 1:
                raise OptionError(f"Results {j} and {i} are the same run twice, which would understate the error. Run with different keys.")
