"""Links to the repository's files: a source that a page links to becomes a page of its own, with the lines numbered."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from inspect import getsourcefile, getsourcelines, unwrap
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.highlighting import PygmentsBridge

_LANGUAGES = {".py": "python", ".toml": "toml", ".json": "json", ".cff": "yaml"}
_ROOT = Path(__file__).parent.parent.parent
_PAGES: set[str] = set()  # files that were linked to, from the repository's root


def _address(file: str) -> str:
    _PAGES.add(file)
    return f"source/{file}"


def link(app: Sphinx, doctree: nodes.document) -> None:
    """Lead links to files and folders of the repository that are not pages of the book to where they can be read.

    A text becomes a page; a folder or a file of data is named and not linked: it is in the repository.
    """
    page = app.env.docname
    folder = Path(app.env.doc2path(page)).parent
    for node in list(doctree.findall(addnodes.download_reference)) + list(doctree.findall(addnodes.pending_xref)):
        target = folder / node.get("reftarget", "")
        if node.get("reftype") != "myst" or node.get("refdomain") or not target.exists():
            continue
        if target.suffix in _LANGUAGES:
            file = target.resolve().relative_to(_ROOT).as_posix()
            address = app.builder.get_relative_uri(page, _address(file))
            node.replace_self(nodes.reference("", "", *node.children, refuri=address, internal=True))
        else:
            node.replace_self(node.children)


def line_of(domain: str, info: dict[str, str]) -> str | None:
    """Where the source of a documented name stands, seen from a page in docs/; what ``linkcode_resolve`` is."""
    thing = sys.modules.get(info["module"])
    for name in info["fullname"].split("."):
        thing = getattr(thing, name, None)
    thing = unwrap(thing.fget if isinstance(thing, property) else thing)
    try:
        file, line = getsourcefile(thing), getsourcelines(thing)[1]
    except TypeError:  # a field, a table: no code of its own
        return None
    file = Path(file).resolve().relative_to(_ROOT).as_posix()
    return f"../{_address(file)}.html#L-{line}"


def pages(app: Sphinx) -> Iterator[tuple[str, dict[str, str], str]]:
    """The pages of the sources."""
    highlighter = PygmentsBridge("html", app.config.pygments_style)
    for file in sorted(_PAGES):
        text = (_ROOT / file).read_text(encoding="utf-8")
        code = highlighter.highlight_block(text, _LANGUAGES[Path(file).suffix], lineanchors="L", linenos=False)
        yield f"source/{file}", {"title": file, "body": f'<h1 class="source">{file}</h1>{code}'}, "page.html"


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect to Sphinx, ahead of the collector of downloads, which would copy what is linked to."""
    app.connect("doctree-read", link, priority=400)
    app.connect("html-collect-pages", pages)
    return {"parallel_read_safe": False, "parallel_write_safe": True}
