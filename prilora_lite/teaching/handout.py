"""What learners get in one folder: notebooks or assignments, the package, and a page that says how to begin."""

from __future__ import annotations

import html
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import nbformat

from prilora_lite.shared.files import write_whole
from prilora_lite.teaching.notebook_files import check_no_answers

_PAGE = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Start here</title>
<style>
  :root {{ color-scheme: light dark; font: 1.1rem/1.5 system-ui, sans-serif; }}
  body {{ max-width: 42rem; margin: 2rem auto; padding: 0 1rem; }}
  code {{ font-size: 0.95em; overflow-wrap: anywhere; }}
</style>
<h1>Start here</h1>
<p>This folder holds:</p>
<ul>
{files}
<li><code>{wheel}</code>: the package that they need</li>
</ul>
<h2>In a browser, on Colab</h2>
<ol>
<li>Open <a href="https://colab.research.google.com">colab.research.google.com</a>, and upload a notebook.</li>
<li>Run its first cell with code. It asks for a file: choose <code>{wheel}</code>.</li>
</ol>
<p>To be asked no more, put that file into a folder of your Google Drive, and write the folder into the cell:
<code>SOURCE = "drive/MyDrive/NAME"</code>. What you are to hand in, download with
<em>File &gt; Download &gt; Download .ipynb</em>; files that a notebook writes, such as <code>runs.jsonl</code>, are in
the <em>Files</em> panel on the left.</p>
<h2>On a computer of your own</h2>
<p>You need Python 3.11 to 3.13. In this folder:</p>
<pre><code>pip install "./{wheel}[lab]"
jupyter lab</code></pre>
</html>
"""


def write(kind: str, output: Path, course: Path, zipped: bool = False) -> list[Path]:
    """Write a hand-out; one of another version is replaced.

    Args:
        kind: ``notebooks`` or ``assignments``.
        output: the folder to write.
        course: where the assignments are.
        zipped: also pack the folder into one file beside it.

    Returns:
        What was written.

    Raises:
        ValueError: this is not the repository's folder, the wheel can't be built, or there is a notebook of that name
            in which somebody has written; nothing is written then.
        OSError: a file can't be written.
    """
    output = output.resolve()
    for ours in (Path.cwd(), course.resolve()):
        if ours.is_relative_to(output):
            raise ValueError(f"--output {output} holds {ours}: give a folder of its own, such as handout")
    with tempfile.TemporaryDirectory(prefix="prilora-") as made:
        wheel = _wheel(Path(made))
        notebooks = sorted(Path("notebooks").glob("*.ipynb"))
        if kind == "assignments":
            notebooks = _assignments(Path(made), course)
        check_no_answers({path: output / path.name for path in notebooks})
        for old in output.glob("prilora_lite-*.whl"):
            old.unlink()
        written = [output / path.name for path in (*notebooks, wheel)]
        for path, target in zip((*notebooks, wheel), written, strict=True):
            write_whole(target, path.read_bytes())
        page = _PAGE.format(files="\n".join(map(_entry, notebooks)), wheel=wheel.name)
    written.append(output / "START_HERE.html")
    write_whole(written[-1], page.encode())
    if zipped:
        written.append(output.with_name(f"{output.name}.zip"))
        with zipfile.ZipFile(written[-1], "w", zipfile.ZIP_DEFLATED) as archive:
            for path in written[:-1]:  # whatever else lies in the folder is not for learners
                archive.write(path, path.relative_to(output.parent))
    return written


def _wheel(folder: Path) -> Path:
    if not Path("pyproject.toml").is_file():
        raise ValueError("there is no pyproject.toml here: run this in the repository's folder")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8")
    if done.returncode:
        raise ValueError(f"the wheel could not be built: {done.stderr.strip() or done.stdout.strip()}")
    (wheel,) = folder.glob("*.whl")
    return wheel


def _assignments(folder: Path, course: Path) -> list[Path]:
    from prilora_lite.teaching import grading

    return grading.release(folder, course)


def _entry(notebook: Path) -> str:
    title = nbformat.read(notebook, as_version=4).cells[0].source.split("\n")[0].lstrip("# ")
    return f"<li><code>{notebook.name}</code>: {html.escape(title)}</li>"
