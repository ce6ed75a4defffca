"""More from a finished run: fresh draws from its flows, and more of them for a smaller error."""

import dataclasses
from typing import Any, NamedTuple

import jax
import numpy as np

from fusions.algorithms.refine.draws import Ensemble, draw, whole_units
from fusions.algorithms.refine.settings import Refine
from fusions.driver.compiled import charging, make_functions
from fusions.errors import OptionError
from fusions.evidence.importance import importance
from fusions.flows.defensive import has_velocity
from fusions.model.bounded import with_edges
from fusions.model.likelihood import theta_of, verified
from fusions.model.problem import Problem
from fusions.numerics import generator_of, precision_of
from fusions.results.result import Result
from fusions.types import Budget


class Source(NamedTuple):
    """What a result can draw again from: the problem, the settings of its refine phase, its flows."""

    problem: Problem
    settings: Refine
    flows: Ensemble

    @property
    def first(self):
        """State of the first flow."""
        return self.flows.fits[0][0]

    @property
    def precision(self):
        """Precision in which the flows were fitted."""
        return "double" if self.first.shares.dtype == np.float64 else "single"

    @property
    def has_velocity(self):
        """Whether the first flow has learned a velocity."""
        return has_velocity(self.first)

    def draw(self, n: int, key: int):
        """Draw n points: theta (n, m), log L (n,), log importance weights (n,), likelihood calls."""
        budget = Budget()
        with precision_of(self.precision):
            functions = charging(make_functions(self.problem, self.settings)[0], budget)
            k_draw, k_pick = jax.random.split(jax.random.key(key))
            draws = draw(k_draw, functions, self.flows, whole_units(n))
            pick = generator_of(k_pick).permutation(len(draws.u))[:n]
            theta = theta_of(self.problem, [functions.space.leave(draws.u[pick])], draws.blobs[pick])
            return theta, draws.logL[pick], draws.logw[pick], budget.used

    def paths(self, n: int, times: Any, key: int):
        """Follow n draws of the first flow from its base to the posterior: theta (m, n, n_params) at times (m,).

        Parameters
        ----------
        n : number of draws; key : seed.
        times : (m,) between 0, the base, and 1, the posterior.
        """
        with precision_of(self.precision):
            space, _, leave, *_ = with_edges(self.problem.space(), self.problem.prior.bounded)
            flow = self.settings.flow.build(space)
            u = jax.jit(flow.path, static_argnums=2)(jax.random.key(key), self.first, n, np.asarray(times, float))
            theta = self.problem.prior.theta_rows(leave(np.asarray(u).reshape(-1, u.shape[-1])))
            return theta.reshape(len(times), n, -1)

    def extend(self, result: Result, n_eff: float, key: int):
        """Return the result with more draws; see `Result.extend`.

        Parameters
        ----------
        result : Result that the source belongs to.
        n_eff : wanted effective number of draws; key : seed.
        """
        _refuse_other_data(result, self.problem)
        before: Any = result.refined
        missing = (n_eff - before.ess) / max(before.ess / before.n_draws, 1e-9)
        if missing <= 0:
            return result
        *new, n_calls = self.draw(whole_units(missing), key)
        old = (result.draws, result.draws_logL, result.draws_logw)
        draws, logL, logw = (np.concatenate(columns) for columns in zip(old, new, strict=True))
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
        return dataclasses.replace(result, refined=refined, draws=draws, draws_logL=logL, draws_logw=logw, n_calls=result.n_calls + n_calls)


def _refuse_other_data(result, problem):
    """Raise an error if the data of a problem are not those that a result was made with."""
    if result.info.get("data", digest := problem.data_digest()) != digest:
        raise OptionError("The data of the problem are not those of this result. Give the problem it was made from, its data unchanged.")


def flow_arrays(flows: Ensemble):
    """Flatten an Ensemble into named arrays that can be saved: "fit0/fold1/shares"."""
    arrays = {}
    for i, pair in enumerate(flows.fits):
        for fold, state in enumerate(pair):
            for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]:
                arrays["/".join([f"fit{i}", f"fold{fold}", *(str(_name(key)) for key in path)])] = np.asarray(leaf)
    return arrays


def _name(key):
    """Return the name of a field, the key of a dict or the place in a tuple."""
    return getattr(key, "name", getattr(key, "key", getattr(key, "idx", key)))


def _ensemble(state, arrays):
    """Put saved arrays into an Ensemble of states like one; None if they do not fit."""
    n_fits = len(arrays) // (2 * len(jax.tree.leaves(state)))
    like = flow_arrays(Ensemble.of([state, state], n_fits))
    if all(name.isdigit() for name in arrays):  # written before December 2026
        like = {str(i): leaf for i, leaf in enumerate(like.values())}
    if not n_fits or {name: leaf.shape for name, leaf in like.items()} != {name: leaf.shape for name, leaf in arrays.items()}:
        return None
    tree = jax.tree.structure([[state, state]] * n_fits)
    return Ensemble(tuple(tuple(pair) for pair in jax.tree.unflatten(tree, [arrays[name] for name in like])))


def attach(result: Result, problem: Problem, refine: Refine | None = None):
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
        flows = _ensemble(make_functions(problem, settings)[0].init(jax.random.key(0)), result.flows)
    if flows is None:
        raise OptionError(
            f"The result has no flows that fit these settings of the refine phase; it was made with "
            f"{result.refined.settings if result.refined else 'refine=False'}. Type fusions.attach(result, problem, fusions.Refine(...))."
        )
    return dataclasses.replace(result, source=Source(problem, settings, flows))
