"""Names of columns as LaTeX: the form that PolyChord, getdist and anesthetic read."""

from collections.abc import Mapping, Sequence


def math_label(label: str):
    r"""Rewrite a label as LaTeX mathematics without dollar signs, the form that PolyChord's files keep.

    Examples
    --------
    >>> math_label(r"$\omega$"), math_label(r"\omega")
    ('\\omega', '\\omega')
    >>> math_label(r"speed $v$ [m/s]")
    '\\mathrm{speed\\ }v\\mathrm{\\ [m/s]}'
    """
    if "$" in label:
        return "".join(piece if i % 2 else upright(piece) for i, piece in enumerate(label.split("$")))
    is_text = " " in label and not set(label) & set("\\^_{}")
    return upright(label) if is_text else label


def upright(text: str):
    """Set plain text upright inside of LaTeX's mathematics."""
    for character in "_%#&":
        text = text.replace(character, "\\" + character)
    return r"\mathrm{" + text.replace(" ", r"\ ") + "}" if text else ""


def paramnames(names: Sequence[str], n_params: int, labels: Mapping[str, str]):
    """Return the text of .paramnames: no spaces or asterisks inside of a name, * after a derived one.

    Parameters
    ----------
    names : of all columns; the first `n_params` of them are parameters, the others derived.
    n_params : number of parameters.
    labels : {name: LaTeX}, for some or all names.
    """
    lines = []
    for i, name in enumerate(names):
        plain = "_".join(name.replace("*", "_").split())
        label = math_label(labels[name]) if labels.get(name) else upright(name) if plain != name else ""
        lines.append(f"{plain}{'*' if i >= n_params else ''} {label}".rstrip())
    return "\n".join(lines) + "\n"
