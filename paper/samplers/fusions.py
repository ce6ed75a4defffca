"""fusions with its refine phase, on the schedule of expensive likelihoods: one rule for all problems."""

SETTINGS = {"default": {"n_live": 500, "cost": "expensive"}}


def run(name, seed, **options):
    """Run one seed."""
    from targets import oracle

    import fusions

    result = fusions.run(oracle(name).problem, fusions.nested(**options), key=seed, progress=False)
    more = {"headline": result.headline.name, "warnings": len(result.headline.warnings)}
    return {"logZ": result.logZ, "err": result.logZ_err, "n_calls": result.n_calls, "version": fusions.__version__, **more}
