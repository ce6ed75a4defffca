"""jaxns 3 with its defaults: root degree 30 d, 5 d slices, 10 d replacements at once."""

SETTINGS = {"default": {"degree": 30}}


def run(name, seed, degree):
    """Run one seed; the sampler evaluates the likelihood inside of its own program and reports how often."""
    from importlib.metadata import version

    import jax
    import jax.numpy as jnp
    from jaxns.core import NestedSampler
    from jaxns.model import Model
    from jaxns.priors import Prior
    from targets import Target
    from tensorflow_probability.substrates import jax as tfp

    target = Target(name)

    def prior_model():
        uniform = tfp.distributions.Uniform(jnp.zeros(target.dim), jnp.ones(target.dim))
        return target.traceable(Prior(uniform, name="u").realise())

    sampler = NestedSampler(model=Model(prior_model=prior_model), root_allocation_degree=degree * target.dim)
    found = sampler.run(key=jax.random.PRNGKey(seed)).to_result()
    return {
        "logZ": float(found.log_Z_mean), "err": float(found.log_Z_uncert), "n_calls": int(found.total_num_likelihood_evaluations),
        "version": version("jaxns"),
    }  # fmt: skip
