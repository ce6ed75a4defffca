"""Nested slice sampling of blackjax; the package names no sizes, those here follow its documentation."""

SETTINGS = {"default": {"n_live": 1000, "num_delete": 100, "num_inner_steps": None, "stop": -3.0}}


def run(name, seed, n_live, num_delete, num_inner_steps, stop):
    """Run one seed; the sampler evaluates the likelihood inside of its own program and reports how often."""
    import blackjax
    import jax
    import jax.numpy as jnp
    from blackjax.ns.utils import finalise, log_weights
    from targets import Target

    target = Target(name)

    def logprior(u):
        return jnp.where(jnp.all((u > 0) & (u < 1)), 0.0, -jnp.inf)

    def logL(u):
        return jnp.where(jnp.isfinite(logprior(u)), target.traceable(u), -jnp.inf)

    k_points, k_steps, k_volumes = jax.random.split(jax.random.key(seed), 3)
    n_slices = num_inner_steps or max(5, 2 * target.dim)
    algorithm = blackjax.nss(logprior_fn=logprior, loglikelihood_fn=logL, num_delete=num_delete, num_inner_steps=n_slices)
    state, step = jax.jit(algorithm.init)(jax.random.uniform(k_points, (n_live, target.dim))), jax.jit(algorithm.step)
    dead, n_calls = [], n_live
    while state.integrator.logZ_live - state.integrator.logZ >= stop:
        state, info = step(jax.random.fold_in(k_steps, len(dead)), state)
        slices = info.update_info
        n_calls += int(slices.num_expansions.sum() + slices.num_shrink.sum()) + 2 * slices.num_shrink.size  # both ends of each bracket
        dead.append(info._replace(update_info=None))
    logZ = jax.scipy.special.logsumexp(log_weights(k_volumes, finalise(state, dead, update_info=False)), axis=0)
    return {"logZ": float(logZ.mean()), "err": float(logZ.std()), "n_calls": n_calls, "version": blackjax.__version__}
