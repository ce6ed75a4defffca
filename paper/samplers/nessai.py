"""nessai's standard sampler with its default number of live points."""

SETTINGS = {"default": {"nlive": 2000}}


def run(name, seed, **options):
    """Run one seed; nessai needs a folder for its files."""
    import logging
    import tempfile

    import nessai
    from nessai.flowsampler import FlowSampler
    from targets import Target

    logging.getLogger("nessai").setLevel(logging.ERROR)
    target = Target(name)
    quiet = {"resume": False, "plot": False, "checkpointing": False, "signal_handling": False, "pytorch_threads": 1}
    with tempfile.TemporaryDirectory() as folder:
        sampler = FlowSampler(cube_model(target), output=folder, seed=seed, **quiet, **options)
        sampler.run(plot=False, save=False)
    return {"logZ": sampler.log_evidence, "err": sampler.log_evidence_error, "n_calls": target.n_calls, "version": nessai.__version__}


def cube_model(target):
    """Describe a uniform prior on the unit cube to nessai."""
    import numpy as np
    from nessai.livepoint import live_points_to_array
    from nessai.model import Model

    class Cube(Model):
        names = [f"u{i}" for i in range(target.dim)]
        bounds = dict.fromkeys(names, (0.0, 1.0))
        allow_vectorised = True

        def log_prior(self, x):
            return np.where(self.in_bounds(x), 0.0, -np.inf)

        def log_likelihood(self, x):
            values = target.rows(live_points_to_array(x, self.names))
            return values if np.ndim(x) else values[0]

        def to_unit_hypercube(self, x):
            return x.copy()

        def from_unit_hypercube(self, x):
            return x.copy()

    return Cube()
