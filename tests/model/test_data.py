"""`Problem(..., data=)`: the likelihood gets what the user gave, and no run, checkpoint or result is taken for one of other data."""

import dataclasses
import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pool_models
import pytest

import fusions
from fusions import priors as pr
from fusions.errors import CheckpointError, OptionError
from fusions.flows.mixture import MixtureCNF
from fusions.kernels import HitAndRun, Jump
from fusions.model.problem import _frozen
from fusions.numerics import precision_of

SLICES = fusions.nested(n_live=60, kernel=HitAndRun())
BRIEF = fusions.Refine(flow=MixtureCNF(components=2, kernels=16), kernel=Jump(components=2), max_rounds=1, error=0.1)


def plane(half=5.0):
    return fusions.Prior(x=pr.uniform(-half, half), y=pr.uniform(-half, half))


def in_order(p, data):
    """Take the data by the order of their keys."""
    time, flux = data.values()
    return -0.5 * ((p["x"] - time[0]) ** 2 + (p["y"] - flux[0]) ** 2)


def values_of(problem, x=((0.2, -1.0), (3.0, 2.0))):
    """Compute log L at points, as a run does: by the program whose arguments are the data, or by the function itself."""
    x = np.array(x)
    if not problem.traceable:
        return problem.call_rows(x)[0]
    return np.asarray(jax.jit(jax.vmap(problem.form().call_one, in_axes=(0, None)))(x, problem.arrays)[0])


@pytest.mark.parametrize("traceable", [True, False])
def test_dicts_keep_the_order_of_their_keys(traceable):
    one = fusions.Problem(plane(), in_order, data={"time": np.full(2, 3.0), "flux": np.full(2, -2.0)}, traceable=traceable)
    other = fusions.Problem(plane(), in_order, data={"flux": np.full(2, -2.0), "time": np.full(2, 3.0)}, traceable=traceable)
    with precision_of("double"):
        for problem, (a, b) in ((one, (3, -2)), (other, (-2, 3))):
            assert values_of(problem, [(a, b)])[0] == 0.0
    assert one != other
    assert one.form() != other.form()


def test_keys_of_a_dict_may_be_of_any_types():
    problem = fusions.Problem(plane(), lambda p, data: p["x"] * data[1][0] + p["y"] * data["a"], data={1: np.ones(1), "a": 2.0})
    with precision_of("double"):
        np.testing.assert_allclose(values_of(problem), [-1.8, 7.0])


def test_arrays_with_more_than_numbers_are_not_taken_for_their_numbers():
    """The mask of an array tells its data from others."""
    values, early = np.array([-3.0, 3.0]), np.array([True, False])
    masked = [fusions.Problem(plane(), lambda p, d: 0.0, data=np.ma.array(values, mask=mask), traceable=False) for mask in (early, ~early)]
    assert masked[0] != masked[1]
    assert masked[0].form() != masked[1].form()
    spans = fusions.Problem(plane(), lambda p, d: p["x"] * d["t"][0], data={"t": np.ones(1), "span": np.ones(1, "m8[s]")})
    assert len(spans.arrays) == 1


def own_sum(p, data):
    days, parts = data
    return -0.5 * jnp.sum((p["x"] - (days + parts - 2459000)) ** 2) / 0.01


def own_sort(p, data):
    data = data.copy()
    data.sort()
    return -0.5 * (p["x"] - data[0]) ** 2


@pytest.mark.parametrize(
    ("likelihood", "data"),
    [
        (own_sum, (np.array([2459000, 2459001] * 3), np.linspace(0.1, 0.9, 6, dtype=np.float32))),
        (own_sort, np.array([2.0, -1.0, 0.0])),
    ],
)
def test_arrays_of_jax_stand_for_those_of_numpy_only_where_they_give_the_same(likelihood, data):
    """NumPy adds int64 and float32 in double precision and sorts in place; JAX does neither."""
    problem = fusions.Problem(plane(), likelihood, data=data)
    closed = fusions.Problem(plane(), lambda p: likelihood(p, data))
    with precision_of("double"):
        assert _frozen(problem, problem.prior.theta_rows(np.zeros((1, 2)))) == ""
        np.testing.assert_allclose(values_of(problem), values_of(closed), rtol=1e-12)
    assert not problem.arrays


def near(p, data):
    return -0.5 * jnp.sum((data - p["x"]) ** 2) * 1e4 - p["y"] ** 2


def test_checkpoint_of_other_data_is_refused(tmp_path):
    """Even where the likelihood at the first live points hardly tells them apart."""
    data = 1e-4 * np.random.default_rng(0).normal(size=500)
    first = fusions.Problem(plane(), near, data=data)
    fusions.run(first, SLICES, refine=False, progress=False, checkpoint=tmp_path / "run", max_calls=300)
    with pytest.raises(CheckpointError, match="the hash of the data"):
        fusions.run(dataclasses.replace(first, data=data + 1e-6), SLICES, refine=False, progress=False, checkpoint=tmp_path / "run")
    assert fusions.run(first, SLICES, refine=False, progress=False, checkpoint=tmp_path / "run", max_calls=300).n_calls >= 300


def test_results_keep_to_their_data(tmp_path):
    """`attach`, `extend` and `merge` refuse other data, also where the user's array was changed in place."""
    data = np.array([0.5, 1.0])
    problem = fusions.Problem(plane(), lambda p, d: -0.5 * ((p["x"] - d[0]) ** 2 + (p["y"] - d[1]) ** 2), data=data, traceable=False)
    other = dataclasses.replace(problem, data=data + 1)
    result = fusions.run(problem, SLICES, refine=BRIEF, progress=False)
    result.save(tmp_path / "one")
    loaded = fusions.Result.load(tmp_path / "one")
    fusions.attach(loaded, problem, BRIEF).draw(10)
    with pytest.raises(OptionError, match="data of the problem"):
        fusions.attach(loaded, other, BRIEF)
    with pytest.raises(OptionError, match="other data"):
        fusions.merge([result, fusions.run(other, SLICES, key=1, refine=False, progress=False)])
    data += 1
    with pytest.raises(OptionError, match="its data unchanged"):
        result.extend(n_eff=10_000)


def test_arrays_of_jax_reach_workers_in_double_precision():
    with precision_of("double"):
        days = jnp.full(4, 2459000.6)
    problem = fusions.Problem(plane(1.0), pool_models.of_days, data=days, traceable=False)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        result = fusions.run(problem, SLICES, refine=False, progress=False, pool=pool)
    assert np.average(result.theta[:, 0], weights=np.exp(result.evidence.logw)) == pytest.approx(0.1, abs=0.01)
