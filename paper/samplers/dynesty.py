"""dynesty, static sampler with its own choice of proposals and bounds; dlogz None is the package's stopping rule."""

SETTINGS = {
    "default": {"nlive": 1000, "bound": "multi", "sample": "auto", "dlogz": None},
    "tight": {"nlive": 1000, "bound": "multi", "sample": "auto", "dlogz": 0.01},
}


def run(name, seed, dlogz, **options):
    """Run one seed."""
    import dynesty
    import numpy as np
    from targets import Target

    target = Target(name)
    sampler = dynesty.NestedSampler(target.row, np.copy, target.dim, rstate=np.random.default_rng(seed), **options)
    sampler.run_nested(dlogz=dlogz, print_progress=False)
    found = sampler.results
    return {"logZ": found.logz[-1], "err": found.logzerr[-1], "n_calls": target.n_calls, "version": dynesty.__version__}
