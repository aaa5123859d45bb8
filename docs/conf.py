"""The book: python -m sphinx -b html docs build/book. It is built from the repository's own pages, where they lie."""

import sys
from pathlib import Path

from sphinx.application import Sphinx

sys.path.insert(0, str(Path(__file__).parent))

from book.sources import line_of

import prilora_lite

project = "prilora-lite"
author = "The prilora-lite authors"
version = release = prilora_lite.__version__
extensions = [
    "myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.linkcode", "book.equations", "book.sliders",
    "book.sources",
]  # fmt: skip

root_doc = "docs/index"
include_patterns = [
    "README.md", "CHANGELOG.md", "docs/*.md", "notebooks/*.ipynb", "notebooks/assignments/README.md",
    "notebooks/assignments/release/*/*.ipynb", "results/*.md", "prilora_lite/pocket/model/README.md",
]  # fmt: skip

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3  # links to headings as on GitHub
nb_execution_mode = "off"  # notebooks show what was committed with them
nb_merge_streams = True
nb_code_prompt_show = "The answer to the prediction"
nb_code_prompt_hide = "The answer to the prediction"

autodoc_typehints = "signature"
autodoc_preserve_defaults = True  # as in the source, not the value, which may be a path of this machine
autodoc_type_aliases = {"ArrayLike": "ArrayLike"}
autodoc_inherit_docstrings = False  # torch's and transformers' would pass for ours
napoleon_use_param = False  # else a line for two names is repeated for each
napoleon_use_rtype = False
autodoc_member_order = "bysource"
python_maximum_signature_line_length = 88
linkcode_resolve = line_of

html_math_renderer = "drawn"
html_theme = "furo"
html_title = "prilora-lite"
html_static_path = ["_static"]
html_css_files = ["book.css"]
html_additional_pages = {"index": "first.html"}
html_copy_source = False
html_show_copyright = False
templates_path = ["_templates"]


# Tables that a command writes without a title
TITLES = {
    "results/questions": "The answers", "results/pocket": "Pocket, all methods",
    "results/pocket_grid": "Pocket, rank slope and pruning ratio",
    "results/pocket_grid_one_s": "The same with one scaling for all layers", "results/minilm_glue": "MiniLM on GLUE",
    "results/speed": "Time and memory",
    "results/speed_cuda": "Time and memory on a GPU",
}  # fmt: skip


def give_title(app: Sphinx, page: str, source: list[str]) -> None:
    """Put a title above a page of tables."""
    if page in TITLES:
        source[0] = f"# {TITLES[page]}\n\n{source[0]}"


def setup(app: Sphinx) -> None:
    """Read the pages from the repository's root: their links to each other stay as they are on GitHub."""
    app.srcdir = Path(__file__).parent.parent
    app.connect("source-read", give_title)
