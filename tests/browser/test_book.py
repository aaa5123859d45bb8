"""The book: built without a network, small, whole, and its sliders move in a real browser where no kernel is."""

import base64
import io
import json
import re
import sys
import threading
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urldefrag

import nbformat
import numpy as np
import pytest
from PIL import Image

from tests.environments import call

ROOT = Path(__file__).parent.parent.parent
NO_NETWORK = """
import socket


def refuse(*args):
    raise OSError("this test allows no network")


socket.socket.connect = socket.getaddrinfo = refuse
"""
WITH_SLIDERS = ("01_lora_from_scratch", "03_rank_schedule", "04_what_is_important", "05_pruning_during_training")
WITH_SLIDERS += ("08_ablation",)
MEGABYTE = 2**20


@pytest.fixture(scope="session")
def book(tmp_path_factory):
    """Folder of the built book; a warning of Sphinx is a failure."""
    for package in ("sphinx", "myst_nb", "furo", "ziamath"):
        pytest.importorskip(package, reason="pip install '.[docs]'")
    folder = tmp_path_factory.mktemp("book")
    (folder / "offline").mkdir()
    (folder / "offline" / "sitecustomize.py").write_text(NO_NETWORK, encoding="utf-8")
    places = f"{folder / 'offline'}{':' if sys.platform != 'win32' else ';'}{ROOT}"
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "-b", "html", ROOT / "docs", folder / "html"]
    call(*command, "-d", folder / "trees", cwd=folder, PYTHONPATH=places, HF_HUB_OFFLINE="1")
    return folder / "html"


class Page(HTMLParser):
    """What a page links to, loads, and offers as a target."""

    def __init__(self, path):
        super().__init__()
        self.path, self.links, self.loads, self.ids, self.pictures = path, [], [], set(), []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.ids |= {given.get("id"), given.get("name") if tag == "a" else None}
        if tag in ("a", "area"):
            self.links.append(given.get("href") or "")
        elif tag == "link" and given.get("rel") in ("stylesheet", "icon", "preload", "shortcut icon"):
            self.loads.append(given["href"])
        elif "src" in given:
            self.loads.append(given["src"])
        if tag == "img":
            self.pictures.append(given)


@pytest.fixture(scope="session")
def pages(book):
    return {path: Page(path) for path in book.rglob("*.html")}


def sliders(book, name):
    """What the script of a notebook's page reads."""
    text = (book / "notebooks" / f"{name}.html").read_text(encoding="utf-8")
    return [json.loads(data) for data in re.findall(r'<script type="application/json">(.*?)</script>', text)]


def test_it_has_a_page_for_every_notebook_assignment_and_text(pages, book):
    wanted = {
        *(ROOT / "notebooks").rglob("0*.ipynb"),
        *(ROOT / "notebooks" / "assignments" / "release").rglob("*.ipynb"),
    }
    wanted |= {*(ROOT / "docs").glob("*.md"), *(ROOT / "results").glob("*.md"), ROOT / "README.md"}
    assert {book / path.relative_to(ROOT).with_suffix(".html") for path in wanted} <= pages.keys()


def test_no_link_within_it_is_dead(pages, book):
    followed = 0
    for path, page in pages.items():
        for link in [*page.links, *page.loads]:
            if re.match(r"[a-z]+:", link):
                continue
            name, anchor = urldefrag(unquote(link))
            target = (path.parent / name.split("?")[0]).resolve() if name else path
            assert target.is_file(), f"{path.relative_to(book)}: {link}"
            if anchor and target in pages:
                assert anchor in pages[target].ids, f"{path.relative_to(book)}: {link}"
            followed += 1
    assert followed > 1000


def test_nothing_on_its_pages_comes_from_elsewhere(pages):
    loaded = [link for page in pages.values() for link in page.loads]
    assert len(loaded) > 100
    assert [link for link in loaded if re.match(r"(?:[a-z]+:)?//", link)] == []


def test_its_pictures_have_a_text(pages):
    pictures = [picture for path, page in pages.items() if "notebooks" in path.parts for picture in page.pictures]
    assert len(pictures) > 20
    assert [picture["src"] for picture in pictures if len(picture.get("alt") or "") < 15] == []


def test_it_is_small(pages, book):
    assert sum(path.stat().st_size for path in book.rglob("*") if path.is_file()) <= 40 * MEGABYTE
    for path, page in pages.items():
        own = {(path.parent / link.split("?")[0]).resolve() for link in page.loads if not link.startswith("data:")}
        own |= {path, *(book / "_sliders" / path.stem).glob("*.png")}
        assert sum(file.stat().st_size for file in own) <= 4 * MEGABYTE, path


@pytest.mark.parametrize("name", WITH_SLIDERS)
def test_a_slider_has_a_picture_or_a_reason_for_each_state(book, name):
    (slider,) = sliders(book, name)
    shown = [picture for picture, _ in slider["states"] if picture]
    assert len(set(shown)) > 10
    for picture, text in slider["states"]:
        assert (book / "notebooks" / slider["folder"] / picture).is_file() if picture else "Not possible" in text


