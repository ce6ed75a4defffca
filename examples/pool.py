"""A slow black box called by four processes: the samples are those of one process, the time is not.

The workers import this file to find the likelihood. So what starts the run is under the guard, and the problem is made in a function: the
workers then need nothing but the likelihood, not even JAX.

python examples/pool.py [n_live]
"""

import math
import sys
import time

import fusions

SIGMA = 0.1
LOG_Z = 2 * math.log(SIGMA * math.sqrt(2 * math.pi) / 2)  # the Gaussian's tails beyond the prior are negligible


def loglikelihood(theta):
    """Return log L of a Gaussian; a simulation would take longer than these 5 ms."""
    time.sleep(0.005)
    return -0.5 * math.hypot(theta["x"], theta["y"]) ** 2 / SIGMA**2


def make_problem():
    """Make a problem whose evidence is known."""
    prior = fusions.Prior(x=fusions.priors.uniform(-1, 1), y=fusions.priors.uniform(-1, 1))
    return fusions.Problem(prior, loglikelihood)


def main(n_live=200, pool=4):
    """Run with a pool, replace a worker that hangs longer than a minute, and compare with the exact evidence."""
    algorithm = fusions.nested(n_live=n_live, kernel=fusions.kernels.HitAndRun())  # slices alone: enough in two dimensions
    result = fusions.run(make_problem(), algorithm, key=0, pool=pool, timeout=60)
    print(result)
    print(f"ln Z = {result.logZ:.3f} +- {result.logZ_err:.3f}, exact {LOG_Z:.3f}")
    return result


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
