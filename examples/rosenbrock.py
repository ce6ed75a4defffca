"""The Rosenbrock valley in two dimensions: a thin curved posterior, and what to do with it afterwards.

python examples/rosenbrock.py [n_live]
"""

import sys

import fusions
from fusions import priors as pr

LOG_Z = -5.804132364  # by quadrature


def loglikelihood(theta):
    """Return minus the Rosenbrock function."""
    return -(100 * (theta["y"] - theta["x"] ** 2) ** 2 + (1 - theta["x"]) ** 2)


problem = fusions.Problem(fusions.Prior(x=pr.uniform(-5, 5), y=pr.uniform(-5, 5)), loglikelihood)


def main(n_live=500):
    """Run, compare with the exact evidence and use the posterior."""
    result = fusions.run(problem, fusions.nested(n_live=n_live), key=0)
    print(result)
    print(f"ln Z = {result.logZ:.3f} +- {result.logZ_err:.3f}, exact {LOG_Z:.3f}")
    samples = result.samples()  # anesthetic.NestedSamples: weights, plots, statistics
    print(f"x = {samples.x.mean():.2f}, P(x < 0) = {(samples.x < 0).mean():.3f}, exact 0.082")
    draws = result.equal_weights(1000)  # posterior draws without weights
    print(f"{len(draws)} posterior draws of {result.names}, the first {draws[0]}")
    return result


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