@pytest.mark.parametrize("name", WITH_SLIDERS)
def test_a_slider_begins_with_the_picture_that_the_notebook_was_committed_with(pages, book, name):
    """So what is drawn for the book is computed from what the notebook computes."""
    page = pages[book / "notebooks" / f"{name}.html"]
    (source,) = [picture["src"] for picture in page.pictures if picture.get("class") == "slider-picture"]
    now = np.asarray(Image.open(book / "notebooks" / source).convert("RGB"), dtype=float)
    notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    (cell,) = [cell for cell in notebook.cells if re.search(r"import explore_", cell.source)]
    (committed,) = [output.data["image/png"] for output in cell.outputs if "data" in output]
    then = np.asarray(Image.open(io.BytesIO(base64.b64decode(committed))).convert("RGB"), dtype=float)
    assert now.shape == then.shape
    assert np.abs(now - then).mean() < 4  # of 255: a palette and another processor are less, another curve is more


def test_what_a_cell_prints_stays_above_its_slider(book):
    page = (book / "notebooks" / "08_ablation.html").read_text(encoding="utf-8")
    assert page.index("pocket-cola: means minus") < page.index('class="slider-picture"')


@pytest.fixture(scope="session")
def address(book):
    """Of the book on a local server."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=book)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def visit(browser, address):
    """Open a page in a browser that reaches nothing but the book; at the end, nothing else must have been asked for."""
    context = browser.new_context(viewport={"width": 1280, "height": 1000})
    context.set_default_timeout(60_000)
    asked, errors = [], []

    def answer(route):
        asked.append(route.request.url)
        route.continue_() if route.request.url.startswith((f"{address}/", "data:")) else route.abort()

    def open_page(path):
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(f"{address}/{path}")
        return page

    context.route("**/*", answer)
    yield open_page
    context.close()
    assert asked
    assert [url for url in asked if not url.startswith((f"{address}/", "data:"))] == []
    assert errors == []


class Slider:
    """A slider of the book, by the words of its label."""

    def __init__(self, page, label):
        self.control = page.get_by_role("slider", name=label).or_(page.get_by_role("combobox", name=label))
        self.box = page.locator(".slider").filter(has=self.control)
        self.text, self.picture = self.box.locator(".slider-text"), self.box.locator("img")

    def press(self, key):
        """Returns text, value, address and text of the picture, once the picture is there."""
        self.control.press(key)
        self.picture.evaluate("image => image.decode()")
        named = [self.picture.get_attribute(name) for name in ("src", "alt")]
        return self.text.inner_text(), self.control.get_attribute("aria-valuetext"), *named


def test_the_rank_slope_moves_ranks_and_picture(visit):
    slope = Slider(visit("notebooks/03_rank_schedule.html"), "slope")
    before = slope.press("ArrowRight"), slope.press("ArrowLeft")
    assert [said[1] for said in before] == ["10", "8"]
    assert "[4, 5, 5, 6, 7, 8, 8, 9, 10, 11, 11, 12], sum 96" in before[1][0]
    assert "[3, " in before[0][0]
    assert "sum 96" in before[0][0]
    assert before[0][2] != before[1][2]
    assert "sum 96" in before[1][3]


def test_a_slope_that_a_mean_rank_has_no_room_for_says_so_and_keeps_the_picture(visit):
    page = visit("notebooks/03_rank_schedule.html")
    mean = Slider(page, "mean rank")
    before = mean.picture.get_attribute("src")
    text, value, picture, _ = mean.press("Home")
    assert value == "2"
    assert "Not possible" in text
    assert picture == before


def test_the_pruning_ratio_moves_through_the_recorded_runs(visit):
    ratio = Slider(visit("notebooks/05_pruning_during_training.html"), "pruning ratio")
    assert "50% zeros at the end" in ratio.text.inner_text()
    before = ratio.picture.get_attribute("src")
    text, value, picture, alt = ratio.press("ArrowRight")
    assert value == "0.75"
    assert "75% zeros at the end" in text
    assert "75% zeros at the end" in alt
    assert picture != before


def test_slope_and_ratio_move_through_the_stored_grid(visit):
    page = visit("notebooks/08_ablation.html")
    slope, ratio = Slider(page, "slope"), Slider(page, "pruning ratio")
    at_default, pictures = slope.text.inner_text(), {slope.picture.get_attribute("src")}
    assert "pocket-rte" in at_default
    pictures |= {slope.press("ArrowLeft")[2], ratio.press("ArrowRight")[2], ratio.press("ArrowLeft")[2]}
    assert slope.press("ArrowRight")[0] == at_default
    assert len(pictures) == 3


def test_a_list_of_rules_can_be_chosen_from_by_keyboard(visit):
    page = visit("notebooks/04_what_is_important.html")
    rule = Slider(page, "importance rule")
    before = rule.picture.get_attribute("src")
    assert rule.press("ArrowDown")[2] != before


def test_equations_are_drawn_and_can_be_heard(visit):
    page = visit("notebooks/03_rank_schedule.html")
    equation = page.locator("div.math").first
    drawn = equation.locator("svg path").first.bounding_box()
    assert drawn["width"] > 2
    assert "<mfrac>" in equation.locator("math").evaluate("equation => equation.innerHTML")
    assert "$$" not in page.locator("article").inner_text()


def test_the_search_finds_a_notebook(visit):
    page = visit("search.html?q=churn")
    page.locator("#search-results a", has_text="05 Pruning during training").first.wait_for()


def test_its_address_leads_to_its_first_page(visit):
    page = visit("")
    page.wait_for_url("**/docs/index.html")
