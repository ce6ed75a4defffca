"""Families of live points: an error of the volumes that holds where replacements remember their parents."""

import jax
import numpy as np
from ledgers import gaussian_ball, make_result

from fusions.algorithms.nested.level import choose_parents, half_slots
from fusions.evidence.volumes import FAMILIES, evaluate_ledger, families
from fusions.results.merging import merge


def test_families_are_parts_of_halves():
    for n_live, each in ((500, FAMILIES // 2), (101, 2), (99, 1), (7, 1)):
        family = families(n_live)
        first, second = (family[half_slots(n_live, half)] for half in (0, 1))
        assert set(first) == set(range(each))
        assert set(second) == set(range(each, 2 * each))
        assert np.ptp(np.bincount(first)) <= 1


def test_parents_are_of_the_family():
    rng, family = np.random.default_rng(0), families(200)
    dead = rng.random(200) < 0.3
    for half in (0, 1):
        slots, parents = choose_parents(jax.random.key(1), dead, half)
        np.testing.assert_array_equal(slots, np.flatnonzero(dead)[np.isin(np.flatnonzero(dead), np.arange(200)[half_slots(200, half)])])
        assert not dead[parents].any()
        np.testing.assert_array_equal(family[slots], family[parents])
    dead[family == 0] = True
    slots, parents = choose_parents(jax.random.key(1), dead, 0)
    assert set(family[parents[family[slots] == 0]]) <= set(families(200)[half_slots(200, 0)]) - {0}


def pulls(seeds, copies):
    """Make runs of eight families in which each point has so many copies: claimed errors are too small by their root."""
    problem, found = gaussian_ball(), []
    for seed in range(seeds):
        parts = [make_result(problem, seed=1000 * seed + i, n_live=15, n_kill=1) for i in range(8)]
        logL, births = (np.concatenate([np.tile(getattr(p, name), copies) for p in parts]) for name in ("logL", "logL_birth"))
        family = np.repeat(np.arange(8), [copies * len(p.logL) for p in parts])
        found.append([(e.logZ - problem.logZ) / e.logZ_err for e in (evaluate_ledger(logL, births), evaluate_ledger(logL, births, family))])
    return np.sqrt(np.mean(np.square(found), axis=0))


def test_scatter_of_families_is_an_error_that_holds():
    counted, scattered = pulls(60, copies=4)
    assert counted > 1.6
    assert 0.75 < scattered < 1.3
    counted, scattered = pulls(60, copies=1)
    assert 0.8 < counted < 1.2
    assert 0.65 < scattered < counted


def test_merged_runs_keep_their_families_apart():
    parts = []
    for seed in (1, 2):
        result = make_result(gaussian_ball(), seed=seed, n_live=100, n_kill=5)
        object.__setattr__(result, "family", np.arange(len(result.logL)) % 4.0)
        parts.append(result)
    assert set(merge(parts).family) == set(range(8))
    object.__setattr__(parts[0], "family", np.empty(0))
    assert len(merge(parts).family) == 0
