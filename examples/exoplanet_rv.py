"""Is there a planet? Six radial velocities, a circular orbit of many possible periods, the Bayes factor.

The module eprv3.py beside this one has Keplerian orbits and correlated noise.

python examples/exoplanet_rv.py [n_live]
"""

import math
import sys

import jax.numpy as jnp
import numpy as np

import fusions
from fusions import priors as pr

TIME = np.array([0, 7.3, 11.9, 23.4, 31.8, 46.2])  # [days]
VELOCITY = np.array([1.8608, 0.0209, 2.4935, 3.7197, -0.5793, 2.5183])  # [m/s]
SIGMA = 0.5  # [m/s]
LOG_Z = {"no planet": -31.135152621, "one planet": -11.883271403}  # closed form; quadrature


def normal(model):
    """Return log L of a velocity model [m/s]."""
    chi2 = jnp.sum(((VELOCITY - model) / SIGMA) ** 2)
    return -0.5 * chi2 - len(TIME) * math.log(SIGMA * math.sqrt(2 * math.pi))


def circular_orbit(theta):
    """Return log L of an orbit of period P [days], semi-amplitude K [m/s] and phase phi [rad]."""
    phase = 2 * jnp.pi * TIME / theta["P"] + theta["phi"]
    return normal(theta["v0"] + theta["K"] * jnp.cos(phase))


labels = {"P": "P", "K": "K", "phi": r"\phi", "v0": "v_0"}
offset = {"v0": pr.normal(0, 1)}
orbit = {"P": pr.log_uniform(3, 50), "K": pr.normal(3, 1.5), "phi": pr.uniform(0, 2 * math.pi, periodic=True)}
problems = {
    "no planet": fusions.Problem(fusions.Prior(**offset), lambda theta: normal(theta["v0"])),
    "one planet": fusions.Problem(fusions.Prior(**offset, **orbit), circular_orbit, labels=labels),
}


def main(n_live=500):
    """Run both models and compare them."""
    results = {name: fusions.run(p, fusions.nested(n_live=n_live), key=0) for name, p in problems.items()}
    for name, result in results.items():
        print(result)
        print(f"{name}: ln Z = {result.logZ:.3f} +- {result.logZ_err:.3f}, exact {LOG_Z[name]:.3f}")
    log_b, error = results["one planet"].log_bayes_factor(results["no planet"])
    print(f"ln B = {log_b:.2f} +- {error:.2f}, exact {LOG_Z['one planet'] - LOG_Z['no planet']:.2f}")
    return results


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
