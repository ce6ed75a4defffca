"""A sampler of cobaya: ``sampler: {fusions.adapters.cobaya.Fusions: {n_live: 500}}``.

ln Z is over the whole prior: where the prior or the likelihood is zero ("unphysical" parameters), prior volume counts and evidence does
not. No correction is left to make: the sampler keeps such points of its first draws and lets them die with their volume. Priors in
cobaya's `prior` block multiply the likelihood as they are; ln Z is of normalised priors only if they are.
"""

import contextlib
import multiprocessing
import os
import re
import warnings
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
from cobaya import mpi
from cobaya.collection import SampleCollection
from cobaya.conventions import Extension, derived_par_name_separator
from cobaya.log import LoggedError
from cobaya.sampler import Sampler
from cobaya.yaml import yaml_dump_file

from fusions import __version__
from fusions.adapters.options import algorithm_of
from fusions.driver.run import OPTIONS, run
from fusions.errors import Status
from fusions.model.problem import Problem
from fusions.priors.blocks import Block
from fusions.priors.maps import host_tail, host_turns
from fusions.priors.prior import Prior

RUN = ("refine", "max_calls", "max_time", "progress", "checkpoint_every")
SUFFIX = "fusions"  # of the checkpoint folder and of the dead-birth files
_MODELS: WeakValueDictionary = WeakValueDictionary()  # id: cobaya model, in this process and in its forks


class Fusions(Sampler):
    """Nested sampling with flow-matched replacements, and a refine phase.

    Options are those of `fusions.nested` and `fusions.run`, with their defaults; `seed` is `key` (0 if None); `processes` is the number of
    worker processes that call the likelihood, forks of this one; `kernel` is the name of a kernel.

    Beside cobaya's chain it writes ``PREFIX_fusions_dead-birth.txt``, ``PREFIX_fusions_phys_live-birth.txt`` and
    ``PREFIX_fusions.paramnames``, which ``anesthetic.read_chains("PREFIX_fusions")`` reads as a nested run, the evidence as
    ``PREFIX.logZ``, and its checkpoint and the saved `fusions.Result` in the folder ``PREFIX_fusions``.
    """

    n_live: int = 500
    kernel: str | None = None
    kill: float | None = None
    precision: float | None = None
    cost: str | None = None
    refine: bool = True
    max_calls: float | None = None
    max_time: float | None = None
    progress: bool = True
    checkpoint_every: float = 60.0
    processes: int = 1
    seed: None | int | Sequence[int] = None

    sampler_type = "nested"
    supports_periodic_params = True
    _at_resume_prefer_new = [*Sampler._at_resume_prefer_new, "max_calls", "max_time", "progress", "checkpoint_every", "processes", "refine"]

    def initialize(self):
        """Check the options and describe the model as a `Problem`."""
        if mpi.size() > 1:
            raise LoggedError(self.log, "Expected one MPI process, got %d. Run without MPI and type processes: %d.", *[mpi.size()] * 2)
        if isinstance(self.seed, Sequence):
            raise LoggedError(self.log, "Expected seed to be one integer or null, got %r.", self.seed)
        self.algorithm = algorithm_of({name: getattr(self, name) for name in OPTIONS})
        self.result, self.collection, self.logZ, self.logZstd = None, None, np.nan, np.nan

    def run(self):
        """Run, and write the products; Ctrl-C and SIGTERM save the run and leave."""
        root = self.output.add_suffix(SUFFIX) if self.output else None
        with _workers(self.model, self.processes) as pool:
            self.result = run(
                make_problem(self.model), self.algorithm, key=self.seed or 0, pool=pool, checkpoint=root,
                resume=bool(self.output.is_resuming()),
                **{name: getattr(self, name) for name in RUN},
            )  # fmt: skip
        if self.result.status in (Status.INTERRUPTED, Status.TERMINATED):
            raise KeyboardInterrupt(self.result.status.value)
        if not self.result.status.complete:
            self.log.warning(self.result.status.value)
        self.logZ, self.logZstd = self.result.logZ, self.result.logZ_err
        self.collection = self._collect()
        if root:
            self.result.write_polychord(root)
            evidence = {"logZ": float(self.logZ), "logZstd": float(self.logZstd)}
            yaml_dump_file(
                os.path.join(self.output.folder, self.output.prefix + Extension.evidence),
                evidence,
                comment="log-evidence",
                error_if_exists=False,
            )
        self.log.info("log(Z) = %g +/- %g", self.logZ, self.logZstd)

    def _collect(self):
        """Return the weighted posterior points as cobaya's collection, its file written."""
        model, (theta, logw) = self.model, self.result.posterior
        collection = SampleCollection(model, self.output, name="1", sample_type="nested")
        ends = np.cumsum([len(names) for names in _columns(model)])[:-1]
        weights = np.exp(logw - logw.max())
        for row, weight in zip(theta[weights > 0], weights[weights > 0], strict=True):
            values, derived, logpriors, loglikes = np.split(row, ends)
            collection.add(values, derived=derived, weight=weight, logpriors=logpriors, loglikes=loglikes)
        collection.out_update()
        return collection

    def samples(self, combined=False, skip_samples=0, to_getdist=False):
        """Return the weighted posterior points.

        Parameters
        ----------
        combined : no effect, since there is one process.
        skip_samples : no effect: all points of a nested run have their weight.
        to_getdist : return a `getdist.MCSamples` instead of a `SampleCollection`.
        """
        del combined
        if skip_samples:
            self.log.warning("A nested run has no burn-in; skip_samples is ignored.")
        return self.collection.to_getdist() if to_getdist else self.collection

    def products(self, combined=False, skip_samples=0, to_getdist=False):
        """Return {"sample": as `samples` does, "logZ", "logZstd", "result": the `fusions.Result`}.

        Parameters
        ----------
        combined, skip_samples, to_getdist : as of `samples`.
        """
        sample = self.samples(combined, skip_samples, to_getdist)
        return {"sample": sample, "logZ": self.logZ, "logZstd": self.logZstd, "result": self.result}

    @classmethod
    def output_files_regexps(cls, output, info=None, minimal=False):
        """Tell cobaya which files are ours: the checkpoint alone if `minimal`.

        Parameters
        ----------
        output : cobaya's output; info : not used.
        minimal : whether to name only what must not be there unless a run is resumed.
        """
        folder = output.add_suffix(SUFFIX)
        checkpoint = [(re.compile(r"state-.*\.npz$"), folder)]
        if minimal:
            return checkpoint
        ours = re.compile(re.escape(os.path.basename(folder)) + r"(_dead-birth\.txt|_phys_live-birth\.txt|\.paramnames)$")
        evidence = re.compile(re.escape(output.prefix + Extension.evidence) + "$")
        return [(None, folder), (ours, None), (output.collection_regexp(name=None), None), (evidence, None)]

    @classmethod
    def get_version(cls):
        """Return the version of fusions."""
        return __version__


