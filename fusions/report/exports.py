"""A result in the words of other tools: ArviZ, getdist, plain numpy; and the table of formats that files can have.

ArviZ and getdist are known to this file alone, and imported only when they are asked for.
"""

import importlib
from pathlib import Path
from typing import Any

import numpy as np

from fusions.errors import OptionError
from fusions.io import polychord
from fusions.io.files import pack, write_atomically, writing
from fusions.io.labels import math_label, paramnames, upright


def _load(*names):
    """Import the first of these packages that is installed."""
    for name in names:
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    raise OptionError(f"Expected the package {' or '.join(names)} to be installed, found none. Type: pip install {names[0]}")


def latex_labels(result: Any):
    """Return {name: LaTeX without dollar signs} of all columns; names that have no label stand upright."""
    return {name: math_label(result.labels.get(name) or "") or upright(name) for name in result.names}


def facts(result: Any):
    """Return what an export keeps beside the points: {"logZ", "logZ_err", "D_KL", "ess", "n_calls", "status", "sampler"}."""
    return {
        "logZ": result.logZ, "logZ_err": result.logZ_err, "D_KL": result.D_KL, "ess": result.ess, "n_calls": result.n_calls,
        "status": result.status.name, "sampler": "fusions",
    }  # fmt: skip


def to_arviz(result: Any, n: Any = None, key: int = 0):
    """Make the object of ArviZ; see `Result.to_arviz`.

    Parameters
    ----------
    result : Result
    n : number of draws, None for the effective sample size; key : seed.
    """
    arviz = _load("arviz", "arviz_base")
    draws = result.equal_weights(n, key)
    posterior = {name: column[None] for name, column in zip(result.names, draws.T, strict=True)}
    old = arviz.__name__ == "arviz" and arviz.__version__.startswith("0.")
    if old:  # 0.x would take the argument of 1.x in silence and make a wrong object of it
        found = arviz.from_dict(posterior=posterior, posterior_attrs=facts(result))
    else:
        found = arviz.from_dict({"posterior": posterior}, attrs={"posterior": facts(result)})
    for name, label in latex_labels(result).items():
        found["posterior"][name].attrs["label"] = f"${label}$"
    return found


def _starred(result):
    """Return the names with getdist's mark of derived parameters."""
    return [name + "*" * (i >= result.n_params) for i, name in enumerate(result.names)]


def to_getdist(result: Any):
    """Make the object of getdist; see `Result.to_getdist`."""
    getdist = _load("getdist")
    theta, logw = result.posterior
    logL = result.posterior_logL
    return getdist.MCSamples(
        samples=theta,
        weights=np.exp(logw - np.max(logw)),
        loglikes=None if logL is None else -logL,
        names=_starred(result),
        labels=[latex_labels(result)[name] for name in result.names],
        label=result.info.get("name"),
        sampler="nested",
    )


def write_polychord(result: Any, root: str | Path):
    """Write PolyChord's files; see `Result.write_polychord`."""
    columns = {name: getattr(result, name) for name in ("names", "n_params", "labels")}
    points = {name: getattr(result.replay, name) for name in ("theta", "logL", "logL_birth", "n_live")}
    return polychord.write_polychord(root, **columns, **points)


def write_csv(result: Any, path: str | Path):
    """Write anesthetic's csv; see `Result.write_csv`."""
    path = Path(path)
    path = path if path.suffix == ".csv" else path.with_name(path.name + ".csv")
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        result.samples().to_csv(path)
    return path


def write_getdist(result: Any, root: str | Path):
    """Write the weighted posterior as getdist and CosmoMC do: ROOT.txt (weight, -log L, columns) and ROOT.paramnames.

    -log L is 0 where the likelihood is not known: draws of files of earlier versions. Needs no getdist. Returns the paths written.
    """
    theta, logw = result.posterior
    logL = result.posterior_logL
    rows = np.column_stack([np.exp(logw - np.max(logw)), np.zeros(len(logw)) if logL is None else -logL, theta])
    root = Path(root)
    paths = [root.with_name(root.name + end) for end in (".txt", ".paramnames")]
    with writing(root.parent):
        root.parent.mkdir(parents=True, exist_ok=True)
        np.savetxt(paths[0], rows[rows[:, 0] > 0], fmt="%.17g")
        paths[1].write_text(paramnames(result.names, result.n_params, result.labels), encoding="utf-8")
    return paths


def write_numpy(result: Any, root: str | Path):
    """Write ROOT.npz: equally weighted "samples" (n, m), "names" (m,), "labels" (m,) in LaTeX, and the `facts`; nothing pickled."""
    path = Path(root).with_name(Path(root).name + ".npz")
    arrays = {"samples": result.equal_weights(), "names": np.array(result.names), "labels": np.array(list(latex_labels(result).values()))}
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, pack(arrays | facts(result)))
    return [path]


def write_arviz(result: Any, root: str | Path):
    """Write ROOT.nc, the netCDF file that `arviz.from_netcdf` reads."""
    path = Path(root).with_name(Path(root).name + ".nc")
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        to_arviz(result).to_netcdf(str(path))
    return [path]


FORMATS = {
    "polychord": write_polychord,
    "csv": lambda result, root: [write_csv(result, root)],
    "getdist": write_getdist,
    "arviz": write_arviz,
    "numpy": write_numpy,
}


def export(result: Any, form: str, root: str | Path):
    """Write a result in one of the formats of `FORMATS`.

    Parameters
    ----------
    result : Result.
    form : name of the format.
    root : path without suffix.

    Returns
    -------
    list of the paths written.
    """
    if form not in FORMATS:
        raise OptionError(f"Expected a format out of {', '.join(FORMATS)}, got {form!r}. Type result.export('csv', 'chains').")
    return FORMATS[form](result, root)
