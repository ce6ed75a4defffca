"""fusions with its refine phase, on the schedule of expensive likelihoods: one rule for all problems; "fast" is for seconds, not calls."""

FAST = {"error": 0.05, "max_rounds": 1}
SETTINGS = {
    "default": {"n_live": 500, "cost": "expensive"},
    "fast": {"n_live": 200, "cost": "cheap", "slices": True, "flow": {"components": 12, "kernels": 256}, "refine": FAST},
}


def run(name, seed, *, slices=False, flow=None, refine=None, **options):
    """Run one seed; with `slices` alone in the nested run, which need no training, other settings of the flows and of the phase."""
    from targets import oracle

    import fusions
    from fusions.flows.mixture import MixtureCNF

    settings = fusions.nested(kernel=fusions.kernels.HitAndRun() if slices else None, **options)
    phase = fusions.Refine(flow=MixtureCNF(**(flow or {})), **(refine or {}))
    result = fusions.run(oracle(name).problem, settings, key=seed, refine=phase, progress=False)
    more = {"headline": result.headline.name, "warnings": len(result.headline.warnings)}
    return {"logZ": result.logZ, "err": result.logZ_err, "n_calls": result.n_calls, "version": fusions.__version__, **more}
