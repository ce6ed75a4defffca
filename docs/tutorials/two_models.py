# %% [markdown]
# # Two models, one data set
#
# Does the line need a curve? We compare a straight line with a parabola by their evidences, then ask how much of the answer is the
# prior's doing, without running again.

# %%
import jax.numpy as jnp
import numpy as np

import fusions
from fusions import plot
from fusions import priors as pr

SIGMA = 0.2
x = np.linspace(-1, 1, 12)
y = 0.5 + 1.2 * x + 0.6 * x**2 + np.random.default_rng(3).normal(0, SIGMA, len(x))


def loglikelihood(p):
    """Return log L of a polynomial; its coefficients are those that the prior names."""
    model = sum(p[name] * x**power for power, name in enumerate(("a", "b", "c")) if name in p)
    return -0.5 * jnp.sum(((y - model) / SIGMA) ** 2) - len(x) * np.log(SIGMA * np.sqrt(2 * np.pi))


WIDTH = 3.0
coefficients = {name: pr.normal(0, WIDTH) for name in ("a", "b", "c")}
line = fusions.Problem(fusions.Prior(**{name: coefficients[name] for name in ("a", "b")}), loglikelihood)
parabola = fusions.Problem(fusions.Prior(**coefficients), loglikelihood)

# %%
results = {
    name: fusions.run(problem, fusions.nested(n_live=200), key=0, progress=False)
    for name, problem in (("line", line), ("parabola", parabola))
}
for name, result in results.items():
    print(f"{name}: ln Z = {result.logZ:.3f} +- {result.logZ_err:.3f} after {result.n_calls:,} calls")

# %% [markdown]
# The ratio of evidences, with its error. Both models are linear with Gaussian priors, so the exact value is known: with the design matrix
# $X$, $y \sim N(0, \sigma^2 I + w^2 X X^T)$.

# %%
log_bayes, error = results["parabola"].log_bayes_factor(results["line"])


def exact(degree, width):
    """Return ln Z of a polynomial of some degree whose coefficients have a normal prior of some width."""
    design = np.vander(x, degree + 1)
    covariance = SIGMA**2 * np.eye(len(x)) + width**2 * design @ design.T
    return -0.5 * (y @ np.linalg.solve(covariance, y) + np.linalg.slogdet(2 * np.pi * covariance)[1])


print(f"ln B = {log_bayes:.3f} +- {error:.3f}, exact {exact(2, WIDTH) - exact(1, WIDTH):.3f}")

# %% [markdown]
# Each estimate beside the exact value:

# %%
plot.evidence_plot(results["parabola"], {"exact": (exact(2, WIDTH), 0.0)})

# %% [markdown]
# ## Another prior, no new run
#
# `reweight` takes the log of (new prior x likelihood) / (old prior x likelihood). Here the widths go from 3 to 1. Its effective size says
# whether the old points still cover the new posterior.

# %%
new_width = 1.0


def log_ratio(p):
    """Return ln of the new prior over the old one."""
    return sum(-0.5 * p[name] ** 2 * (new_width**-2 - WIDTH**-2) - np.log(new_width / WIDTH) for name in ("a", "b", "c"))


changed = results["parabola"].reweight(log_ratio)
print(f"ln Z = {changed.logZ:.3f} +- {changed.logZ_err:.3f}, exact {exact(2, new_width):.3f}, effective size {changed.ess:,.0f}")

# %% [markdown]
# ## The posterior of the winner

# %%
plot.corner(results["parabola"])
