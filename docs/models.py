"""Time a comparison of five models: polynomials of degree 1 to 5 (2 to 6 parameters) on one data set. Prints a table.

python docs/models.py        (FUSIONS_CACHE=off, or a folder, chooses what is compiled anew)
"""

import time

import jax.numpy as jnp
import numpy as np

import fusions
from fusions import priors as pr

T = np.linspace(-1, 1, 50)
NOISE = 0.1
Y = 0.5 - T + 0.8 * T**3 + NOISE * np.random.default_rng(0).normal(size=50)


def problem(degree):
    """Make the fit of a polynomial with coefficients c0, c1, ... ~ N(0, 1), and its exact ln Z."""
    powers = np.vander(T, degree + 1, increasing=True)
    prior = fusions.Prior(**{f"c{i}": pr.normal(0, 1) for i in range(degree + 1)})
    norm = len(T) * np.log(NOISE * np.sqrt(2 * np.pi))
    cov = powers @ powers.T + NOISE**2 * np.eye(len(T))
    exact = -0.5 * (Y @ np.linalg.solve(cov, Y) + np.linalg.slogdet(2 * np.pi * cov)[1])
    return fusions.Problem(prior, lambda c: -0.5 * jnp.sum(((Y - powers @ c) / NOISE) ** 2) - norm, array=True), exact


def main():
    """Run the five fits in turn."""
    print("| degree | ln Z | error | claimed | calls | s, processor |\n|--:|--:|--:|--:|--:|--:|")
    for degree in range(1, 6):
        start, (fit, exact) = time.process_time(), problem(degree)
        result = fusions.run(fit, key=degree, progress=False)
        spent = time.process_time() - start
        print(
            f"| {degree} | {result.logZ:.3f} | {result.logZ - exact:+.4f} | {result.logZ_err:.4f} | {result.n_calls:,} | {spent:.1f} |",
            flush=True,
        )
    print(f"\n{time.process_time():.1f} s of the processor in all")


if __name__ == "__main__":
    main()
