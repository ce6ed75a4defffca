"""Assemble the Result of a run from what was computed."""

import functools
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

import jax
import numpy as np

from fusions.algorithms.nested.level import Nested
from fusions.algorithms.refine.phase import Refined
from fusions.algorithms.refine.settings import Refine
from fusions.driver.redraw import Source, flow_arrays
from fusions.driver.snapshot import path_of
from fusions.errors import Status
from fusions.evidence.ledger import Ledger, Particles
from fusions.evidence.refinement import ChainsReport, FindReport, Refinement, RoundReport
from fusions.evidence.volumes import families
from fusions.model.likelihood import theta_of
from fusions.model.problem import Problem
from fusions.results.result import Result

PACKAGES = ("fusions", "jax", "flax", "optax", "diffrax", "numpy")
IDLE = 0.5  # skill of a flow below which the summary says so


@functools.cache
def version_of(name: str):
    """Return the version of an installed package."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"


def assemble(problem: Problem, ledger: Ledger, live: Particles, status: Status, **fields):
    """Make the Result of the dead in a ledger and the live Particles.

    Parameters
    ----------
    problem : Problem; ledger : Ledger; live : Particles; status : Status.
    **fields : the other fields of the Result.

    Returns
    -------
    Result
    """
    blobs, slots = ledger.joined(live, "blobs"), ledger.slots(live)
    return Result(
        names=problem.names,
        n_params=len(problem.prior.names),
        labels=dict(problem.labels or {}),
        theta=theta_of(problem, ledger.parts(live, "x"), blobs),
        logL=ledger.joined(live, "logL"),
        logL_birth=ledger.joined(live, "logL_birth"),
        n_live=len(live.logL),
        family=np.where(slots >= 0, families(len(live.logL))[slots], -1),
        status=status,
        insertion_uniforms=np.concatenate([block.uniforms for block in ledger.blocks]),
        level_trace=ledger.trace(),
        seconds=ledger.clocks(),
        constraint_logmass=problem.constraint_logmass,
        **fields,
    )


def facts_of(problem: Problem, key: int, settings: Nested):
    """Return the JSON-able facts that a Result keeps of a run, but warnings.

    Parameters
    ----------
    problem : Problem; key : seed; settings : of the algorithm.
    """
    return {
        "seed": key, "path": path_of(problem), "fingerprint": problem.fingerprint(), "data": problem.data_digest(),
        "settings": repr(settings), "versions": {name: version_of(name) for name in PACKAGES},
    }  # fmt: skip


def idle_notes(trace: dict):
    """Say at how many levels the flow had learned nothing."""
    idle, n_levels = int(np.sum(trace["skill"] < IDLE)), len(trace["skill"])
    text = f"The flow had learned nothing at {idle} of {n_levels} levels; walks were lengthened there and rely on slice moves."
    return [text] if idle else []


def refined_fields(found: Refined, problem: Problem, settings: Refine, leave: Callable, n_calls: int):
    """Turn what the refine phase found into fields of a Result; where a constraint cuts the prior, its norm adds an error.

    Parameters
    ----------
    found : Refined; problem : Problem; settings : Refine.
    leave : coordinates (n, d) of the draws -> internal coordinates.
    n_calls : likelihood calls of the phase.
    """
    norm_err, checks, chains = problem.constraint_logmass[1], found.bridged, found.chains
    logZ_bridge, bridge_err = checks.bridge
    summary = Refinement(
        importance=(found.importance.logZ, float(np.hypot(found.importance.logZ_err, norm_err))),
        bridge=(logZ_bridge, float(np.hypot(bridge_err, norm_err))),
        coverage=checks.coverage,
        missed_mass=checks.missed_mass,
        ess=found.importance.ess,
        khat=found.importance.khat,
        n_draws=len(found.draws.u),
        n_calls=n_calls,
        ode_error=found.ode_error,
        rounds=tuple(RoundReport(*row) for row in found.rounds.tolist()),
        chains=ChainsReport(n_moves=chains.n_moves, n_trajectories=chains.n_trajectories, drift=chains.drift, settled=bool(chains.settled)),
        modes=tuple(found.modes.tolist()) if len(found.modes) > 1 else (),
        finds=tuple(_find_report(find, problem, leave) for find in found.finds),
        settings=repr(settings),
    )
    draws = {
        "draws": theta_of(problem, [leave(found.draws.u)], found.draws.blobs),
        "draws_logL": found.draws.logL,
        "draws_logw": found.draws.logw,
    }
    flows = jax.tree.map(np.asarray, found.flows)
    return {"refined": summary, **draws, "flows": flow_arrays(flows), "source": Source(problem, settings, flows)}


def _find_report(find, problem, leave):
    """Turn a `Find` into its report, its place into the values of the parameters."""
    theta = problem.prior.theta_rows(leave(find.u[None]))[0]
    at = dict(zip(problem.prior.names, theta.tolist(), strict=True))
    logZ, logZ_err, _, khat = find.estimate
    return FindReport(name=find.name, logZ=logZ, logZ_err=logZ_err, khat=khat, logL=find.logL, at=at)
