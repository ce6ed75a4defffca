"""A sampler plugin of bilby: ``bilby.run_sampler(..., sampler="fusions")``.

Constraint priors: the prior is renormalised on what they allow, as in `PriorDict.ln_prob`, so ln Z is that of the constrained prior. The
logarithm of the allowed fraction stands in the result's meta data; adding it gives the evidence in which violations count as L = 0.
"""

import datetime
import os
import sys
import warnings
from functools import partial

import bilby
import numpy as np
from bilby.core.likelihood import _safe_likelihood_call
from bilby.core.sampler import base_sampler
from bilby.core.sampler.base_sampler import NestedSampler, signal_wrapper
from pandas import DataFrame

from fusions.adapters.options import algorithm_of
from fusions.driver.run import run
from fusions.errors import OptionError
from fusions.model.problem import Problem
from fusions.priors.blocks import Block
from fusions.priors.maps import host_turns, host_unit_interval
from fusions.priors.prior import Prior

LOG_LIKELIHOOD = "log_likelihood"  # bilby's name of the column
KNOWN_MAJOR = 2  # version of bilby whose interface this is
CONSTRAINTS = "The prior is renormalised on the region that Constraint priors allow; ln Z + ln fraction counts violations as L = 0."
RUN = ("refine", "max_calls", "max_time", "callback", "progress", "resume", "checkpoint_every")


class Fusions(NestedSampler):
    """Nested sampling with flow-matched replacements, and a refine phase.

    Options, with defaults: those of `fusions.nested` (`n_live=500`, also written nlive, npoints, ...; `kernel`, `kill`, `precision`,
    `cost`) and of `fusions.run` (`refine=True`, `max_calls`, `max_time`, `callback`, `progress`, `resume`, `checkpoint_every=60`, also
    written check_point_delta_t), `seed=0` and `pool`. Periodic priors are circles; reflective edges are the edges of the prior, nothing is
    reflected there.

    The run is saved in outdir/fusions_label and resumed from there.
    """

    sampler_name = "fusions"
    sampling_seed_key = "seed"
    default_kwargs = {
        "n_live": 500, "kernel": None, "kill": None, "precision": None, "cost": None, "refine": True, "max_calls": None, "max_time": None,
        "callback": None, "progress": True, "resume": True, "checkpoint_every": 60.0, "seed": 0, "pool": None,
    }  # fmt: skip

    def __init__(self, *args, **kwargs):
        """Prepare a run, as bilby does it."""
        if int(bilby.__version__.split(".")[0]) != KNOWN_MAJOR:
            warnings.warn(
                f"bilby {bilby.__version__} is not known to fusions, which was written for version {KNOWN_MAJOR}. Expect errors, or type "
                f'pip install "bilby<{KNOWN_MAJOR + 1}".',
                stacklevel=2,
            )
        self.pool, self.leaving = None, False
        super().__init__(*args, **kwargs)

    @property
    def folder(self):
        """Folder of the checkpoint."""
        return os.path.join(self.outdir, f"{self.sampler_name}_{self.label}")

    def _translate_kwargs(self, kwargs):
        """Give options that bilby's other samplers call differently our names."""
        kwargs = super()._translate_kwargs(kwargs)
        _rename(kwargs, "n_live", self.npoints_equiv_kwargs)
        _rename(kwargs, "checkpoint_every", self.check_point_equiv_kwargs)
        _rename(kwargs, "npool", self.npool_equiv_kwargs)
        self._npool = kwargs.pop("npool", self._npool)
        return kwargs

    @signal_wrapper
    def run_sampler(self):
        """Run and fill bilby's result; a signal saves the run and exits with `exit_code`."""
        options, algorithm = self.kwargs, algorithm_of(self.kwargs)
        self._setup_pool()  # before JAX starts threads, since workers are forks of this process
        try:
            found = run(
                self._problem(), algorithm, key=options["seed"], checkpoint=self.folder, pool=self.pool,
                **{name: options[name] for name in RUN},
            )  # fmt: skip
        except Exception:
            if not self.leaving:
                raise
        finally:
            self._close_pool()
        if self.leaving:  # JAX replaces an exit that a signal raises in a function called by it
            sys.exit(self.exit_code)
        self._fill(found)
        return self.result

    def _run_test(self):
        """Run as far as the first live points, for bilby's test mode."""
        self.kwargs |= {"max_calls": 1, "refine": False, "resume": False}
        return self.run_sampler()

    def write_current_state(self):
        """Leave the saving to the run, which saves itself when it is left."""
        self.leaving = True

    def _problem(self):
        """Return prior and likelihood as a `Problem`."""
        keys = tuple(self.search_parameter_keys)
        if not keys:
            raise OptionError("Expected at least one parameter to sample, got none: all priors are fixed or constraints.")
        flags = tuple(self.priors[key].boundary == "periodic" for key in keys)
        words = ", ".join(f"{key}={self.priors[key]!r}" for key in self.priors)
        block = Block(keys, len(keys), partial(self._theta, flags=np.array(flags)), f"bilby({words})", flags, traceable=False)
        prior = Prior(block, constraint=self._allowed if self.constraint_parameter_keys else None)
        labels = {key: self.priors[key].latex_label for key in keys}
        return Problem(prior, _loglikelihood, labels=labels, blobs=(LOG_LIKELIHOOD,), array=True, traceable=False)

    def _theta(self, x, flags):
        """Return the parameters (d,) at internal coordinates x (d,), normal or angles.

        Quantile functions of bilby are written for multiples of 2^-53, as random numbers are; some compute 2 u - 1, which is -1 below.
        """
        u = np.clip(host_unit_interval(x), np.finfo(float).epsneg, None)
        theta = np.array(self.prior_transform(np.where(flags, host_turns(x), u)), float)
        ends = [(self.priors[key].minimum, self.priors[key].maximum) for key in self.search_parameter_keys]
        return np.clip(theta, *np.transpose(ends))  # an edge may be missed by rounding

    def _allowed(self, values):
        """Return whether the Constraint priors allow the parameters {name: number}."""
        return bool(self.priors.evaluate_constraints({**self.parameters, **values}))

    def _fill(self, found):
        """Enter a `fusions.Result` into bilby's result."""
        keys, result = list(self.search_parameter_keys), self.result
        draws = found.equal_weights(max(int(found.ess), 1), key=self.kwargs["seed"])
        result.samples, result.log_likelihood_evaluations = draws[:, :-1], draws[:, -1]
        points = found.replay
        nested = DataFrame(points.theta[:, :-1], columns=keys)
        result.nested_samples = nested.assign(weights=np.exp(points.evidence.logw), log_likelihood=points.logL)
        result.log_evidence, result.log_evidence_err = found.logZ, found.logZ_err
        result.information_gain, result.num_likelihood_evaluations = found.D_KL, found.n_calls
        result.sampling_time = datetime.timedelta(seconds=found.seconds["total"])
        result.sampler_output = found
        result.sampler_kwargs = {name: _plain(value) for name, value in self.kwargs.items()}
        result.meta_data = {**(result.meta_data or {}), **_facts(found, self.npool)}
        if not found.status.complete:
            bilby.core.utils.logger.warning(found.status.value)


