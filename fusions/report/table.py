"""The table that `print(result)` shows: functions that turn a Result into lines of at most 100 columns."""

import textwrap
from typing import Any

import numpy as np

from fusions.errors import Status

WIDTH, LABEL, LEFT, RIGHT, MEAN = 100, 19, 27, 22, 24
NEGLIGIBLE = 0.15  # share of the evidence in the live points; expensive runs stop at more if a refine phase follows
ENOUGH = "Converged: live points held {} of the evidence, enough points for the refine phase."
REPLAYED = "samples() and files: replayed on nested points and draws, in agreement with ln Z"
AS_THEY_ARE = "samples() and files: those of the nested run itself"
CLOCKS = {"ode": "moves"}


def render(result: Any):
    """Set evidence, checks, cost, parameters and warnings of a Result in one table."""
    return "\n".join(
        [
            *_title(result),
            *_evidence_lines(result),
            *_check_lines(result),
            *_cost_lines(result),
            *_parameter_lines(result),
            *_warning_lines(result),
        ]
    )


def with_error(value: Any, err: float):
    """Write a value with its error to two significant digits of the error.

    Examples
    --------
    >>> with_error(-5.8041, 0.0987), with_error(12345.6, 210.0), with_error(2.0, 0.0)
    ('-5.804 +- 0.099', '12350 +- 210', '2 +- 0')
    """
    if not np.isfinite(value) or not np.isfinite(err):
        return "unknown" if np.isnan(value) else f"{value:.6g} +- unknown"
    if err <= max(1e-12, np.spacing(abs(value))):
        return f"{round(value, 11) + 0.0:.10g} +- 0"
    decimals = 1 - int(f"{err:.1e}".split("e")[1])
    top = int(f"{max(abs(value), err):.1e}".split("e")[1])
    shown, digits = max(decimals, 0), max(decimals + top, 0)
    plain = f"{round(value, decimals) + 0.0:.{shown}f} +- {round(err, decimals):.{shown}f}"
    if decimals <= 6 and top <= 6:
        return plain
    return min(plain, f"({value / 10.0**top:.{digits}f} +- {err / 10.0**top:.{digits}f})e{top}", key=len)


def _line(label, left, right=""):
    """Set one row of the table: label, value, and a second label with its value; wrapped at the width.

    What goes beyond the first column has a row of its own.
    """
    if right and len(left) > LEFT - 2:
        return [*_line(label, left), *_line("", "", right)]
    text = f"{left:<{LEFT}}{right}" if right else left
    wrapped = textwrap.wrap(text, WIDTH - LABEL, drop_whitespace=len(text) > WIDTH - LABEL) or [""]
    return [(f"{label:<{LABEL}}" if i == 0 else " " * LABEL) + part.rstrip() for i, part in enumerate(wrapped)]


def _cut(text, width):
    """Shorten a text to a width on one line."""
    text = " ".join(text.split())
    return text if len(text) <= width else text[: max(width - 3, 0)] + "..."


def _title(result):
    """Name and status; a status that makes the evidence incomplete stands out."""
    facts = [f"n_live {result.n_live}", *(f"{k} {result.info[k]}" for k in ("seed",) if k in result.info)]
    facts = ", ".join(facts + ([f"{result.info['path']} likelihood"] if "path" in result.info else []))
    name = _cut(str(result.info.get("name", "")), WIDTH - LABEL - len(facts) - 2)
    head = f"{'fusions':<{LABEL}}{name}"
    lines = [head + facts.rjust(WIDTH - len(head)), "-" * WIDTH]
    if result.status.complete:
        handed_over = result.refined is not None and result.live_fraction > NEGLIGIBLE
        return [*lines, *_line("status", ENOUGH.format(_percent(result.live_fraction)) if handed_over else result.status.value)]
    early = result.status is Status.USER_RULE
    lines += _line("STOPPED EARLY" if early else "!! INCOMPLETE !!", result.status.value)
    if np.isnan(result.live_fraction):
        return lines
    after = "what they would still find is not in it." if early else "do not quote it as the answer."
    return lines + _line("", f"Live points hold {_percent(result.live_fraction)} of this evidence; {after}")


def _percent(fraction):
    """Write a fraction in percent: two digits, or one decimal below ten."""
    return "?" if np.isnan(fraction) else f"{100 * fraction:.{0 if fraction >= 0.0995 else 1}f} %"


def _evidence_lines(result):
    """Evidence, information, dimensionality, and what a constraint does to them."""
    e, log10 = result.information, np.log(10.0)
    log10_Z = with_error(result.logZ / log10, result.logZ_err / log10)
    lines = _line("ln Z", with_error(result.logZ, result.logZ_err), f"{'log10 Z':<{RIGHT}}{log10_Z}")
    lines += _estimate_lines(result)
    dimension = f"{'model dimensionality':<{RIGHT}}{with_error(e.d_G, e.d_G_err)}"
    lines += _line("D_KL", f"{with_error(e.D_KL, e.D_KL_err)} nats", dimension)
    log_f, err = result.constraint_logmass
    if log_f:
        text = (
            "ln Z is relative to the prior renormalised on the allowed region; that region holds a fraction "
            f"{np.exp(log_f):.3g} of the prior: add ln f = {with_error(log_f, err)} for the unconstrained "
            "convention."
        )
        lines += _line("constraint", text)
    return lines


