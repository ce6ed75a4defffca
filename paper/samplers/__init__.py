"""One adapter per sampler.

Each has `SETTINGS`, a table of its options by name, and `run(name, seed, **options)`, which returns a dict with "logZ", "err", "n_calls"
and "version". Packages are imported inside of `run`, so that a missing one is missed by its own adapter alone.
"""
