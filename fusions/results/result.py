"""The result of a run: a ledger of points with everything that can be read off it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np

from fusions.errors import OptionError, Status
from fusions.evidence.headline import choose
from fusions.evidence.importance import Information, information
from fusions.evidence.refinement import Refinement
from fusions.evidence.volumes import uniformity_pvalue
from fusions.numerics import effective_sample_size, logsumexp, normalised, systematic_resample
from fusions.report import exports, notebook
from fusions.report.table import render, with_error
from fusions.results import files
from fusions.results.nested_points import ledger_of, replayed, to_anesthetic
from fusions.results.posterior import expectation, moments, quantiles
from fusions.results.reweighting import log_bayes_factor, reweighted


@dataclass(frozen=True, eq=False, repr=False)
class Result:
    """Dead and live points of a nested sampling run, with the run's cost and checks.

    Attributes
    ----------
    names : (m,) names of the columns: parameters, then derived parameters.
    n_params : how many of the columns are parameters.
    labels : {name: LaTeX}; may lack names.
    theta : (N, m) points.
    logL, logL_birth : (N,) log-likelihood and contour at birth, NaN for a draw from the whole prior and
        -inf for a replacement of a zero-likelihood point [nats]. The last `n_live` points are the final
        live points.
    n_live : number of live points.
    family : (N,) family of live points among which a point had its parent, -1 for none; empty if unknown.
    status : why the run stopped.
    insertion_uniforms : (r,) insertion ranks as values in [0, 1), uniform under correct sampling.
    level_trace : {key: (levels,)} history, for example "logL", "logX", "n_calls", "acceptance", "loss".
    n_calls : likelihood evaluations, failed ones included.
    seconds : {"compile", "likelihood", "training", "ode", "refine", "rest", "total": s}.
    n_compilations : number of compilations of the loop.
    refined : `fusions.evidence.refinement.Refinement`, what the refine phase found, or None.
    draws : (n, m) points drawn from the final flows, in the columns of `theta`.
    draws_logL, draws_logw : (n,) their log L and log importance weights.
    constraint_logmass : ln of the prior fraction that a constraint allows, and its error.
    flows : {str: array} parameters of the flows that the draws are from.
    source : what `draw` and `extend` need beside them; None for a loaded result, see `fusions.attach`.
    info : JSON-able facts: "name", "seed", "path" ("traced" or "hosted"), "fingerprint", "data" (a hash), "warnings" (list
        of str), ...
    """

    names: tuple
    n_params: int
    labels: dict
    theta: np.ndarray
    logL: np.ndarray
    logL_birth: np.ndarray
    n_live: int
    status: Status
    family: np.ndarray = field(default_factory=lambda: np.empty(0))
    insertion_uniforms: np.ndarray = field(default_factory=lambda: np.empty(0))
    level_trace: dict = field(default_factory=dict)
    n_calls: int = 0
    seconds: dict = field(default_factory=dict)
    n_compilations: int = 0
    constraint_logmass: tuple = (0.0, 0.0)
    refined: Refinement | None = None
    draws: np.ndarray = field(default_factory=lambda: np.empty((0, 0)))
    draws_logL: np.ndarray = field(default_factory=lambda: np.empty(0))
    draws_logw: np.ndarray = field(default_factory=lambda: np.empty(0))
    flows: dict = field(default_factory=dict)
    source: Any = None
    info: dict = field(default_factory=dict)

    def __post_init__(self):
        """Bring arrays to float64 and check their shapes."""
        for name in files.ARRAYS:
            object.__setattr__(self, name, np.asarray(getattr(self, name), np.float64))
        object.__setattr__(self, "names", tuple(self.names))
        object.__setattr__(self, "constraint_logmass", tuple(float(v) for v in self.constraint_logmass))
        object.__setattr__(self, "level_trace", {k: np.asarray(v) for k, v in self.level_trace.items()})
        n = len(self.logL)
        if self.theta.shape != (n, len(self.names)) or self.logL_birth.shape != (n,):
            raise OptionError(
                f"Expected theta ({n}, {len(self.names)}) and logL_birth ({n},) beside logL ({n},) and "
                f"{len(self.names)} names, got {self.theta.shape} and {self.logL_birth.shape}."
            )

    @cached_property
    def evidence(self):
        """Evidence, information and weights of the ledger by its volumes."""
        return self.nested_points.evidence

    @cached_property
    def headline(self):
        """The reported estimate of ln Z with the reason and the checks that failed; see `fusions.evidence.headline`."""
        correlation = self.level_trace.get("parent_correlation", ())
        mean = float(np.nanmean(correlation)) if len(correlation) else 0.0
        return choose((self.evidence.logZ, self.evidence.logZ_err), self.refined, mean)

    @property
    def logZ(self):
        """Ln of the evidence [nats], the headline; `evidence.logZ` is that of the nested-sampling volumes."""
        return self.headline.logZ

    @property
    def logZ_err(self):
        """Standard error of ln Z [nats]."""
        return self.headline.logZ_err

    @cached_property
    def information(self):
        """D_KL, d_G and their errors (`fusions.evidence.importance.Information`), from the points that `posterior` has."""
        if self.replayed:
            return information(self.draws_logL, self.draws_logw, self.logZ, self.logZ_err)
        return Information(*self.evidence[2:6])

    @property
    def D_KL(self):
        """Kullback-Leibler divergence from prior to posterior [nats]."""
        return self.information.D_KL

    @property
    def d_G(self):
        """Bayesian model dimensionality."""
        return self.information.d_G

    @cached_property
    def nested_points(self):
        """The points of the nested run itself, as `NestedPoints`."""
        return ledger_of(self)

    @cached_property
    def replay(self):
        """The nested run played again on all that it has learned (`NestedPoints`); the run itself where volumes are the headline."""
        return replayed(self)

    @cached_property
    def posterior(self):
        """Weighted posterior points: theta (n, m) and log weights (n,), from the draws of the flows if these give the headline."""
        if self.headline.name == "importance":
            return self.draws, normalised(self.draws_logw)
        return self.theta, self.evidence.logw

    @property
    def posterior_logL(self):
        """Log L (n,) of the points of `posterior`; None for draws from files written before fusions kept it."""
        if self.headline.name == "importance":
            return self.draws_logL if len(self.draws_logL) == len(self.draws_logw) else None
        return self.logL

    @cached_property
    def ess(self):
        """Effective number of posterior points (Kish); 0 without a point of finite log L."""
        return effective_sample_size(self.posterior[1]) if np.isfinite(self.logZ) else 0.0

    @cached_property
    def n_unique_live(self):
        """Number of different points among the final live points."""
        return len(np.unique(self.theta[-self.n_live :, : self.n_params], axis=0))

    @property
    def efficiency(self):
        """Accepted replacements per likelihood call; NaN if there was no call."""
        return max(len(self.logL) - self.n_live, 0) / self.n_calls if self.n_calls else np.nan

    @cached_property
    def insertion_pvalue(self):
        """Kolmogorov-Smirnov p-value of insertion ranks against uniform; None with fewer than 20."""
        return uniformity_pvalue(self.insertion_uniforms)

    @property
    def live_fraction(self):
        """Share of the final live points in the evidence."""
        return float(np.exp(logsumexp(self.evidence.logw[-self.n_live :]))) if np.isfinite(self.logZ) else np.nan

    def moments(self):
        """Compute the posterior mean and standard deviation of each column with their Monte Carlo errors: `posterior.Moments`."""
        return moments(self)

    def quantiles(self, q: Sequence[float] = (0.16, 0.5, 0.84)):
        """Compute posterior quantiles of each column: values (k, m) at q (k,), and their Monte Carlo errors (k, m)."""
        return quantiles(self, q)

    def expectation(self, function: Callable):
        """Compute the posterior mean of a function {name: (n,)} -> (n,) and its Monte Carlo error; of `p["x"] > 0` the mass of a mode."""
        return expectation(self, function)

    def __repr__(self):
        """Name, evidence and status in one line."""
        name = self.info.get("name") or "run"
        return f"<Result of {name}: ln Z = {with_error(self.logZ, self.logZ_err)}, {self.status.name}>"

    def __str__(self):
        """Set everything that a user wants to know in one table of at most 100 columns."""
        return render(self)

    def _repr_html_(self):
        """Show a short table in notebooks."""
        return notebook.html(self)

    def plot(self, params: Any = None):
        """Draw the page to look at first: posterior, estimates of ln Z, course of the run, insertion ranks; see `fusions.plot` for more.

        Parameters
        ----------
        params : list of names for the corner; default the first five parameters that vary.

        Returns
        -------
        matplotlib.figure.Figure
        """
        from fusions.plot import page

        return page(self, params)

    @property
    def replayed(self):
        """Whether nested samples are a `replay`: volumes are not the headline, and log L of the draws is known."""
        return self.headline.name == "importance" and self.posterior_logL is not None

    def samples(self, n_live: int | None = None):
        """Hand nested samples that agree with the headline to anesthetic: a `replay`, or the ledger where volumes are the headline.

        Parameters
        ----------
        n_live : number of live points of the replay; default as many as the run's information is worth. With more the error of
            anesthetic's ln Z is smaller, and more points are repeated.

        Returns
        -------
        anesthetic.NestedSamples with names, LaTeX labels and births. Its logZ() is that of the headline to about 1/n_live for a replay;
        for a ledger it differs from `evidence.logZ` by about D_KL/(2 n_live), more beyond a large plateau: it shrinks volumes by n/(n+1)
        where we take exp(-1/n). Prior draws have birth -inf; if points of zero likelihood exist they have NaN, and replacements of those
        points -inf.
        """
        return to_anesthetic(self, self.replay if n_live is None else replayed(self, n_live))

    def ledger(self):
        """Hand the points of the nested run itself to anesthetic, whose volumes and masses of modes drift; see `samples`."""
        return to_anesthetic(self, self.nested_points)

    def equal_weights(self, n: int | None = None, key: int = 0):
        """Draw equally weighted posterior points by systematic resampling.

        Parameters
        ----------
        n : number of draws; default the effective sample size. More repeats points and adds no information.
        key : seed, a non-negative int.

        Returns
        -------
        (n, m) draws in random order.
        """
        n = int(self.ess) if n is None else n
        if not isinstance(n, Integral) or n < 1:
            raise OptionError(f"Expected n >= 1 draws, got {n!r}; the effective sample size is {self.ess:.3g}.")
        rng = np.random.default_rng(key)
        theta, logw = self.posterior
        return theta[rng.permutation(systematic_resample(rng, logw, n))]

    def draw(self, n: int, key: int = 0):
        """Draw fresh posterior points from the flows of the refine phase.

        Costs at most n likelihood calls, rounded up to full batches, which `n_calls` does not count.

        Parameters
        ----------
        n : number of draws.
        key : seed; another one than in earlier calls gives independent draws.

        Returns
        -------
        theta (n, m), log importance weights (n,), whose mean weight estimates Z; a draw outside of the prior stands at its edge with
        weight -inf.
        """
        if isinstance(n, bool) or not isinstance(n, Integral) or n < 1:
            raise OptionError(f"Expected n to be a positive integer, got {n!r}. Type result.draw(1000).")
        self._check_source()
        theta, _, logw, _ = self.source.draw(int(n), key)
        return theta, logw

    def extend(self, *, n_eff: float, key: int = 1):
        """Return a result with more draws from the frozen flows, until they have an effective size of about `n_eff`.

        The number of draws is fixed beforehand from the effective fraction so far, so that stopping does not bias ln Z.

        Parameters
        ----------
        n_eff : wanted effective number of draws; the error of ln Z is about sqrt((1 - share) / n_eff).
        key : seed; use another one for each extension.
        """
        self._check_source()
        return self.source.extend(self, n_eff, key)

    def _check_source(self):
        if self.source is None:
            raise OptionError(
                "This result can't draw: it has no flows, or was loaded from files. Run with refine=True, or type "
                "result = fusions.attach(result, problem) first."
            )

    def reweight(self, log_ratio: Callable):
        """Estimate the evidence of a changed prior or likelihood from the points of this run, without likelihood calls.

        Parameters
        ----------
        log_ratio : function of {name: (n,)} -> (n,), ln of (new prior x new likelihood) / (old prior x old likelihood).

        Returns
        -------
        Reweighted; trust it while its effective size is a good part of this result's.
        """
        return reweighted(self, log_ratio)

    def log_bayes_factor(self, other: "Result"):
        """Compare two models of the same data.

        Parameters
        ----------
        other : Result of the model in the denominator.

        Returns
        -------
        ln B = ln Z(self) - ln Z(other) and its standard error; constrained priors are those renormalised.
        """
        return log_bayes_factor(self, other)

    def save(self, directory: str | Path):
        """Save into a folder: arrays as npz, the rest as JSON, nothing pickled; returns the path of the manifest."""
        return files.save(self, directory)

    @classmethod
    def load(cls, directory: str | Path):
        """Load what `save` wrote; a missing, foreign or damaged folder raises FileError."""
        return files.load(cls, directory)

    def write_polychord(self, root: str | Path):
        """Write PolyChord's files, which `anesthetic.read_chains(root)` reads with the same ln Z.

        ROOT_dead-birth.txt, ROOT_phys_live-birth.txt and ROOT.paramnames carry the points of `replay`: every float64 exactly, the labels,
        and points of zero likelihood (births NaN and -inf, see `samples`). Readers drop equal rows, so repeats of a point differ in the
        last digits of their first parameter. Spaces and * inside of names become _. Readers take log L <= -1e30 for zero:
        `read_chains(root, logzero=-numpy.inf)` keeps such values apart.

        Returns
        -------
        list of the paths written.
        """
        return exports.write_polychord(self, root)

    def write_csv(self, path: str | Path):
        """Write anesthetic's csv, which `anesthetic.read_chains(path)` reads with the same ln Z.

        Carries `samples()`: weights, labels, births, points of zero likelihood and repeats. The file is exact; pandas may read a value
        back with a relative error of 1e-16.

        Returns
        -------
        The path written: `path` with suffix .csv, without which the reader does not find it.
        """
        return exports.write_csv(self, path)

    def to_arviz(self, n: int | None = None, key: int = 0):
        """Hand equally weighted posterior points to ArviZ, 0.x or 1.x, whichever is installed.

        Returns
        -------
        arviz.InferenceData (0.x) or xarray.DataTree (1.x): group posterior with one chain of `equal_weights(n, key)`, LaTeX as the
        attribute "label" of each variable, ln Z and its error as attributes "logZ" and "logZ_err" of the group.
        """
        return exports.to_arviz(self, n, key)

    def to_getdist(self):
        """Hand the weighted posterior to getdist: a `getdist.MCSamples` with labels; derived parameters are marked as such.

        It does not know the prior's bounds: give `ranges` to its `MCSamples` if the posterior is cut off by one.
        """
        return exports.to_getdist(self)

    def export(self, form: str, root: str | Path):
        """Write files for other tools: "polychord", "csv", "getdist", "arviz" (netCDF) or "numpy" (npz).

        Parameters
        ----------
        form : name of the format; polychord and csv keep births and hence ln Z, the others posterior points.
        root : path without suffix, for example "chains/run".

        Returns
        -------
        list of the paths written.
        """
        return exports.export(self, form, root)
