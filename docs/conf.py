"""Configures Sphinx: `make docs` builds the site into build/docs, without a network."""

import os
import sys

sys.path.insert(0, os.path.abspath(".."))

from scripts.docs import generated

project = "tpu-retraining"
author = "tpu-retraining's authors"
extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
myst_heading_anchors = 3  # links to headings, as GitHub writes them
html_theme = "furo"
html_title = "tpu-retraining"
smartquotes = False  # "" is a value
html_show_sphinx = False
html_show_copyright = False
html_copy_source = False


def _fill(_app, _docname, source):
    source[0] = generated.fill(source[0])


def setup(app):
    """Lets pages ask for what is generated, see `scripts.docs.generated`."""
    app.connect("source-read", _fill)
    return {"parallel_read_safe": True}
