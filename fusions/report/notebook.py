"""What a notebook shows of a Result: a short table, with the whole one folded below it."""

from html import escape
from typing import Any

from fusions.errors import Status
from fusions.report.table import render, with_error

MOST_PARAMETERS = 20
LEFT = 'style="text-align:left"'
GOOD, BAD = "#009E73", "#D55E00"


def html(result: Any):
    """Set a Result in HTML.

    Returns
    -------
    str: status, ln Z, checks, cost, posterior means, warnings; the text of `print(result)` unfolds.
    """
    name = escape(str(result.info.get("name") or "fusions"))
    fine = result.status.complete or result.status is Status.USER_RULE
    parts = [
        f"<div><b>{name}</b> <span style='color:{GOOD if fine else BAD}'>{escape(result.status.value)}</span>",
        _table(_facts(result)),
        _parameters(result),
        *(f"<p style='color:{BAD}'>&#9888; {escape(str(note))}</p>" for note in _warnings(result)),
        f"<details><summary>everything</summary><pre>{escape(render(result))}</pre></details></div>",
    ]
    return "\n".join(parts)


def _warnings(result):
    """Collect the warnings of the headline and of the run."""
    return [*result.headline.warnings, *result.info.get("warnings", ())]


def _facts(result):
    """List (name, value) of what is worth a row."""
    p, e = result.insertion_pvalue, result.information
    return [
        ("ln Z", f"<b>{_number(result.logZ, result.logZ_err)}</b> ({escape(result.headline.name)})"),
        ("information D<sub>KL</sub>", f"{_number(e.D_KL, e.D_KL_err)} nats"),
        ("effective posterior points", f"{result.ess:,.0f}"),
        ("insertion ranks", "not tested" if p is None else f"p = {p:.2g}"),
        ("likelihood calls", f"{result.n_calls:,} in {result.seconds.get('total', 0.0):.1f} s"),
    ]


def _number(value, err):
    """Write a value with its error, with a real plus-minus sign."""
    return with_error(value, err).replace("+-", "&plusmn;")


def _table(rows):
    """Set rows of (name, value) in a table."""
    cells = "".join(f"<tr><th {LEFT}>{name}</th><td {LEFT}>{value}</td></tr>" for name, value in rows)
    return f"<table>{cells}</table>"


def _parameters(result):
    """Set posterior means and standard deviations in a table."""
    rows = list(zip(result.names, *result.moments()[:2], strict=True))
    cells = [(escape(name) + " (derived)" * (i >= result.n_params), _number(mean, sd)) for i, (name, mean, sd) in enumerate(rows)]
    more = [("...", f"{len(rows) - MOST_PARAMETERS} more")] if len(rows) > MOST_PARAMETERS else []
    return _table([("parameter", "posterior mean &plusmn; sd"), *cells[:MOST_PARAMETERS], *more])
