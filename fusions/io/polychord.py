"""PolyChord's text files, and what they and anesthetic need to know of births and repeated points."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from fusions.io.files import writing
from fusions.io.labels import paramnames

ANESTHETIC_LOGZERO = -1e30


def write_polychord(
    root: str | Path,
    *,
    names: Sequence[str],
    n_params: int,
    labels: Mapping[str, str],
    theta: np.ndarray,
    logL: np.ndarray,
    logL_birth: np.ndarray,
    n_live: int,
):
    """Write a ledger as PolyChord does; 17 digits keep every float64 as it is.

    Parameters
    ----------
    root : path without suffix, for example ``chains/run``.
    names, n_params, labels : columns, how many of them are parameters, and {name: LaTeX}.
    theta, logL, logL_birth : (N, m), (N,), (N,) ledger; its last `n_live` rows are the live points.
    n_live : number of live points.

    Returns
    -------
    list of the paths written.
    """
    root = Path(root)
    births = exported_births(logL, logL_birth, ANESTHETIC_LOGZERO)
    rows = set_apart(np.column_stack([theta, logL, births]))
    n_dead = len(rows) - n_live if len(rows) > n_live else len(rows)
    paths = [root.with_name(root.name + end) for end in ("_dead-birth.txt", ".paramnames", "_phys_live-birth.txt")]
    with writing(root.parent):
        root.parent.mkdir(parents=True, exist_ok=True)
        np.savetxt(paths[0], rows[:n_dead], fmt="%.17g")
        paths[1].write_text(paramnames(names, n_params, labels), encoding="utf-8")
        if n_dead == len(rows):
            paths[2].unlink(missing_ok=True)
            return paths[:2]
        np.savetxt(paths[2], rows[n_dead:], fmt="%.17g")
    return paths


def exported_births(logL: np.ndarray, logL_birth: np.ndarray, logzero: float = -np.inf):
    """Turn a ledger's births into those that anesthetic counts correctly.

    Without zero-likelihood points prior draws get -inf, as everywhere. With them, rows with
    log L = birth = -inf would be dropped, so prior draws keep NaN and replacements of zero-likelihood points
    have -inf.

    Parameters
    ----------
    logL, logL_birth : (N,) ledger [nats].
    logzero : log L at or below it counts as zero likelihood [nats].

    Returns
    -------
    (N,) births.
    """
    if np.any(logL <= logzero):
        return logL_birth.copy()
    return np.where(np.isnan(logL_birth), -np.inf, logL_birth)


def set_apart(rows: np.ndarray):
    """Make equal rows differ in the last digits of their first column, for readers that drop repeats.

    Parameters
    ----------
    rows : (N, m) float64 table, changed in place; rows with a NaN are never equal.

    Returns
    -------
    The same table.
    """
    for _ in range(8):
        _, place, count = np.unique(rows[:, 0], return_inverse=True, return_counts=True)
        alike = np.flatnonzero(count[place] > 1)  # only these can be equal
        _, first, inverse = np.unique(rows[alike], axis=0, return_index=True, return_inverse=True)
        if len(first) == len(alike):
            break
        order = np.argsort(inverse.ravel(), kind="stable")
        group = inverse.ravel()[order]
        occurrence = np.empty(len(alike))
        occurrence[order] = np.arange(len(alike)) - np.searchsorted(group, group)
        column = rows[alike, 0]
        rows[alike, 0] += occurrence * np.where(np.isfinite(column), np.spacing(np.abs(column)), 0.0)
    return rows
