"""Schedules of a run: what a cheap and an expensive likelihood ask for."""

import dataclasses
import time
from typing import Any

import jax
import numpy as np

from fusions.algorithms.nested import level as nested
from fusions.algorithms.nested.level import Nested
from fusions.model.problem import Problem
from fusions.types import Array, Schedule

# Share of the live points replaced per level. A level multiplies the volume by 1 - f and adds f / (1 - f) / n_live to its variance, so the
# error of ln Z grows as sqrt(f / (1 - f) / -ln(1 - f)), by 1.03, 1.10 and 1.20 for 0.1, 0.3 and 0.5, and trainings fall as 1 / -ln(1 - f).
CHEAP = Schedule(
    "cheap", kill=0.3, precision=1e-2, max_walk_scale=10.0, max_nominal_scale=10.0, untrained_walk_factor=4.0, efficiency=0.3,
    chain_budgets=5.0, early_chain_budgets=np.inf, velocity_after=np.inf,
)  # fmt: skip
EXPENSIVE = Schedule(
    "expensive", kill=0.1, precision=1e-1, max_walk_scale=2.0, max_nominal_scale=1.0, untrained_walk_factor=0.0, efficiency=0.5,
    chain_budgets=2.0, early_chain_budgets=1.0, velocity_after=3,
)  # fmt: skip
SCHEDULES = {schedule.cost: schedule for schedule in (CHEAP, EXPENSIVE)}
CALLS_PER_TRAINING = 500  # likelihood calls that the cheap schedule spends more than the expensive one, per training
POINTS_PER_DIM = 50  # effective posterior points per dimension that a refine phase starts from


def schedule_for(algorithm: Nested, problem: Problem, refine: Any):
    """Choose the schedule: it follows the path of the likelihood alone, so that equal seeds give equal runs.

    Parameters
    ----------
    algorithm : Nested; problem : Problem.
    refine : settings of the refine phase, or False.

    Returns
    -------
    Schedule
    """
    chosen = SCHEDULES.get(algorithm.cost or "") or (CHEAP if problem.traceable else EXPENSIVE)
    early = refine and chosen is EXPENSIVE and algorithm.precision is None
    return dataclasses.replace(
        chosen,
        kill=algorithm.kill or chosen.kill,
        precision=algorithm.precision or chosen.precision,
        enough=POINTS_PER_DIM * problem.prior.dim if early else np.inf,
    )


def timed_cost(key: Array, engine: Any, state: nested.NestedState, rate: float):
    """Time one training and compare it with the likelihood calls that the cheap schedule spends more per training.

    Parameters
    ----------
    key : random key; engine : Engine; state : NestedState.
    rate : time of a likelihood call [s].

    Returns
    -------
    "cheap" or "expensive", a sentence for the summary.
    """
    population = nested.population(state.live.x, np.ones(len(state.live.x), bool), state.pool, np.inf, 1)
    for _ in range(2):
        start = time.perf_counter()
        jax.block_until_ready(engine.tune(key, population, state.params[0], state.info[0]))
        training = time.perf_counter() - start
    calls = CALLS_PER_TRAINING * rate
    cost = "cheap" if calls < training else "expensive"
    return cost, f'cost="auto" chose "{cost}": {CALLS_PER_TRAINING} likelihood calls take {calls:.2g} s, a training {training:.2g} s.'
