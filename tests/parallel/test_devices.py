"""Runs on several devices, in several processes, and in small batches."""

import functools
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fusions
from fusions import priors as pr
from fusions.errors import OptionError
from fusions.flows.cnf import CNF
from fusions.flows.mixture import MixtureCNF
from fusions.model.likelihood import make_evaluator
from fusions.parallel.devices import choose_layout
from fusions.parallel.sharding import ALONE, Layout

FILE = Path(__file__).parents[1] / "device_runs.py"
WIDTH, DIM, N = 17, 6, 50  # of a network, of the space, rows: nothing else has these sizes
TRACED = fusions.Problem(fusions.Prior(x=pr.uniform(0, 1)), lambda p: -p["x"])
BOX = fusions.Problem(fusions.Prior(x=pr.uniform(0, 1)), lambda p: -np.asarray(p["x"]), vectorized=True)


def start(n_devices, *arguments):
    """Start device_runs.py with so many devices."""
    flags = f"--xla_force_host_platform_device_count={n_devices}"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, str(FILE), *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=FILE.parents[1])


def found(process):
    """Wait for what it prints."""
    out, errors = process.communicate(timeout=900)
    assert process.returncode == 0, errors
    return json.loads(out.splitlines()[-1])


def on_two_hosts(folder, *arguments):
    """Run two processes of four devices each."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    processes = [start(4, "host", rank, port, folder, *arguments) for rank in range(2)]
    try:
        return [found(process) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return found(start(8, "alone", tmp_path_factory.mktemp("alone")))


# Devices ----------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_slices_on_eight_devices_equal_those_on_one(alone):
    assert alone["devices"] == 8
    assert alone["slice"] < 1e-6
    assert alone["repeated"]


@pytest.mark.slow
def test_run_in_small_batches_goes_on_with_one_device(alone):
    assert alone["resumed on one device"] < 1e-6


@pytest.mark.slow
def test_each_function_is_compiled_once(alone):
    one, many, flow, flow_on_many = alone["compilations"]
    assert many == one == 3
    assert flow_on_many == flow == 3
    assert alone["recompiled"] == 0


@pytest.mark.slow
def test_rows_of_a_flow_on_eight_devices(alone):
    """Matrix products of fewer rows differ in the last bits, so rows are not bit-equal."""
    assert max(alone["rows"]) < 1e-5


@pytest.mark.slow
def test_trajectories_on_eight_devices(alone):
    assert max(alone["trajectories"]) < 1e-4


@pytest.mark.slow
def test_flow_kernel_on_eight_devices(alone):
    pulls = [(many - one) / np.hypot(one_err, many_err) for one, one_err, many, many_err in alone["flow ln Z"]]
    assert len(pulls) == 5
    assert np.max(np.abs(pulls)) < 3
    assert len({one for one, *_ in alone["flow ln Z"]}) == 5


# Hosts ------------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_processes_equal_one(alone, tmp_path):
    first, second = on_two_hosts(tmp_path)
    for host in (first, second):
        assert host["processes"] == 2
        assert host["stopped"] == "USER_RULE"
        assert host["levels"] == 5
        assert host["ended"] == "CONVERGED"
        assert host["digest"] == alone["digest"]
        assert "devices of all 2 processes, or of this one alone" in host["refused"] or host is second
    assert second["refused"] == ""
    assert (tmp_path / "0" / "result.json").is_file()
    assert not (tmp_path / "1").exists()


@pytest.mark.slow
def test_refine_phase_in_two_processes(tmp_path):
    first, second = on_two_hosts(tmp_path, "refine")
    assert first["digest"] == second["digest"]
    assert first["drawn"] == second["drawn"] != []


# Batches ----------------------------------------------------------------------------------------------------------------


def arrays(jaxpr):
    """Yield the shapes of all intermediate results of a program but reshaped ones, among which are the matrices of a network."""
    for equation in jaxpr.eqns:
        if equation.primitive.name != "reshape":
            yield from (variable.aval.shape for variable in equation.outvars)
        for value in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda v: hasattr(v, "eqns") or hasattr(v, "jaxpr")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from arrays(inner)


def most_rows(function, *args, width=WIDTH):
    """Return the most rows of a given width that a function ever holds."""
    shapes = arrays(jax.make_jaxpr(function)(*args).jaxpr)
    return max(int(np.prod(shape[:-1])) for shape in shapes if shape and shape[-1] == width)


def space(max_batch):
    names = [f"x{i}" for i in range(DIM)]
    prior = fusions.Prior(**{name: pr.normal(0, 1) for name in names})
    return fusions.Problem(prior, lambda p: p["x0"]).space()._replace(layout=Layout(None, max_batch))


@functools.cache
def bent_state():
    state = jax.jit(CNF(width=WIDTH, depth=1, ode_steps=1).build(space(None)).init)(jax.random.key(0))
    return state._replace(ema_params=jax.tree.map(lambda a: a + 0.1, state.ema_params))


def test_no_batch_limit_means_whole_batches():
    flow = CNF(width=WIDTH, depth=1, ode_steps=1).build(space(None))
    assert most_rows(flow.push, bent_state(), jnp.zeros((N, DIM))) == N * DIM


@pytest.mark.parametrize("max_batch", [1, 4, DIM, 40])
def test_max_batch_caps_the_divergence(max_batch):
    flow = CNF(width=WIDTH, depth=1, ode_steps=1).build(space(max_batch))
    z = jnp.zeros((N, DIM))
    assert most_rows(flow.push, bent_state(), z) <= max_batch
    assert most_rows(lambda *args: flow.pull(jax.random.key(0), *args), bent_state(), z) <= max_batch


@pytest.mark.parametrize("max_batch", [4, 40])
def test_max_batch_caps_the_refine_flow(max_batch):
    flow = MixtureCNF(components=2, width=WIDTH, depth=1, ode_steps=1).build(space(max_batch))
    state = jax.eval_shape(flow.init, jax.random.key(0))
    assert most_rows(flow.logq, state, jnp.zeros((N, DIM))) <= max_batch
    for function in (flow.sample, flow.roundtrip):
        assert most_rows(lambda key, state, f=function: f(key, state, N), jax.random.key(0), state) <= max_batch


def test_max_batch_caps_the_likelihood():
    problem = fusions.Problem(TRACED.prior, lambda p: -jnp.sum(p["x"] * jnp.arange(float(WIDTH))))
    assert most_rows(make_evaluator(problem).inside, jnp.zeros((N, 1))) == N
    assert most_rows(make_evaluator(problem, Layout(None, 8)).inside, jnp.zeros((N, 1))) == 8


def test_max_batch_caps_a_vectorized_likelihood():
    sizes = []

    def loglikelihood(p):
        sizes.append(len(p["x"]))
        return -p["x"]

    problem = fusions.Problem(BOX.prior, loglikelihood, vectorized=True)
    x = np.linspace(-1, 1, 23)[:, None]
    whole, parts = make_evaluator(problem).rows(x), make_evaluator(problem, Layout(None, 8)).rows(x)
    assert sizes == [23, 8, 8, 7]
    for a, b in zip(whole, parts, strict=True):
        np.testing.assert_array_equal(a, b)


def test_small_batches_change_no_row():
    x = jax.random.normal(jax.random.key(3), (N, DIM))
    whole, parts = (CNF(width=WIDTH, depth=1, ode_steps=1).build(space(most)) for most in (None, 13))
    for a, b in zip(jax.jit(whole.push)(bent_state(), x), jax.jit(parts.push)(bent_state(), x), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


# Arguments --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"devices": 0}, "devices to be between 1 and 1, the cpu devices that JAX has here, got 0"),
        ({"devices": 8}, r"between 1 and 1.*got 8. Type devices=jax.devices\(\).*xla_force_host_platform_device_count=8 before JAX starts"),
        ({"devices": True}, "a number, a list of JAX devices or None, got True"),
        ({"devices": 1.5}, "a number, a list of JAX devices or None, got 1.5"),
        ({"devices": "cpu"}, "got 'cpu'"),
        ({"devices": []}, r"got \[\]"),
        ({"devices": ["cpu:0"]}, r"got \['cpu:0'\]"),
        ({"devices": jax.devices() * 2}, "different devices of one kind"),
        ({"max_batch": 0}, "max_batch to be a positive number of rows or None, got 0. Type max_batch=1024"),
        ({"max_batch": 2.5}, "got 2.5"),
        ({"max_batch": True}, "got True"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(OptionError, match=message):
        fusions.run(TRACED, progress=False, **options)


def test_devices_can_be_a_mesh_of_the_users():
    mesh = jax.sharding.Mesh(np.array(jax.devices()).reshape(1, 1), ("a", "b"))
    assert choose_layout(TRACED, mesh.devices, None).mesh.devices.tolist() == jax.devices()
    assert choose_layout(TRACED, None, None) == ALONE
