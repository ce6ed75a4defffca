"""More from a finished run: fresh draws from its flows, and more of them for a smaller error."""

import dataclasses
from typing import Any, NamedTuple

import jax
import numpy as np

from fusions.algorithms.refine import phase as refinement
from fusions.algorithms.refine.phase import Refine
from fusions.driver.compiled import make_tools
from fusions.errors import OptionError
from fusions.evidence.importance import importance
from fusions.flows.defensive import has_velocity
from fusions.model.bounded import with_edges
from fusions.model.likelihood import theta_of, verified
from fusions.model.problem import Problem
from fusions.numerics import precision_of


class Source(NamedTuple):
    """What a result can draw again from: the problem, the settings of its refine phase, its flows."""

    problem: Any
    settings: Any
    flows: Any

    @property
    def precision(self):
        """Precision in which the flows were fitted."""
        return "double" if self.flows[0][0].shares.dtype == np.float64 else "single"

    @property
    def has_velocity(self):
        """Whether the first flow has learned a velocity."""
        return has_velocity(self.flows[0][0])

    def draw(self, n, key):
        """Draw n points: theta (n, m), log importance weights (n,), likelihood calls."""
        calls = []
        with precision_of(self.precision):
            tools, _ = make_tools(self.problem, self.settings)
            draws = refinement.draw(jax.random.key(key), tools, self.flows, refinement.whole_units(n), calls.append)
            pick = np.random.default_rng(key).permutation(len(draws.x))[:n]
            return theta_of(self.problem, [tools.leave(draws.x[pick])], draws.blobs[pick]), draws.logw[pick], sum(calls)

    def paths(self, n, times, key):
        """Follow n draws of the first flow from its base to the posterior: theta (m, n, n_params) at times (m,)."""
        with precision_of(self.precision):
            space, _, leave, *_ = with_edges(self.problem.space(), self.problem.prior.bounded)
            flow = self.settings.flow.build(space)
            y = jax.jit(flow.path, static_argnums=2)(jax.random.key(key), self.flows[0][0], n, np.asarray(times, float))
            theta = self.problem.prior.theta_rows(leave(np.asarray(y).reshape(-1, y.shape[-1])))
            return theta.reshape(len(times), n, -1)

    def extend(self, result, n_eff, key):
        """Return the result with more draws; see `Result.extend`."""
        _refuse_other_data(result, self.problem)
        before = result.refined
        missing = (n_eff - before.ess) / max(before.ess / before.n_draws, 1e-9)
        if missing <= 0:
            return result
        theta, logw, n_calls = self.draw(refinement.whole_units(missing), key)
        draws, logw = np.concatenate([result.draws, theta]), np.concatenate([result.draws_logw, logw])
        now, norm_err = importance(logw), result.constraint_logmass[1]
        err, (_, gap_err) = float(np.hypot(now.logZ_err, norm_err)), before.coverage
        moved = max(before.importance[1] ** 2 - err**2, 0.0)  # the bridge keeps the old draws, which it shared
        refined = dataclasses.replace(
            before,
            importance=(now.logZ, err),
            coverage=(now.logZ - before.bridge[0], float(np.sqrt(gap_err**2 + moved))),
            ess=now.ess,
            khat=now.khat,
            n_draws=len(logw),
            n_calls=before.n_calls + n_calls,
        )
        return dataclasses.replace(result, refined=refined, draws=draws, draws_logw=logw, n_calls=result.n_calls + n_calls)


def _refuse_other_data(result, problem):
    """Raise an error if the data of a problem are not those that a result was made with."""
    if result.info.get("data", digest := problem.data_digest()) != digest:
        raise OptionError("The data of the problem are not those of this result. Give the problem it was made from, its data unchanged.")


def flow_arrays(flows):
    """Flatten the flows of a refine phase into arrays that can be saved."""
    return {str(i): np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(flows))}


def attach(result, problem, refine=None):
    """Give a loaded result its problem back, so that it can draw again.

    Parameters
    ----------
    result : Result with a refine phase.
    problem : the Problem it was made from.
    refine : the settings of its refine phase, if they were not the default.

    Returns
    -------
    Result
    """
    settings = refine or Refine()
    if not isinstance(problem, Problem):
        raise OptionError(f"Expected a fusions.Problem, got {type(problem).__name__}. Type fusions.attach(result, problem).")
    if problem.fingerprint() != result.info.get("fingerprint"):
        raise OptionError("The problem is not the one of this result: names, labels or prior differ. Give the problem it was made from.")
    _refuse_other_data(result, problem)
    with precision_of("double"):
        problem = verified(problem)
        tools, _ = make_tools(problem, settings)
        pair = [tools.init(jax.random.key(0))] * 2
    leaves, tree = jax.tree.flatten([pair] * (len(result.flows) // max(len(jax.tree.leaves(pair)), 1)))
    known = [result.flows[str(i)] for i in range(len(result.flows))]
    if [leaf.shape for leaf in leaves] != [leaf.shape for leaf in known] or not known:
        raise OptionError(
            f"The result has no flows that fit these settings of the refine phase; it was made with "
            f"{result.refined.settings if result.refined else 'refine=False'}. Type fusions.attach(result, problem, fusions.Refine(...))."
        )
    return dataclasses.replace(result, source=Source(problem, settings, jax.tree.unflatten(tree, known)))