def _rename(kwargs, name, others):
    """Give the first of several names that is used its own one."""
    for other in others:
        if other != name and other in kwargs:
            value = kwargs.pop(other)
            kwargs.setdefault(name, value)


def _plain(value):
    """Return a value that JSON can hold."""
    return value if value is None or isinstance(value, (bool, int, float, str)) else repr(value)


def _facts(found, npool):
    """Return what the meta data say of a run."""
    fraction, error = found.constraint_logmass
    statistics = {
        "nlikelihood": found.n_calls, "neffsamples": found.ess, "sampling_time_s": found.seconds["total"], "ncores": npool or 1,
    }  # fmt: skip
    facts = {
        "status": found.status.value, "reported_by": found.headline.name, "warnings": list(found.info["warnings"]),
        "versions": dict(found.info["versions"]), "constraint_convention": CONSTRAINTS, "ln_constraint_fraction": fraction,
        "ln_constraint_fraction_err": error,
    }  # fmt: skip
    return {"run_statistics": statistics, "fusions": facts}


def _loglikelihood(theta):
    """Return log L and once more log L, as a blob, at theta (d,), by what bilby gave this process."""
    shared = base_sampler._sampling_convenience_dump
    parameters = {**shared.parameters, **dict(zip(shared.search_parameter_keys, theta.tolist(), strict=True))}
    value = float(_safe_likelihood_call(shared.likelihood, parameters, shared.use_ratio))
    value = -np.inf if value <= np.nan_to_num(-np.inf) else value
    return value, (value,)
