"""Keeps the repository's notebooks in order: one set-up cell for all, executed, clean. ``prilora-lite notebooks``."""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

from prilora_lite.shared.files import write_whole

# "owner/name" on GitHub: where Colab opens the notebooks and installs the package from. The one place where it is set;
# `prilora-lite notebooks --execute` writes it into every notebook. While it is empty there are no badges.
REPOSITORY = ""

# On Colab it installs what SOURCE names, else the wheel beside the notebook, else the one that a dialog asks for. All
# this stands in the cell, which runs where there is no package yet to import it from.
_SETUP = """\
# Set-up, the same in every notebook: on Colab it installs the package, elsewhere it only checks.
import importlib.util
import subprocess
import sys
from pathlib import Path

SOURCE = "{source}"  # for Colab: "git+https://...", or the folder of the wheel in your Drive, "drive/MyDrive/..."
if importlib.util.find_spec("prilora_lite") is None:
    if "google.colab" not in sys.modules:
        raise ModuleNotFoundError("install the package as README or START_HERE says, and restart the kernel")
    if SOURCE.startswith("drive/"):
        sys.modules["google.colab"].drive.mount(str(Path("drive").absolute()))
    found = sorted(map(str, Path(SOURCE).glob("prilora_lite-*.whl")))[-1:] or [SOURCE] * bool(SOURCE)
    print("installing", *found or ["the file prilora_lite-{version}-py3-none-any.whl, which you choose now"])
    found = found or list(sys.modules["google.colab"].files.upload())
    if SOURCE[:6] in ("", "drive/") and "prilora_lite-" not in "".join(found):
        raise RuntimeError(f"found no prilora_lite-*.whl, only {{found}}: choose it, and run this cell again")
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *found], check=True)
version = importlib.import_module("prilora_lite").__version__
print("prilora-lite is here:", version, *["(this notebook was made with {version})"] * (version != "{version}"))
"""

# Eighteen lines about Colab are no way to begin a page: folded in the book (tags, mystnb) and in JupyterLab (jupyter)
_FOLDED_SETUP = {
    "tags": ["setup", "hide-input"],
    "jupyter": {"source_hidden": True},
    "mystnb": {"code_prompt_show": "Set-up cell", "code_prompt_hide": "Set-up cell"},
}


def check_no_answers(copies: Mapping[Path, Path]) -> None:
    """Raise ValueError if a notebook would be written over one in whose exercises somebody has written.

    Args:
        copies: file -> where it goes.
    """
    for file, place in copies.items():
        if file.suffix != ".ipynb" or not place.is_file():
            continue
        try:
            answered = _stubs(place) - _stubs(file)
        except (ValueError, KeyError, AttributeError):  # whatever it is, it is no copy of ours
            answered = {""}
        if answered:
            raise ValueError(
                f"{place} may hold somebody's answers (exercises that differ from what is handed out: "
                f"{len(answered)}): give another folder, or move that notebook away first"
            )


def _stubs(path: Path) -> set[str]:
    """The cells of a notebook that learners write in."""
    cells = nbformat.read(path, as_version=4).cells
    return {
        cell.source
        for cell in cells
        if "exercise" in cell.metadata.get("tags", []) or cell.metadata.get("nbgrader", {}).get("solution")
    }