def make_problem(model):
    """Make a `Problem` of a cobaya model: its one-dimensional priors, and the sum of its log-likelihoods and further log-priors."""
    sampled, *rest = _columns(model)
    infos = model.parameterization.sampled_params_info()
    flags = np.array([bool(infos[name].get("periodic")) for name in sampled])
    words = ", ".join(f"{name}={infos[name]['prior']!r}" for name in sampled)
    theta = partial(_theta, pdfs=list(model.prior.pdf), flags=flags)
    block = Block(tuple(sampled), len(sampled), theta, f"cobaya({words})", tuple(flags.tolist()), traceable=False)
    blobs = [name for names in rest for name in names]
    latex = model.parameterization.labels()
    labels = {name: latex[name] for name in (*sampled, *blobs) if name in latex}
    _MODELS[id(model)] = model
    likelihood = partial(_loglikelihood, key=id(model), sizes=tuple(map(len, rest)))
    return Problem(Prior(block), likelihood, labels=labels, blobs=blobs, array=True, traceable=False)


def _columns(model):
    """Return the names of sampled parameters, derived parameters, log-priors and log-likelihoods."""
    parameters = model.parameterization
    priors = [f"logprior{derived_par_name_separator}{name}" for name in model.prior]
    likes = [f"loglike{derived_par_name_separator}{name}" for name in model.likelihood]
    return list(parameters.sampled_params()), list(parameters.derived_params()), priors, likes


def _theta(x, pdfs, flags):
    """Return the parameters (d,) at internal coordinates x (d,), by the nearer tail of each prior."""
    rows = zip(pdfs, flags, host_turns(x), host_tail(x), x < 0, strict=True)
    theta = np.array([pdf.ppf(u) if flag else pdf.ppf(p) if below else pdf.isf(p) for pdf, flag, u, p, below in rows], float)
    return np.clip(theta, *np.transpose([pdf.support() for pdf in pdfs]))  # an edge may be missed by rounding


def _loglikelihood(theta, key, sizes):
    """Return log L and the blobs of a model at theta (d,): derived parameters, log-priors, log-likelihoods; NaN where it gives none."""
    found = _MODELS[key].logposterior(theta, cached=False)
    parts = zip((found.derived, found.logpriors, found.loglikes), sizes, strict=True)
    blobs = [value for part, size in parts for value in (part if len(part) == size else [np.nan] * size)]
    total = np.sum(found.loglikes) + np.sum(found.logpriors[1:]) if len(found.loglikes) else -np.inf
    return float(total), [float(value) for value in blobs]


@contextlib.contextmanager
def _workers(model, n: int) -> Any:
    """Yield an executor of n forks of this process, which have the model; None for one process."""
    if n == 1:
        yield None
        return
    _MODELS[id(model)] = model
    with warnings.catch_warnings(), ProcessPoolExecutor(n, multiprocessing.get_context("fork")) as pool:
        warnings.filterwarnings("ignore", "os.fork", RuntimeWarning)  # the forks call the model, not JAX
        list(pool.map(abs, range(n)))
        yield pool
