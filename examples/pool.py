"""A slow black box called by four processes: the samples are those of one process, the time is not.

The likelihood is at the top level of this file, so that the workers can import it; what starts the run is under the guard, since they do.

python examples/pool.py [n_live]
"""

import math
import sys
import time

import fusions
from fusions import priors as pr

SIGMA = 0.1
LOG_Z = 2 * math.log(SIGMA * math.sqrt(2 * math.pi) / 2)  # the Gaussian's tails beyond the prior are negligible


def loglikelihood(theta):
    """Return log L of a Gaussian; a simulation would take longer than these 5 ms."""
    time.sleep(0.005)
    return -0.5 * math.hypot(theta["x"], theta["y"]) ** 2 / SIGMA**2


prior = fusions.Prior(x=pr.uniform(-1, 1), y=pr.uniform(-1, 1))
problem = fusions.Problem(prior, loglikelihood)


def main(n_live=200, pool=4):
    """Run with a pool, repair what hangs longer than a minute, and compare with the exact evidence."""
    result = fusions.run(problem, fusions.nested(n_live=n_live), key=0, pool=pool, timeout=60)
    print(result)
    print(f"ln Z = {result.logZ:.3f} +- {result.logZ_err:.3f}, exact {LOG_Z:.3f}")
    return result


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
