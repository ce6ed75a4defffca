"""pocoMC with its default sizes, passed by name so that the rows keep them."""

SETTINGS = {"default": {"n_effective": 512, "n_active": 256, "n_total": 4096, "n_evidence": 4096}}


def run(name, seed, n_total, n_evidence, **options):
    """Run one seed."""
    import numpy as np
    import pocomc
    import scipy.stats
    import torch
    from targets import Target

    target = Target(name)
    np.random.seed(seed)
    torch.manual_seed(seed)
    prior = pocomc.Prior([scipy.stats.uniform(0, 1)] * target.dim)
    sampler = pocomc.Sampler(prior, target.rows, vectorize=True, random_state=seed, pytorch_threads=1, **options)
    sampler.run(n_total=n_total, n_evidence=n_evidence, progress=False)
    logZ, err = sampler.evidence()
    return {"logZ": logZ, "err": err, "n_calls": target.n_calls, "version": pocomc.__version__}
