"""Build paper.pdf: figures from the committed rows, then pandoc (package pypandoc-binary) and typst: python paper/build.py [OUTPUT]."""

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
FIGURES = ("dimension", "challenge", "calibration")


def main(output=HERE / "paper.pdf"):
    """Draw the figures, turn Markdown into Typst, compile it."""
    import pypandoc
    import typst

    for name in FIGURES:
        subprocess.run([sys.executable, HERE / "figures" / f"{name}.py"], check=True)
    source = HERE / "paper.typ"
    options = [
        "--citeproc",
        "--standalone",
        "-M",
        "author=The fusions developers",
        "-V",
        "papersize=a4",
        "-V",
        "fontsize=10pt",
        "-V",
        "margin.x=2.2cm",
        "-V",
        "margin.y=2.2cm",
    ]
    pypandoc.convert_file(str(HERE / "paper.md"), "typst", outputfile=str(source), extra_args=options, cworkdir=str(HERE))
    typst.compile(str(source), output=str(output))
    source.unlink()
    print(output)


if __name__ == "__main__":
    main(*sys.argv[1:])
