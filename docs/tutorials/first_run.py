# %% [markdown]
# # A first run
#
# A straight line through ten points: the likelihood, the prior, the evidence, and what to look at before believing it.

# %%
import numpy as np

import fusions
from fusions import priors as pr

x = np.linspace(0, 1, 10)
y = 1.5 * x + 0.3 + np.random.default_rng(1).normal(0, 0.2, len(x))


def loglikelihood(p):
    """Return log L of a line with Gaussian scatter s, and the line's value at x = 2."""
    import jax.numpy as jnp

    residual = (y - p["slope"] * x - p["offset"]) / p["s"]
    logL = -0.5 * jnp.sum(residual**2) - len(x) * jnp.log(p["s"] * jnp.sqrt(2 * jnp.pi))
    return logL, {"at2": 2 * p["slope"] + p["offset"]}


prior = fusions.Prior(slope=pr.normal(0, 3), offset=pr.normal(0, 3), s=pr.log_uniform(0.01, 1))
problem = fusions.Problem(prior, loglikelihood, blobs=("at2",), labels={"s": r"\sigma", "at2": "y(2)"})

# %% [markdown]
# `p` is a dict of scalars. What the likelihood returns beside log L is a derived parameter, a *blob*: here a prediction.
# A progress bar shows ln Z so far and the share of it that the live points could still add; we leave it out here.

# %%
result = fusions.run(problem, fusions.nested(n_live=200), key=0, progress=False)
result

# %% [markdown]
# A result shows itself as a table. `print(result)` is the long form, which unfolds above. `result.plot()` draws the page to look at first:
# do the estimates of ln Z agree, does the posterior mass (blue) end well before the run does, are the insertion ranks flat?

# %%
result.plot()

# %% [markdown]
# ## The posterior
#
# Equally weighted draws are a plain array; `samples()` gives the nested samples of anesthetic.

# %%
draws = result.equal_weights(1000)
at2 = draws[:, result.names.index("at2")]
print(f"y(2) = {at2.mean():.2f} +- {at2.std():.2f}")
samples = result.samples()
print(f"anesthetic finds ln Z = {samples.logZ():.2f} from the volumes alone")

# %% [markdown]
# ## More figures
#
# Three estimates of ln Z come from the same run. Where does the error come from, and where did the time go?

# %%
from fusions import plot

plot.evidence_plot(result)

# %%
plot.budget_plot(result)

# %% [markdown]
# ## Keep it
#
# `result.save("runs/line")` keeps everything, `Result.load` reads it; `result.export("csv", "line")` and the other formats
# are for other tools.

# %%
import tempfile

with tempfile.TemporaryDirectory() as folder:
    print([path.name for path in result.export("polychord", f"{folder}/line")])
