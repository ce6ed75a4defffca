"""A correlated Gaussian likelihood in a wide box: the smallest complete run.

python examples/gaussian.py [n_live]
"""

import math
import sys

import jax.numpy as jnp

import fusions
from fusions import priors as pr

NAMES = ("a", "b", "c")
RHO = 0.9
LOG_Z = -len(NAMES) * math.log(20)  # the likelihood is normalised and lies well inside the prior


def loglikelihood(theta):
    """Return the log density of unit variances with all correlations RHO."""
    x = jnp.stack([theta[name] for name in NAMES])
    along, across = 1 + (len(x) - 1) * RHO, 1 - RHO  # eigenvalues of the covariance
    mean = jnp.mean(x)
    chi2 = len(x) * mean**2 / along + jnp.sum((x - mean) ** 2) / across
    log_det = math.log(along) + (len(x) - 1) * math.log(across)
    return -0.5 * (chi2 + log_det + len(x) * math.log(2 * math.pi))


def main(n_live=500):
    """Run and compare with the exact evidence."""
    prior = fusions.Prior(**{name: pr.uniform(-10, 10) for name in NAMES})
    result = fusions.run(fusions.Problem(prior, loglikelihood), fusions.nested(n_live=n_live), key=0)
    print(result)
    print(f"ln Z = {result.logZ:.3f} +- {result.logZ_err:.3f}, exact {LOG_Z:.3f}")
    return result


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