class _Client(NotebookClient):
    """Executes without following widgets, whose Output kind makes the plain client hang now and then."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.widget_registry = {}

    def clear_output(self, *args: Any, **kwargs: Any) -> None:
        """Keep what is there: an output is never replaced in a committed notebook."""


def setup_cell(repository: str = REPOSITORY) -> str:
    """The source of the set-up cell."""
    source = f"git+https://github.com/{repository}" if repository else ""
    return _SETUP.format(source=source, version=version("prilora-lite")).rstrip("\n")


def badge(path: Path, repository: str = REPOSITORY) -> str:
    """Markdown of the link that opens a notebook in Colab; empty while there is no repository to open it from."""
    if not repository:
        return ""
    target = f"https://colab.research.google.com/github/{repository}/blob/main/notebooks/{path.name}"
    return f"[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({target})"


def prepare(notebook: NotebookNode, path: Path, repository: str = REPOSITORY) -> None:
    """Write set-up cell and badge into a notebook, number its cells, and drop what pages and readers stumble over.

    Raises:
        ValueError: the notebook has not one code cell tagged ``setup``.
    """
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    setups = [cell for cell in code if "setup" in cell.metadata.get("tags", [])]
    if len(setups) != 1:
        raise ValueError(f"{path.name} needs one code cell tagged 'setup', it has {len(setups)}")
    setups[0].source = setup_cell(repository)
    setups[0].metadata.update(nbformat.from_dict(_FOLDED_SETUP))
    cells = [cell for cell in notebook.cells if "badge" not in cell.metadata.get("tags", [])]
    if badge(path, repository):
        cells.insert(0, nbformat.v4.new_markdown_cell(badge(path, repository), metadata={"tags": ["badge"]}))
    notebook.nbformat_minor = max(5, notebook.nbformat_minor)  # below, as Colab saves it, cells have no ids
    for number, cell in enumerate(cells):
        cell.id = f"cell-{number:02}"
        cell.metadata.pop("execution", None)
    _fold_answers(cells)
    notebook.cells = cells
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )


def _fold_answers(cells: list[NotebookNode]) -> None:
    """Fold what answers a prediction: the outputs below its question, but for widgets, which are there to be moved.

    JupyterLab unfolds an output when its cell is run. Until then it shows the first line of the first output, so an
    empty one stands before it: it goes when the cell is run, and holds nothing that nbval would compare.
    """
    nothing = nbformat.v4.new_output("display_data", {})
    asked = False
    for cell in cells:
        if cell.cell_type == "markdown":
            asked = "**predict" in cell.source.lower()
            continue
        cell.outputs = [output for output in cell.outputs if output != nothing]
        answers = asked and bool(cell.outputs) and "explore_" not in cell.source
        tags = [tag for tag in cell.metadata.pop("tags", []) if tag != "hide-output"] + ["hide-output"] * answers
        lab = dict(cell.metadata.pop("jupyter", {})) | {"outputs_hidden": answers}
        lab = {name: hidden for name, hidden in lab.items() if hidden}
        cell.metadata.update(nbformat.from_dict({"tags": tags} if tags else {}))
        cell.metadata.update(nbformat.from_dict({"jupyter": lab} if lab else {}))
        cell.outputs = [nothing] * answers + cell.outputs


def execute(path: str | Path, repository: str = REPOSITORY) -> float:
    """Run a notebook from top to bottom and save it with its outputs, and in its head the seconds that it took.

    Returns:
        Seconds.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed; the file is left as it was.
        ValueError: the file is not a notebook, or was saved by another program in the meantime; nothing is lost then.
    """
    path = Path(path)
    before = path.read_bytes()
    notebook = _read(path)
    prepare(notebook, path, repository)
    with tempfile.TemporaryDirectory(prefix="prilora-") as folder:  # what a page writes beside itself goes with it
        client = _Client(
            notebook, timeout=300, record_timing=False, store_widget_state=False,
            resources={"metadata": {"path": folder}},
            extra_arguments=["--IPKernelApp.log_level=ERROR"],  # else each kernel warns of its own transport
        )  # fmt: skip
        started = time.time()
        client.execute()
        seconds = time.time() - started
    prepare(notebook, path, repository)  # executing leaves traces in the metadata
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = _settled(cell.outputs)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = re.sub(r"runs in \d+ s\b", f"runs in {seconds:.0f} s", cell.source, count=1)
    text = nbformat.writes(notebook) + "\n"
    if path.read_bytes() != before:
        part = path.with_suffix(".part")
        write_whole(part, text.encode())
        raise ValueError(f"{path} was saved while it ran and stays as it is; what was executed lies in {part}")
    write_whole(path, text.encode())
    return seconds


def stale(path: str | Path, repository: str = REPOSITORY) -> Iterator[str]:
    """What keeps a notebook from being as :func:`execute` leaves it."""
    path = Path(path)
    before, after = _read(path), _read(path)
    prepare(after, path, repository)
    if before != after:
        yield f"{path}: set-up cell, badge or metadata differ"
    if not all(cell.execution_count for cell in after.cells if cell.cell_type == "code" and cell.source.strip()):
        yield f"{path}: a cell was not executed"


def _settled(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Outputs that are the same after every run: text printed in pieces joined, identities of live widgets left out.

    A widget without its state is an error on the page of a notebook that is opened, not run; its picture is not.
    """
    settled: list[NotebookNode] = []
    for output in outputs:
        if output.output_type == "stream" and settled and settled[-1].get("name") == output.name:
            settled[-1].text += output.text
            continue
        output.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None)
        settled.append(output)
    return settled


def _read(path: Path) -> NotebookNode:
    try:
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
    except (ValueError, KeyError, AttributeError, nbformat.ValidationError) as error:
        first = str(error).strip().split("\n")[0]
        raise ValueError(f"{path} is not a notebook that can be read: {type(error).__name__}: {first}") from error
    return notebook
