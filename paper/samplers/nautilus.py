"""nautilus with its default sizes. It reports no error of ln Z: the inverse root of the effective sample size stands for it."""

SETTINGS = {"default": {"n_live": 2000, "n_eff": 10000, "discard_exploration": False}}


def run(name, seed, n_live, **options):
    """Run one seed."""
    import nautilus
    import numpy as np
    from targets import Target

    target = Target(name)
    sampler = nautilus.Sampler(np.copy, target.rows, target.dim, n_live=n_live, vectorized=True, pass_dict=False, seed=seed)
    sampler.run(verbose=False, **options)
    return {"logZ": sampler.log_z, "err": sampler.n_eff**-0.5, "n_calls": target.n_calls, "version": nautilus.__version__}