def _estimate_lines(result):
    """Say which estimate the headline is, what the others are, how far they agree, and what the error is made of."""
    r, e = result.refined, result.evidence
    if r is None:
        return []
    (logZ, err), (gap, gap_err), chains = r.importance, r.coverage, r.chains
    apart = (logZ - e.logZ) / np.hypot(err, e.logZ_err)
    covered = with_error(np.exp(gap), np.exp(gap) * gap_err)
    lines = _line("  reported by", result.headline.reason)
    lines += _line("  volumes", with_error(e.logZ, e.logZ_err), f"{'importance - volumes':<{RIGHT}}{apart:+.1f} sigma")
    lines += _line("  importance", with_error(logZ, err), f"{'covered mass':<{RIGHT}}{covered}")
    draws = f"{r.ess:,.0f} of {r.n_draws:,}; k-hat {r.khat:.2f}"
    lines += _line("  bridge", with_error(*r.bridge), f"{'ESS':<{RIGHT}}{draws}")
    moves = f"{chains.n_trajectories} trajectories" if chains.n_trajectories else f"{chains.n_moves:,} moves each"
    walked = f"{moves}; {'settled' if chains.settled else 'not settled'}"
    lines += _line("  chains", walked, f"{'modes':<{RIGHT}}{len(r.modes)}" if r.modes else "")
    norm_err = result.constraint_logmass[1]
    own_err = np.sqrt(max(err**2 - norm_err**2, 0.0))
    budget = f"shrinkage {e.logZ_err:.2g}, importance {own_err:.2g}, coverage {gap_err:.2g}, "
    budget += f"missed mass {r.missed_mass:.2g}, ODE {r.ode_error:.1g}"
    budget += f", prior fraction {norm_err:.2g}" if norm_err else ""
    budget += f", found above {result.headline.excess:.2g}" if result.headline.excess else ""
    return lines + _line("  error sources", f"{budget} nats")


def _check_lines(result):
    """Effective samples, clones and insertion ranks in words."""
    n_live = min(result.n_live, len(result.logL))
    clones = result.n_unique_live < 0.5 * n_live and result.status is not Status.PLATEAU
    unique = f"{result.n_unique_live:,} of {n_live:,}{'  (many clones)' if clones else ''}"
    left = f"{result.ess:,.0f} of {len(result.posterior[1]):,} points"
    lines = _line("posterior ESS", left, f"{'unique live points':<{RIGHT}}{unique}")
    p = result.insertion_pvalue
    if p is None:
        text = f"not tested: {len(result.insertion_uniforms)} replacements, 20 are needed"
    elif p > 0.01:
        text = f"p = {p:.2g}: consistent with uniform (no sign of bias)"
    elif p > 1e-4:
        text = f"p = {p:.1g}: doubtful: compare with a run of more moves per replacement"
    else:
        text = (
            f"p = {p:.0e}: replacements are biased: do not trust this ln Z; run again with more moves per replacement or more live points"
        )
    return lines + _line("insertion ranks", text) + _line("nested samples", REPLAYED if result.replayed else AS_THEY_ARE)


def _cost_lines(result):
    """Count calls and say where the time went."""
    each = f" ({1 / result.efficiency:.3g} per replacement)" if result.efficiency > 0 else ""
    efficiency = f"{'efficiency':<{RIGHT}}{_percent(result.efficiency)}{each}"
    lines = _line("likelihood calls", f"{result.n_calls:,}", efficiency)
    parts = {k: v for k, v in result.seconds.items() if k != "total"}
    total = result.seconds.get("total", sum(parts.values()))
    shares = ", ".join(f"{CLOCKS.get(k, k)} {100 * v / total:.0f} %" for k, v in parts.items() if total > 0)
    compiled = f"{result.n_compilations} compilation{'' if result.n_compilations == 1 else 's'}"
    return lines + _pool_lines(result) + _line("time", f"{total:.1f} s{': ' + shares if shares else ''};  {compiled}")


def _pool_lines(result):
    """Say how fast a pool worked and how much of its time nobody worked: within batches, and in the whole run, trainings included."""
    pool = result.info.get("pool")
    if not pool or not pool["seconds"]:
        return []
    rate = pool["n_calls"] / pool["seconds"]
    idle, idle_all = (1 - pool["busy"] / (pool["n_workers"] * pool[key]) for key in ("seconds", "elapsed"))
    text = f"{pool['n_workers']} workers ({pool['kind']}), {rate:,.0f} calls/s; "
    return _line("pool", text + f"idle {_percent(max(idle, 0))} within batches, {_percent(max(idle_all, 0))} of the run")


def _parameter_lines(result, most=40):
    """Posterior mean and standard deviation of each column, and the Monte Carlo error of the mean."""
    width = min(max(map(len, result.names), default=0), 36) + 2
    lines = _line("parameters", f"{'':<{width}}{'posterior mean +- sd':<{MEAN}}error of mean")
    rows = list(zip(result.names, *result.moments()[:3], strict=True))
    for i, (name, mean, sd, err) in enumerate(rows[:most]):
        derived = "   (derived)" if i >= result.n_params else ""
        shown = _cut(name, width - 2)
        lines += [" " * LABEL + f"{shown:<{width}}{with_error(mean, sd):<{MEAN}}{err:.1g}{derived}"]
    return lines + ([" " * LABEL + f"... and {len(rows) - most} more"] if len(rows) > most else [])


def _warning_lines(result):
    """Every warning of the run, wrapped."""
    notes = [*result.headline.warnings, *result.info.get("warnings", ())]
    return [line for i, text in enumerate(notes) for line in _line("warnings" if i == 0 else "", f"- {text}")]
