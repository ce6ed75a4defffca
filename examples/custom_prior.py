"""Two priors that are not independent one-dimensional densities: a dependent one and a density with draws.

python examples/custom_prior.py [n_live]
"""

import math
import sys

import jax
import jax.numpy as jnp

import fusions
from fusions import priors as pr

DATA, SIGMA = 2.0, 0.5


def log_normal(x, mean, variance):
    """Evaluate log N(x; mean, variance)."""
    return -0.5 * ((x - mean) ** 2 / variance + jnp.log(2 * jnp.pi * variance))


# 1. A member of a group, x ~ N(mu, 1) with mu ~ N(0, 1): the transform turns mu and a latent z into x.
group = fusions.Prior(mu=pr.normal(0, 1), z=pr.normal(0, 1), transform=lambda p: {**p, "x": p["mu"] + p["z"]})
dependent = fusions.Problem(group, lambda theta: log_normal(DATA, theta["x"], SIGMA**2))
dependent_logZ = float(log_normal(DATA, 0.0, 1 + 1 + SIGMA**2))

# 2. Any density that can be drawn and evaluated, e.g. a trained flow; here two round Gaussians in the plane.
CENTRES, WIDTH = jnp.array([[-2.0, 0.0], [2.0, 1.0]]), 0.7


def sample(key, n):
    """Draw (n, 2) points."""
    pick, noise = jax.random.split(key)
    return CENTRES[jax.random.randint(pick, (n,), 0, 2)] + WIDTH * jax.random.normal(noise, (n, 2))


def log_prob(x):
    """Evaluate the log density of a point (2,)."""
    return jax.nn.logsumexp(log_normal(x, CENTRES, WIDTH**2).sum(axis=1)) - math.log(2)


two_clouds = fusions.Prior(pr.joint(("x", "y"), sample, log_prob))
joint = fusions.Problem(two_clouds, lambda theta: log_normal(DATA, theta["x"], SIGMA**2))
joint_logZ = float(jnp.log(jnp.mean(jnp.exp(log_normal(DATA, CENTRES[:, 0], WIDTH**2 + SIGMA**2)))))


def main(n_live=500):
    """Run both and compare with the exact evidences."""
    results = [fusions.run(problem, fusions.nested(n_live=n_live), key=0) for problem in (dependent, joint)]
    for result, exact in zip(results, (dependent_logZ, joint_logZ), strict=True):
        print(result)
        print(f"ln Z = {result.logZ:.3f} +- {result.logZ_err:.3f}, exact {exact:.3f}")
    return results


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
