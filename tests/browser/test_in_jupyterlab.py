"""The notebooks in a real JupyterLab and a real browser: sliders move figures and numbers, the train button trains."""

import base64
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parent.parent.parent
MINUTE = 60_000
# Cells are chosen by a piece of their text, all by none. JupyterLab's own commands, as its menu gives them.
RUN = """async shows => {
    const panel = window.jupyterapp.shell.currentWidget, commands = window.jupyterapp.commands;
    await panel.context.ready;
    await panel.sessionContext.ready;
    const cells = panel.content.model.sharedModel.cells;
    if (shows.length === 0) await commands.execute('notebook:run-all-cells');
    else for (const [place, cell] of cells.entries()) {
        if (cell.cell_type !== 'code' || !shows.some(text => cell.source.includes(text))) continue;
        panel.content.activeCellIndex = place;
        await commands.execute('notebook:run-cell');
    }
    return cells.flatMap(cell => cell.toJSON().outputs ?? []).filter(output => output.output_type === 'error');
}"""
SHUT_DOWN = "async () => await window.jupyterapp.shell.currentWidget.sessionContext.shutdown()"

playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")


def wait_for(address, process, log):
    """Until the server answers; it has a minute, and must not have ended."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for _ in range(300):
        try:
            return direct.open(address, timeout=5).read()
        except OSError:
            try:
                process.wait(timeout=0.2)
            except subprocess.TimeoutExpired:
                continue
            break
    raise AssertionError(log.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Address of a JupyterLab of its own over a copy of the notebooks."""
    folder = tmp_path_factory.mktemp("lab")
    (folder / "work").mkdir()
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        shutil.copy(path, folder / "work")
    for plugin, settings in {
        "notebook-extension/tracker": {"windowingMode": "none"},  # all cells stay in the page
        "apputils-extension/notification": {"fetchNews": "false"},
    }.items():
        file = folder / "settings" / "@jupyterlab" / f"{plugin}.jupyterlab-settings"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps(settings), encoding="utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    places = ("JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR", "IPYTHONDIR")
    environment = os.environ | {name: str(folder / name.lower()) for name in places}
    options = [
        "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}", "--ServerApp.port_retries=0",
        "--IdentityProvider.token=", "--expose-app-in-browser", f"--LabApp.user_settings_dir={folder / 'settings'}",
        f"--LabApp.workspaces_dir={folder / 'workspaces'}", f"--ServerApp.root_dir={folder / 'work'}",
    ]  # fmt: skip
    address = f"http://127.0.0.1:{port}"
    with open(folder / "log", "wb") as log:
        command = [sys.executable, "-m", "jupyterlab", *options]
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT, cwd=folder)
        try:
            wait_for(f"{address}/api", process, folder / "log")
            yield address
        finally:
            process.terminate()
            process.wait()


def write(page, answer):
    """Type an answer over the stub of its function, as a learner does."""
    (head,) = re.findall(r"^def \w+\(.*\):$", answer, re.M)
    stub = page.locator(".jp-CodeCell .cm-content", has_text=head).filter(has_text="raise NotImplementedError")
    editor = stub.element_handle()
    editor.click()
    page.keyboard.press("Control+A")
    page.keyboard.insert_text(answer)
    playwright.expect(stub).to_have_count(0)
    assert editor.inner_text().split() == answer.split()


def solutions(name):
    """The solution of each piece on a page, and the name of its function."""
    found = {}
    cells = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4).cells
    for place, cell in enumerate(cells):
        if "piece" in cell.metadata.get("tags", []):
            (answer,) = re.findall(r"```python\n(.*?)```", cells[place + 2].source, flags=re.S)
            found[re.search(r"def (\w+)\(", answer).group(1)] = answer
    return found


@pytest.fixture(scope="module")
def notebook(browser, server):
    """Open a notebook by its name, write some answers into it, and run its cells, all or those that hold one of some
    texts; gives the page."""
    pages = []

    def open_and_run(name, answers=(), cells=()):
        page = browser.new_page(viewport={"width": 1280, "height": 1000})
        pages.append(page)
        page.set_default_timeout(2 * MINUTE)
        page.goto(f"{server}/lab/tree/{name}.ipynb?reset")
        page.wait_for_selector(".jp-NotebookPanel .jp-CodeCell")
        page.wait_for_function("window.jupyterapp?.shell?.currentWidget?.sessionContext?.isReady")
        for answer in answers:
            write(page, answer)
        assert page.evaluate(RUN, list(cells)) == []
        return page

    yield open_and_run
    for page in pages:
        page.evaluate(SHUT_DOWN)
        page.close()


