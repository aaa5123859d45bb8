"""The set-up cell in an environment without the package: elsewhere it says what to do, on Colab it installs."""

import pytest

from prilora_lite.teaching.notebook_files import setup_cell
from tests.environments import call, fresh
from tests.notebooks.test_form import PATHS, cells


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """Python of an environment with the dependencies, without the package."""
    return fresh(tmp_path_factory.mktemp("bare"))[0]


@pytest.fixture
def colab(tmp_path_factory):
    """Python of such an environment that believes to be on Colab."""
    python, site = fresh(tmp_path_factory.mktemp("colab"))
    (site / "google" / "colab").mkdir(parents=True)
    (site / "google" / "colab" / "__init__.py").touch()
    (site / "sitecustomize.py").write_text("import google.colab\n", encoding="utf-8")
    return python


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_it_is_the_same_in_every_notebook(path):
    (setup,) = cells(path, "code", "setup")
    assert setup.source == setup_cell()


def test_without_the_package_it_says_how_to_install(bare, tmp_path):
    said = call(bare, "-c", setup_cell(), cwd=tmp_path, check=False)
    assert "ModuleNotFoundError: run `pip install -r requirements.txt`" in said


def test_on_colab_without_a_source_it_says_what_to_set(colab, tmp_path):
    said = call(colab, "-c", setup_cell(repository=""), cwd=tmp_path, check=False)
    assert 'RuntimeError: set SOURCE above to "git+https://' in said


def test_on_colab_with_a_source_it_installs_and_goes_on(colab, wheel, tmp_path):
    source = setup_cell(repository="").replace('SOURCE = ""', f"SOURCE = {str(wheel)!r}")
    assert "prilora-lite is here:" in call(colab, "-c", source, cwd=tmp_path, PIP_NO_INDEX="1")
