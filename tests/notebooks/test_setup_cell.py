"""The set-up cell in an environment without the package: elsewhere it says what to do, on Colab it installs."""

import re
import shutil

import pytest

from prilora_lite.teaching.notebook_files import setup_cell
from tests.environments import call, fresh
from tests.notebooks.test_form import PATHS, cells

STAND_IN = """
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import google.colab


def upload():
    chosen = Path("chosen")
    names = [file.name for file in chosen.iterdir()] if chosen.is_dir() else []
    for name in names:
        shutil.copy(chosen / name, name)
    return {name: b"" for name in names}


google.colab.files = SimpleNamespace(upload=upload)
google.colab.drive = SimpleNamespace(mount=lambda place: shutil.copytree("cloud", Path(place) / "MyDrive"))
"""


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """Python of an environment with the dependencies, without the package."""
    return fresh(tmp_path_factory.mktemp("bare"))[0]


@pytest.fixture
def colab(tmp_path_factory):
    """Python of such an environment that believes to be on Colab.

    Its dialog chooses what lies in the folder ``chosen``, and its Drive holds what lies in the folder ``cloud``.
    """
    python, site = fresh(tmp_path_factory.mktemp("colab"))
    (site / "google" / "colab").mkdir(parents=True)
    (site / "google" / "colab" / "__init__.py").touch()
    (site / "sitecustomize.py").write_text(STAND_IN, encoding="utf-8")
    return python


def put(file, folder, name=None):
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(file, folder / (name or file.name))


def run(python, folder, source="", check=True):
    cell = setup_cell(repository="").replace('SOURCE = ""', f"SOURCE = {source!r}")
    return call(python, "-c", cell, cwd=folder, check=check, PIP_NO_INDEX="1")


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_it_is_the_same_in_every_notebook(path):
    (setup,) = cells(path, "code", "setup")
    assert setup.source == setup_cell()


def test_without_the_package_it_says_how_to_install(bare, tmp_path):
    said = call(bare, "-c", setup_cell(), cwd=tmp_path, check=False)
    assert "ModuleNotFoundError: install the package as README or START_HERE says" in said


def test_on_colab_a_source_that_is_set_comes_first(colab, wheel, tmp_path):
    put(wheel, tmp_path / "elsewhere")
    (tmp_path / "prilora_lite-0.0.1-py3-none-any.whl").write_bytes(b"not what is set")
    said = run(colab, tmp_path, str(tmp_path / "elsewhere" / wheel.name))
    assert f"installing {tmp_path / 'elsewhere' / wheel.name}" in said
    assert "prilora-lite is here:" in said


def test_on_colab_it_installs_the_wheel_beside_the_notebook(colab, wheel, tmp_path):
    put(wheel, tmp_path)
    said = run(colab, tmp_path).splitlines()
    assert said == [f"installing {wheel.name}", f"prilora-lite is here: {wheel.name.split('-')[1]}"]


def test_on_colab_it_installs_the_wheel_in_a_named_folder_of_drive(colab, wheel, tmp_path):
    put(wheel, tmp_path / "cloud" / "my course")
    said = run(colab, tmp_path, "drive/MyDrive/my course")
    assert f"installing drive/MyDrive/my course/{wheel.name}" in said
    assert "prilora-lite is here:" in said


def test_on_colab_a_folder_of_drive_without_the_wheel_is_named(colab, tmp_path):
    (tmp_path / "cloud").mkdir()
    said = run(colab, tmp_path, "drive/MyDrive/course", check=False)
    assert "RuntimeError: found no prilora_lite-*.whl, only ['drive/MyDrive/course']" in said


def test_on_colab_without_a_wheel_it_asks_for_it(colab, wheel, tmp_path):
    put(wheel, tmp_path / "chosen")
    said = run(colab, tmp_path)
    assert re.search(r"installing the file prilora_lite-\S+\.whl, which you choose now", said)
    assert "prilora-lite is here:" in said


def test_on_colab_another_file_than_the_wheel_is_named(colab, tmp_path):
    (tmp_path / "chosen").mkdir()
    (tmp_path / "chosen" / "homework.pdf").touch()
    said = run(colab, tmp_path, check=False)
    assert "RuntimeError: found no prilora_lite-*.whl, only ['homework.pdf']: choose it, and run this cell" in said


def test_on_colab_a_dialog_that_is_cancelled_is_said(colab, tmp_path):
    assert "RuntimeError: found no prilora_lite-*.whl, only []" in run(colab, tmp_path, check=False)


def test_on_colab_a_wheel_of_another_version_is_named(colab, wheel, tmp_path):
    version = wheel.name.split("-")[1]
    put(wheel, tmp_path)
    cell = setup_cell(repository="").replace(version, "9.9")
    said = call(colab, "-c", cell, cwd=tmp_path, PIP_NO_INDEX="1")
    assert f"prilora-lite is here: {version} (this notebook was made with 9.9)" in said
