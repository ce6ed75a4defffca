"""How many coefficients does a trend need? Bayes factors of polynomials, by bilby with fusions as its sampler.

python examples/bilby_model_selection.py [n_live]
"""

import math
import sys
import tempfile

import bilby
import numpy as np

SIGMA = 0.3
X = np.linspace(-1, 1, 21)
Y = 0.5 + 0.8 * X + SIGMA * np.random.default_rng(7).standard_normal(len(X))
WIDTH = 20.0  # of each coefficient's prior, U(-10, 10)


class Polynomial(bilby.Likelihood):
    """Gaussian noise around a polynomial of parameters c0, c1, ..."""

    def log_likelihood(self, parameters):
        """Return ln L at {name: coefficient}."""
        model = sum(value * X ** int(name[1:]) for name, value in parameters.items())
        return -0.5 * float(np.sum(((Y - model) / SIGMA) ** 2)) - len(X) * math.log(SIGMA * math.sqrt(2 * math.pi))


def exact_logZ(n):
    """Compute ln Z with n coefficients: a Gaussian integral, whose tails beyond the prior are negligible."""
    design = X[:, None] ** np.arange(n)
    best, *_ = np.linalg.lstsq(design, Y, rcond=None)
    peak = Polynomial().log_likelihood({f"c{i}": value for i, value in enumerate(best)})
    log_det = np.linalg.slogdet(design.T @ design / SIGMA**2)[1]
    return peak + 0.5 * n * math.log(2 * math.pi) - 0.5 * log_det - n * math.log(WIDTH)


def main(n_live=500, **options):
    """Run one, two and three coefficients and print the table."""
    results = {}
    for n in (1, 2, 3):
        priors = {f"c{i}": bilby.core.prior.Uniform(-WIDTH / 2, WIDTH / 2, f"c{i}") for i in range(n)}
        with tempfile.TemporaryDirectory() as folder:
            results[n] = bilby.run_sampler(
                Polynomial(), priors, sampler="fusions", nlive=n_live, seed=n, outdir=folder, save=False, **options
            )  # fmt: skip
    print(f"{'coefficients':<14}{'ln Z':>18}{'exact':>10}{'ln B against 2':>20}")
    for n, result in results.items():
        factor = result.log_evidence - results[2].log_evidence
        error = math.hypot(result.log_evidence_err, results[2].log_evidence_err) if n != 2 else 0.0
        found = f"{result.log_evidence:.2f} +- {result.log_evidence_err:.2f}"
        print(f"{n:<14}{found:>18}{exact_logZ(n):>10.2f}{f'{factor:.2f} +- {error:.2f}':>20}")
    return results


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
