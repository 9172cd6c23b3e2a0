"""How Sphinx builds the documentation: `make docs`, into build/docs."""

import re
from pathlib import Path

import contextual_rnn

project = "contextual-rnn"
author = "The contextual-rnn developers"
copyright = author
version = release = contextual_rnn.__version__
pygments_dark_style = "github-dark"
html_title = f"contextual-rnn {release}"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_copybutton"]
html_theme = "furo"
html_static_path = ["_static"]
html_favicon = "_static/favicon.svg"
html_css_files = ["site.css"]
html_copy_source = html_show_sourcelink = False
exclude_patterns = ["figures"]
nitpicky = False

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

default_role = "py:obj"  # docstrings have names in single backticks
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_inherit_docstrings = False  # a method is described where its contract is
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 90
python_use_unqualified_type_names = True


def as_restructured_text(app, what, name, obj, options, lines):
    """Indented paragraphs of a docstring are equations or code; elsewhere stars and bars are what they are."""
    paragraphs = "\n".join(lines).split("\n\n")
    lines[:] = "\n\n".join(
        f"::\n\n{text}" if text.startswith(" ") else re.sub(r"`[^`]*`|([*|])", lambda m: "\\" * bool(m[1]) + m[0], text)
        for text in paragraphs
    ).split("\n")


def with_guides(app, docname, source):
    """Pages directly in docs/ that the front page does not name are its guides."""
    if docname == "index":
        pages = (path.stem for path in sorted(Path(app.srcdir).glob("*.md")) if path.stem != "index")
        source[0] = source[0].replace("GUIDES", "\n".join(page for page in pages if f"\n{page}\n" not in source[0]))


def setup(app):
    app.connect("autodoc-process-docstring", as_restructured_text)
    app.connect("source-read", with_guides)
