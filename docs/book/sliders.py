"""Sliders that need no kernel: a notebook's widget becomes plain HTML over pictures drawn while the book is built.

A cell that shows an :class:`~prilora_lite.teaching.widgets.Explorer` is run, with the cells above it if it needs them.
Its output becomes the same controls, over what the same function draws for each of their values.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import html
import io
import itertools
import json
import math
import re
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import ipywidgets
import nbformat
from nbformat import NotebookNode
from PIL import Image
from sphinx.application import Sphinx

from prilora_lite.teaching import plots
from prilora_lite.teaching.widgets import Explorer

# Where a slider with many values stops; the others stop at each of theirs.
_STOPS = {
    "rank": (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128),
    "mean": (2, 4, 8, 12, 16),
    "step": (40, 80, 125),
}
_MOST_STATES = 150  # pictures of one widget


def explorer_of(cells: Sequence[str]) -> Explorer | None:
    """What the last of the cells shows, if it is a widget over pictures.

    A cell that needs nothing from above is run alone; otherwise all cells are run from the top, as a learner does.
    """
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.chdir(folder),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        try:
            shown = _run(cells[-1:])
        except NameError:
            shown = _run(cells)
    return shown if isinstance(shown, Explorer) else None


def _run(cells: Sequence[str]) -> Any:
    names: dict[str, Any] = {"__name__": "__main__"}
    for cell in cells[:-1]:
        exec(cell, names)
    *statements, last = ast.parse(cells[-1]).body
    exec(compile(ast.Module(statements, []), "<cell>", "exec"), names)
    return eval(compile(ast.Expression(last.value), "<cell>", "eval"), names)


def stops(name: str, control: ipywidgets.Widget) -> list[Any]:
    """The values that a control takes in the book."""
    if hasattr(control, "options"):
        return list(control.options)
    every = range(control.min, control.max + 1, control.step)
    return [value for value in _STOPS.get(name, every) if value in every]


def states(explorer: Explorer, folder: Path) -> Iterator[tuple[str | None, str]]:
    """Draw a widget at all combinations of its controls' values, the last control fastest.

    Yields:
        The name of the picture in the folder, None where the values do not go together; and the text.
    """
    names, values = list(explorer.controls), [stops(*entry) for entry in explorer.controls.items()]
    count = math.prod(map(len, values))
    if count > _MOST_STATES:
        raise ValueError(f"a widget over {names} has {count} states: let a slider stop less often, in _STOPS")
    folder.mkdir(parents=True, exist_ok=True)
    for combination in itertools.product(*values):
        try:
            figure, text = explorer.draw(**dict(zip(names, combination, strict=True)))
        except ValueError as error:
            yield None, f"<b>Not possible:</b> {html.escape(str(error))}"
            continue
        picture = _few_colours(plots.to_png(figure))
        name = f"{hashlib.sha256(picture).hexdigest()[:12]}.png"
        (folder / name).write_bytes(picture)
        yield name, text


def _few_colours(png: bytes) -> bytes:
    """A picture with a palette: a quarter of the bytes, and no difference to be seen in a figure."""
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    picture = picture.quantize(64, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    buffer = io.BytesIO()
    picture.save(buffer, "png", optimize=True)
    return buffer.getvalue()


def to_html(explorer: Explorer, folder: Path, address: str, name: str) -> str:
    """A widget as HTML that ``sliders.js`` brings to life; without scripts it is the picture at the default values.

    Args:
        explorer: the widget.
        folder: where its pictures go.
        address: of that folder, from the page.
        name: of the widget, unlike all others in the page.
    """
    drawn = list(states(explorer, folder))
    values = [stops(*entry) for entry in explorer.controls.items()]
    at = [stop.index(control.value) for stop, control in zip(values, explorer.controls.values(), strict=True)]
    index = 0
    for stop, place in zip(values, at, strict=True):
        index = index * len(stop) + place
    picture, text = drawn[index]
    width, height = Image.open(folder / picture).size
    image = f'src="{address}/{picture}" width="{width}" height="{height}" alt="{_alt(explorer.alt, text)}"'
    controls = "\n".join(
        _control(f"{name}-{key}", control, stop)
        for (key, control), stop in zip(explorer.controls.items(), values, strict=True)
    )
    data = json.dumps({"folder": address, "alt": explorer.alt, "states": drawn}).replace("<", "\\u003c")
    return f"""<div class="slider" role="group" aria-label="{html.escape(explorer.alt)}">
<div class="slider-controls">
{controls}
</div>
<p class="slider-text" aria-live="polite">{text}</p>
<img class="slider-picture" {image}>
<script type="application/json">{data}</script>
</div>"""


def _control(name: str, control: ipywidgets.Widget, values: Sequence[Any]) -> str:
    label, place = html.escape(control.description), values.index(control.value)
    if isinstance(control, ipywidgets.Dropdown):
        options = "".join(f"<option{' selected' * (i == place)}>{value}</option>" for i, value in enumerate(values))
        return f'<label for="{name}">{label}</label><select id="{name}" disabled>{options}</select><output></output>'
    named = html.escape(json.dumps([str(value) for value in values]))
    return (
        f'<label for="{name}">{label}</label><input type="range" id="{name}" min="0" max="{len(values) - 1}" '
        f'value="{place}" aria-valuetext="{control.value}" data-values="{named}" autocomplete="off" disabled>'
        f'<output for="{name}">{control.value}</output>'
    )


def _alt(alt: str, text: str) -> str:
    return html.escape(f"{alt}: {html.unescape(re.sub('<[^>]+>', ' ', text))}")


def prepare(notebook: NotebookNode, folder: Path, address: str) -> None:
    """Make a notebook ready for the book: sliders, texts of its pictures, no badge, whose picture comes from elsewhere.

    Args:
        notebook: changed in place.
        folder: where the pictures of its sliders go.
        address: of that folder, from the notebook's page.
    """
    notebook.cells = [cell for cell in notebook.cells if "badge" not in cell.metadata.get("tags", [])]
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for number, cell in enumerate(code):
        if "setup" in cell.metadata.get("tags", []):
            cell.metadata.tags.append("hide-cell")
        for output in cell.outputs:
            if alt := output.get("metadata", {}).get("image/png", {}).get("alt"):
                cell.metadata["mystnb"] = {"image": {"alt": alt}}
        if "prilora_lite.teaching.widgets" in cell.source:
            explorer = explorer_of([above.source for above in code[: number + 1]])
            if explorer:
                shown = to_html(explorer, folder, address, f"slider-{number}")
                printed = [output for output in cell.outputs if output.output_type == "stream"]
                cell.outputs = [*printed, nbformat.v4.new_output("display_data", {"text/html": shown})]


def _read(app: Sphinx, page: str, source: list[str]) -> None:
    if Path(app.env.doc2path(page)).suffix != ".ipynb":
        return
    notebook = nbformat.reads(source[0], as_version=4)
    folder = f"_sliders/{Path(page).name}"
    prepare(notebook, app.outdir / folder, "../" * page.count("/") + folder)
    source[0] = nbformat.writes(notebook)


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect to Sphinx: a notebook is prepared as its text is read."""
    app.connect("source-read", _read)
    app.add_js_file("sliders.js", defer="defer")
    return {"parallel_read_safe": False, "parallel_write_safe": True}
