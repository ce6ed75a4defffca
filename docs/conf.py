"""Settings of the documentation site, built by `make docs` with warnings as errors."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

import fusions  # noqa: E402

project = "fusions"
author = "The fusions developers"
version = release = fusions.__version__
extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax", "myst_nb"]
exclude_patterns = ["_build", "results"]
html_theme = "furo"
html_title = f"fusions {version}"
myst_enable_extensions = ["dollarmath", "deflist"]
myst_heading_anchors = 3
nb_execution_mode = "off"
napoleon_google_docstring = False
napoleon_use_ivar = True
autodoc_member_order = "bysource"
autodoc_typehints = "none"
suppress_warnings = ["mystnb.unknown_mime_type"]
OPTIONAL = ("scale", "bilby", "cobaya", "numpyro")  # pages that index.md lists and that may not be there


def without_missing(app, docname, source):
    """Take optional pages that do not exist out of the table of contents."""
    if docname == "index":
        missing = {name for name in OPTIONAL if not (HERE / f"{name}.md").is_file()}
        source[0] = "\n".join(line for line in source[0].splitlines() if line not in missing)


def setup(app):
    """Tell Sphinx of it."""
    app.connect("source-read", without_missing)
