"""What a learner handed in, on the pages where a teacher marks it: nbgrader's formgrader in a real browser."""

import os
import re
import shutil
import socket
import subprocess
import sys

import pytest

from tests.assignments.hostile_folders import A, hand_in
from tests.assignments.submissions import COURSE
from tests.browser.test_in_jupyterlab import wait_for

nbgrader = pytest.importorskip("nbgrader.api", reason="needs nbgrader: pip install '.[classroom]'")

from prilora_lite.teaching import grading, sandbox  # noqa: E402
from prilora_lite.teaching.gradebook import database  # noqa: E402

try:
    sandbox.require()
    lacks = ""
except ValueError as error:
    lacks = str(error)
pytestmark = pytest.mark.skipif(bool(lacks), reason=lacks)


@pytest.fixture
def course(tmp_path):
    course = tmp_path / "course"
    shutil.copytree(COURSE, course, ignore=shutil.ignore_patterns("gradebook.db", "submitted", "autograded", "grades"))
    hand_in(course, "page")
    grading.grade(A, course)
    return course


@pytest.fixture
def server(course, tmp_path):
    """Address of a Jupyter server in the course's folder, as the guide says to start it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    places = ("JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR", "IPYTHONDIR")
    environment = os.environ | {name: str(tmp_path / name.lower()) for name in places}
    options = [
        "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}", "--ServerApp.port_retries=0",
        "--IdentityProvider.token=",
    ]  # fmt: skip
    with open(tmp_path / "log", "wb") as log:
        command = [sys.executable, "-m", "jupyter_server", *options]
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT, cwd=course)
        try:
            wait_for(f"http://127.0.0.1:{port}/api", process, tmp_path / "log")
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait()


def test_in_the_formgrader_nothing_of_a_learners_runs(browser, course, server):
    with nbgrader.Gradebook(database(course)) as gradebook:
        (submission,) = gradebook.assignment_submissions(A)
        page = f"{server}/formgrader/submissions/{submission.notebooks[0].id}/"
    tab, asked = browser.new_page(), []
    tab.on("request", lambda request: asked.append(request.url))
    tab.route(re.compile(r"^https?://(?!127\.)"), lambda route: route.abort())
    tab.goto(page)
    notebook = tab.locator("div#notebook")
    assert notebook.get_by_text("a cell", exact=True).count() == 1, "the learner's table is not shown"
    for link in notebook.locator("a:visible").filter(has_text=re.compile("click|^x$")).all():
        link.click(timeout=5_000)
    assert tab.title() == A
    assert notebook.locator("script, iframe, svg, object, embed, form").count() == 0
    names = notebook.locator("*").evaluate_all("all => all.flatMap(e => e.getAttributeNames())")
    assert not [name for name in names if name.startswith("on")]
    tab.close()
    assert not [url for url in asked if not url.startswith((server, "data:", "https://cdnjs.cloudflare.com/"))]
