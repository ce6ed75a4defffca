"""Schedules of a run: what a cheap and an expensive likelihood ask for."""

import dataclasses
import time

import jax
import numpy as np

from fusions.algorithms.nested import level as nested

COSTS = {"cheap": 1e-2, "expensive": 1e-1}  # schedules and their precision
# Share of the live points replaced per level. A level multiplies the volume by 1 - f and adds f / (1 - f) / n_live to its variance, so the
# error of ln Z grows as sqrt(f / (1 - f) / -ln(1 - f)), by 1.03, 1.10 and 1.20 for 0.1, 0.3 and 0.5, and trainings fall as 1 / -ln(1 - f).
KILL = {"cheap": 0.3, "expensive": 0.1}
CALLS_PER_TRAINING = 500  # likelihood calls that the cheap schedule spends more than the expensive one, per training
POINTS_PER_DIM = 50  # effective posterior points per dimension that a refine phase starts from


def settled(algorithm, problem, refine):
    """Fill in what depends on the problem: the schedule follows the path alone, so that equal seeds give equal runs.

    Returns
    -------
    algorithm, effective posterior points at which the nested run may stop: the refine phase does the rest if calls are expensive.
    """
    cost = algorithm.cost if algorithm.cost in COSTS else "cheap" if problem.traceable else "expensive"
    early = refine and cost == "expensive" and algorithm.precision is None
    enough = POINTS_PER_DIM * problem.prior.dim if early else np.inf
    filled = {"cost": cost, "kill": algorithm.kill or KILL[cost], "precision": algorithm.precision or COSTS[cost]}
    return dataclasses.replace(algorithm, **filled), enough


def timed_cost(key, engine, state, rate):
    """Time one training and compare it with the likelihood calls that the cheap schedule spends more per training.

    Returns
    -------
    "cheap" or "expensive", a sentence for the summary.
    """
    population = nested.population(state.x, np.ones(len(state.x), bool), state.pool_x, state.pool_logL, np.inf, 1)
    for _ in range(2):
        start = time.perf_counter()
        jax.block_until_ready(engine.tune(key, population, state.params[0], state.info[0]))
        training = time.perf_counter() - start
    calls = CALLS_PER_TRAINING * rate
    cost = "cheap" if calls < training else "expensive"
    return cost, f'cost="auto" chose "{cost}": {CALLS_PER_TRAINING} likelihood calls take {calls:.2g} s, a training {training:.2g} s.'
