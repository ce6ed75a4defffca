"""Turn the scripts of this folder (cells after `# %%`) into notebooks and execute them: python docs/tutorials/make.py [NAME ...]."""

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).parent
NAMES = ("first_run", "two_models")


def cells(text):
    """Split a script into cells; those marked [markdown] lose their comment signs."""
    for part in text.split("# %%")[1:]:
        mark, _, body = part.partition("\n")
        if "[markdown]" in mark:
            lines = [line.removeprefix("#").removeprefix(" ") for line in body.strip().splitlines()]
            yield nbformat.v4.new_markdown_cell("\n".join(lines))
        else:
            yield nbformat.v4.new_code_cell(body.strip())


def notebook(name):
    """Make the notebook of a script, not executed."""
    made = list(cells((HERE / f"{name}.py").read_text()))
    for i, cell in enumerate(made):
        cell["id"] = f"cell-{i}"
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    return nbformat.v4.new_notebook(cells=made, metadata=kernel)


def execute(name):
    """Execute a notebook; an error in a cell is raised."""
    made = notebook(name)
    NotebookClient(made, timeout=1800, kernel_name="python3").execute()
    for cell in made.cells:
        cell.get("metadata", {}).pop("execution", None)
    made.metadata.pop("language_info", None)
    return made


def main(*names):
    """Write the notebooks, all by default."""
    for name in names or NAMES:
        nbformat.write(execute(name), HERE / f"{name}.ipynb")


if __name__ == "__main__":
    main(*sys.argv[1:])
