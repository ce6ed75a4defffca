"""UltraNest's reactive sampler: rejection from regions, or its slice step sampler with two steps per dimension."""

SETTINGS = {
    "region": {"min_num_live_points": 400, "steps_per_dim": 0},
    "slice": {"min_num_live_points": 400, "steps_per_dim": 2},
}


def run(name, seed, steps_per_dim, **options):
    """Run one seed; UltraNest draws from numpy's global generator."""
    import numpy as np
    import ultranest
    from targets import Target
    from ultranest import stepsampler

    target = Target(name)
    np.random.seed(seed)
    sampler = ultranest.ReactiveNestedSampler([f"u{i}" for i in range(target.dim)], target.rows, np.copy, vectorized=True)
    if steps_per_dim:
        direction = stepsampler.generate_mixture_random_direction
        sampler.stepsampler = stepsampler.SliceSampler(nsteps=steps_per_dim * target.dim, generate_direction=direction)
    found = sampler.run(show_status=False, viz_callback=None, **options)
    return {"logZ": found["logz"], "err": found["logzerr"], "n_calls": target.n_calls, "version": ultranest.__version__}