@pytest.fixture(scope="module")
def schedule(notebook):
    """The page of the rank schedule, with its widget and the answer to one of its predictions."""
    return notebook("03_rank_schedule", cells=["explore_schedule", "line = [2 + "])


class Widget:
    """One slider of a widget, with the text and the picture below it."""

    def __init__(self, page, label):
        self.page = page
        self.slider = page.locator(".widget-slider").filter(has=page.locator(".widget-label", has_text=label))
        self.handle = self.slider.locator(".noUi-handle").first
        self.handle.wait_for()
        self.box = page.locator(".widget-vbox").filter(has=self.slider).first
        self.image = self.box.locator("img.widget-image").first

    def text(self):
        return self.box.locator(".widget-html-content").first.inner_text()

    def press(self, key):
        """Move the slider with the keyboard, and wait until text and picture have changed."""
        text, picture = self.text(), self.image.get_attribute("src")
        self.handle.focus()
        self.handle.press(key)
        playwright.expect(self.box.locator(".widget-html-content").first).not_to_have_text(text)
        playwright.expect(self.image).not_to_have_attribute("src", picture)


def test_the_rank_slope_moves_ranks_and_figure(schedule):
    slope = Widget(schedule, "slope")
    assert "[4, 5, 5, 6, 7, 8, 8, 9, 10, 11, 11, 12], sum 96" in slope.text()
    slope.press("ArrowRight")
    assert slope.handle.get_attribute("aria-valuenow").startswith("10")
    assert "sum 96" in slope.text()
    assert "[4, 5, 5, 6, 7, 8, 8, 9, 10, 11, 11, 12]" not in slope.text()
    slope.press("ArrowLeft")
    screenshot = os.environ.get("PRILORA_SCREENSHOT")
    if screenshot:
        slope.box.screenshot(path=screenshot)


def test_ratio_moves_the_recorded_run_and_the_button_trains(notebook):
    page = notebook("05_pruning_during_training", cells=["explore_pruning", "train_with_pruning"])
    ratio = Widget(page, "pruning ratio")
    assert "50% zeros at the end" in ratio.text()
    ratio.press("ArrowRight")
    assert "75% zeros at the end" in ratio.text()
    page.get_by_role("button", name="Train").click()
    told = page.locator(".widget-html-content", has_text="trained just now")
    told.wait_for()
    assert "ratio 0.75, interval 20; 125 steps" in told.inner_text()
    bar = page.locator(".widget-hprogress .progress-bar").first
    assert bar.evaluate("bar => bar.style.width") == "100%"
    assert page.get_by_role("button", name="Train").is_enabled()


def test_the_picture_that_a_widget_shows_is_a_png(schedule):
    source = Widget(schedule, "slope").image.evaluate(
        "async image => { const bytes = new Uint8Array(await (await fetch(image.src)).arrayBuffer());"
        " return btoa(String.fromCharCode(...bytes.slice(0, 8))); }"
    )
    assert base64.b64decode(source) == b"\x89PNG\r\n\x1a\n"


def test_the_answer_to_a_prediction_is_folded_until_its_cell_is_run(schedule):
    ran, waits = (schedule.locator(".jp-CodeCell").filter(has_text=text) for text in ("line = [2 +", "math.floor"))
    playwright.expect(ran.get_by_text("sum 15.0")).to_be_visible()
    playwright.expect(waits.locator(".jp-OutputArea")).to_be_hidden()
    playwright.expect(waits.locator(".jp-OutputPlaceholder")).to_be_visible()
    playwright.expect(waits.locator(".jp-OutputPlaceholder")).to_have_text("")
    waits.locator(".jp-OutputPlaceholder").click()
    playwright.expect(waits.locator(".jp-OutputArea pre")).to_contain_text("to the nearest")


LONG = ("01_lora_from_scratch", "05_pruning_during_training")
LEARNERS = ["04_what_is_important", *(pytest.param(name, marks=pytest.mark.slow) for name in LONG)]


@pytest.mark.parametrize("name", LEARNERS)
def test_a_learner_who_writes_the_pieces_is_told_so_and_runs_to_the_end(notebook, name):
    written = solutions(name)
    page = notebook(name, written.values())
    for function in written:
        page.get_by_text(f"{function}: well done, and kept in my_prilora.py").wait_for()
    assert page.get_by_text("goes on with ours").count() == 0


def test_slope_and_ratio_move_through_the_stored_grid(notebook):
    page = notebook("08_ablation", cells=["grid = recordings", "explore_grid"])
    slope, ratio = Widget(page, "slope"), Widget(page, "pruning ratio")
    at_default = slope.text()
    assert "pocket-rte" in at_default
    slope.press("ArrowLeft")
    ratio.press("ArrowRight")
    ratio.press("ArrowLeft")
    slope.press("ArrowRight")
    assert slope.text() == at_default
