"""Runs on several devices and processes for test_devices.py, which starts this file with the devices that it needs.

``device_runs.py alone FOLDER`` compares runs on all devices with runs on one; ``device_runs.py host RANK PORT FOLDER`` is one of two
processes, ``... refine`` after it adds a refine phase. Either prints one line of JSON.
"""

import hashlib
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np

import fusions
from fusions import kernels
from fusions import priors as pr
from fusions.driver.compiled import make_functions
from fusions.flows.cnf import CNF
from fusions.flows.mixture import MixtureCNF
from fusions.parallel.sharding import ALONE

SLICE = fusions.nested(n_live=42, kernel=kernels.HitAndRun(), kill=0.5, precision=0.01, cost="cheap")
FLOW = CNF(width=8, depth=1, ode_steps=1)
FLOWING = fusions.nested(n_live=42, kernel=kernels.FlowKernel(n_moves=2, flow=FLOW), kill=0.5, precision=0.01, cost="cheap")
SMALL_REFINE = fusions.Refine(max_rounds=1, flow=MixtureCNF(components=2, width=8, depth=1, ode_steps=1))
SEEDS = 5


def polynomial(p):
    return -30 * (p["x"] ** 2 + p["x"] * p["y"] + p["y"] ** 2) - 10 * p["z"] ** 4


PROBLEM = fusions.Problem(fusions.Prior(x=pr.uniform(-1, 1), y=pr.uniform(-1, 1), z=pr.uniform(-1, 1)), polynomial)


def run(algorithm=SLICE, **options):
    return fusions.run(PROBLEM, algorithm, **{"key": 3, "progress": False, "refine": False, **options})


def difference(a, b):
    """Return the largest difference of two ledgers: absolute of theta, relative of log L; None if their lengths differ."""
    if len(a.logL) != len(b.logL):
        return None
    theta, logL = np.abs(a.theta - b.theta).max(), np.abs((a.logL - b.logL) / np.maximum(np.abs(b.logL), 1)).max()
    return float(max(theta, logL))


def rows(layout):
    """Push 21 points, a number that 8 doesn't divide, and pull them, through a bent flow."""

    def moved(key):
        flow = FLOW.build(PROBLEM.space()._replace(layout=layout))
        state = flow.init(key)
        bent = jax.tree.map(lambda a: a + 0.3 * jnp.cos(jnp.arange(a.size, dtype=a.dtype)).reshape(a.shape), state.ema_params)
        state, z = state._replace(ema_params=bent), jax.random.normal(key, (21, 3))
        return *flow.push(state, z), *flow.pull(key, state, z)

    return np.concatenate([np.ravel(a) for a in layout.compiled(moved)(jax.random.key(1))])


def moved(layout):
    """Move 21 points along trajectories of 20 steps."""
    functions, _ = make_functions(PROBLEM, SMALL_REFINE, layout)
    x = np.random.default_rng(0).uniform(-0.4, 0.4, (21, 3)).astype(np.float32)
    return np.concatenate([np.ravel(a) for a in functions.trajectory(jax.random.key(0), x, np.full(3, 0.1), 0.3, 20)[:3]])


def digest(result):
    return hashlib.sha256(result.theta.tobytes() + result.logL.tobytes() + result.draws_logw.tobytes()).hexdigest()


def alone(folder):
    """Compare all devices with one."""
    from fusions.parallel.devices import choose_layout

    n = jax.device_count()
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, *_, **__: compiled.append(name) if "backend_compile" in name else None
    )
    one, many = run(), run(devices=jax.devices())
    before = len(compiled)
    again = run(devices=n)
    recompiled = len(compiled) - before
    run(devices=n, max_batch=2, max_calls=100, checkpoint=folder)
    flows = [(run(FLOWING, key=key), run(FLOWING, key=key, devices=n)) for key in range(SEEDS)]
    reference = rows(ALONE)
    return {
        "devices": n,
        "slice": difference(many, one),
        "resumed on one device": difference(run(checkpoint=folder), one),
        "repeated": digest(again) == digest(many),
        "recompiled": recompiled,
        "compilations": [one.n_compilations, many.n_compilations, flows[0][0].n_compilations, flows[0][1].n_compilations],
        "rows": [float(np.abs(rows(choose_layout(PROBLEM, n, most)) - reference).max()) for most in (None, 2)],
        "trajectories": [float(np.abs(moved(choose_layout(PROBLEM, n, most)) - moved(ALONE)).max()) for most in (None, 2)],
        "flow": [difference(b, a) for a, b in flows],
        "flow ln Z": [(a.logZ, a.logZ_err, b.logZ, b.logZ_err) for a, b in flows],
        "digest": digest(many),
    }


def host(rank, port, folder, refine=""):
    """Run in one of two processes, stop, and go on from what the first one saved."""
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"localhost:{port}", num_processes=2, process_id=rank)
    try:
        run(devices=jax.local_devices()[:1] if rank else jax.devices()[-1:])
    except fusions.FusionsError as error:
        refused = str(error)
    else:
        refused = ""
    own = f"{folder}/{rank}"  # each has a folder of its own; the first one's counts
    options = {"devices": jax.devices(), "checkpoint": own, "checkpoint_every": 0}
    stopped = run(callback=lambda snapshot: rank == 1 and snapshot.iteration == 5, **options)  # one process alone wants to stop
    ended = run(**options, refine=SMALL_REFINE if refine else False)
    return {
        "processes": jax.process_count(),
        "refused": refused,
        "stopped": stopped.status.name,
        "levels": len(stopped.level_trace["logL"]),
        "ended": ended.status.name,
        "digest": digest(ended),
        "drawn": ended.draw(10)[0].tolist() if refine else [],
    }


if __name__ == "__main__":
    mode, *arguments = sys.argv[1:]
    found = alone(*arguments) if mode == "alone" else host(int(arguments[0]), *arguments[1:])
    sys.stdout.write(json.dumps(found) + "\n")
