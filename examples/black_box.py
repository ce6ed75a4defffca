"""A likelihood in plain numpy and scipy that JAX cannot see through, with a derived parameter.

Nothing has to be declared: `fusions` finds out that it can't trace the function and calls it point by point.

python examples/black_box.py [n_live]
"""

import math
import sys

import numpy as np
from scipy import stats

import fusions
from fusions import priors as pr

TIME = np.linspace(0, 1, 12)
SIGMA = 0.3
DATA = 1.5 * TIME + 0.8 + np.random.default_rng(0).normal(0, SIGMA, len(TIME))


def loglikelihood(theta):
    """Return log L of a straight line and, as a blob, its value in the middle of the data."""
    model = theta["slope"] * TIME + theta["offset"]
    logL = stats.norm.logpdf(DATA, model, SIGMA).sum()
    return float(logL), {"middle": 0.5 * theta["slope"] + theta["offset"]}


def exact_logZ():
    """Integrate the Gaussian in slope and offset over the plane; the prior's density is 1 / 20^2."""
    design = np.column_stack([TIME, np.ones_like(TIME)])
    best = np.linalg.lstsq(design, DATA, rcond=None)[0]
    peak = stats.norm.logpdf(DATA, design @ best, SIGMA).sum()
    log_det = np.linalg.slogdet(design.T @ design / SIGMA**2)[1]
    return peak + math.log(2 * math.pi) - 0.5 * log_det - 2 * math.log(20)


prior = fusions.Prior(slope=pr.uniform(-10, 10), offset=pr.uniform(-10, 10))
problem = fusions.Problem(prior, loglikelihood, blobs=("middle",))


def main(n_live=300):
    """Run and compare with the exact evidence."""
    result = fusions.run(problem, fusions.nested(n_live=n_live), key=0)
    print(result)
    print(f"ln Z = {result.logZ:.3f} +- {result.logZ_err:.3f}, exact {exact_logZ():.3f}")
    return result


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
