"""fusions with its refine phase, on the schedule of expensive likelihoods: one rule for all problems; "plain" and "fast" are for seconds.

"plain" is what `fusions.run(problem)` does.
"""

FAST = {"error": 0.05, "max_rounds": 1}
SETTINGS = {
    "default": {"n_live": 500, "cost": "expensive"},
    "plain": {"n_live": 500},
    "fast": {"n_live": 200, "kill": 0.2, "cost": "cheap", "slices": True, "components": 12, "kernels": 256, "refine": FAST},
}


def run(name, seed, *, slices=False, components=24, kernels=1024, refine=None, **options):
    """Run one seed; with `slices` alone in the nested run, which need no training, and fewer Gaussians and kernels in the phase after."""
    from targets import oracle

    import fusions
    from fusions.flows.mixture import MixtureCNF
    from fusions.kernels import HitAndRun, Jump

    settings = fusions.nested(kernel=HitAndRun() if slices else None, **options)
    flow, chains = MixtureCNF(components=components, kernels=kernels), Jump(components=components, slides=0.6)
    phase = fusions.Refine(flow=flow, kernel=chains, **(refine or {}))
    result = fusions.run(oracle(name).problem, settings, key=seed, refine=phase, progress=False)
    more = {"headline": result.headline.name, "warnings": len(result.headline.warnings)}
    return {"logZ": result.logZ, "err": result.logZ_err, "n_calls": result.n_calls, "version": fusions.__version__, **more}
