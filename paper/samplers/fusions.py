"""fusions with its refine phase, on the schedule of expensive likelihoods: one rule for all problems; "fast" is for seconds, not calls."""

SETTINGS = {"default": {"n_live": 500, "cost": "expensive"}, "fast": {"n_live": 200, "cost": "cheap", "slices": True, "error": 0.05}}


def run(name, seed, *, slices=False, error=None, **options):
    """Run one seed; with `slices` alone in the nested run, which need no training, and to another `error` than the default."""
    from targets import oracle

    import fusions

    kernel = fusions.kernels.HitAndRun() if slices else None
    result = fusions.run(
        oracle(name).problem,
        fusions.nested(kernel=kernel, **options),
        key=seed,
        refine=fusions.Refine(error=error) if error else True,
        progress=False,
    )
    more = {"headline": result.headline.name, "warnings": len(result.headline.warnings)}
    return {"logZ": result.logZ, "err": result.logZ_err, "n_calls": result.n_calls, "version": fusions.__version__, **more}
