"""What a result was measured with."""

import shutil
import subprocess
from pathlib import Path

import pytest

import prilora_lite
from prilora_lite.experiments import environment

PACKAGE = Path(prilora_lite.__file__).parent


def git(folder, *command):
    names = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    return subprocess.run(["git", *names, *command], cwd=folder, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def package(tmp_path):
    """A folder with one committed file, in a repository."""
    if not shutil.which("git"):
        pytest.skip("needs git")
    folder = tmp_path / "repository" / "package"
    folder.mkdir(parents=True)
    (folder / "code.py").write_text("a = 1\n", encoding="utf-8")
    git(folder.parent, "init", "--quiet")
    git(folder.parent, "add", ".")
    git(folder.parent, "commit", "--quiet", "-m", "code")
    yield folder
    environment.commit_of.cache_clear()


def test_the_commit_is_the_last_one_that_changed_the_folder(package):
    commit = git(package, "rev-parse", "HEAD").strip()
    (package.parent / "page.md").write_text("words\n", encoding="utf-8")
    git(package.parent, "add", ".")
    git(package.parent, "commit", "--quiet", "-m", "words")
    assert commit.startswith(environment.commit_of(package))


def test_a_plus_says_that_the_folder_was_changed_since(package):
    (package / "code.py").write_text("a = 2\n", encoding="utf-8")
    assert environment.commit_of(package).endswith("+")


def test_a_folder_that_git_does_not_follow_has_no_commit(package, tmp_path):
    (package.parent / ".gitignore").write_text("venv\n", encoding="utf-8")
    installed = package.parent / "venv"  # inside the repository of some other project
    installed.mkdir()
    (installed / "code.py").write_text("a = 1\n", encoding="utf-8")
    assert environment.commit_of(installed) is None
    assert environment.commit_of(tmp_path) is None


def test_no_git_is_no_error(package, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert environment.commit_of(package) is None


def test_a_run_says_which_commit_it_was_made_with():
    said = environment.describe_environment("fp32", "cpu")
    assert said.get("commit") == environment.commit_of(PACKAGE)
    assert {"python", "torch", "machine", "precision"} <= said.keys()
