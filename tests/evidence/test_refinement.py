"""The record of a refine phase, and what of it is saved."""

import json
from dataclasses import replace

import pytest
from ledgers import make_refinement

from fusions.errors import FileError
from fusions.evidence.refinement import VERSION, FindReport, Refinement

FIND = FindReport(name="round 1", logZ=1.0, logZ_err=0.5, khat=float("inf"), logL=14.28, at={"x": 0.37})
FULL = replace(make_refinement(), missed_mass=0.01, modes=(-1.0, -2.0), finds=(FIND,))


def saved(refined, **changes):
    """Write it as JSON and read that."""
    return json.loads(json.dumps(refined.to_json() | changes))


def test_what_is_saved_is_read_again():
    assert Refinement.from_json(saved(FULL)) == FULL
    assert saved(FULL)["version"] == VERSION


def test_what_older_versions_did_not_save_has_its_default():
    old = saved(FULL)
    for name in ("version", "missed_mass", "modes", "finds", "settings"):
        del old[name]
    del old["chains"]["n_trajectories"]
    assert Refinement.from_json(old) == replace(FULL, missed_mass=0.0, modes=(), finds=(), settings="")


def test_what_is_not_used_any_more_is_left_out():
    assert Refinement.from_json(saved(FULL, former=3)) == FULL


def test_newer_versions_are_refused():
    with pytest.raises(FileError, match=rf"saved in version {VERSION + 1} .*reads up to {VERSION}. Install the fusions that wrote it"):
        Refinement.from_json(saved(FULL, version=VERSION + 1))
