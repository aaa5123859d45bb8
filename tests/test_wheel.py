"""What is given away: the wheel in an environment of its own, with the network off, and the sdist beside the tree."""

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from prilora_lite.teaching import recordings
from tests.environments import call, fresh

ROOT = Path(__file__).parent.parent

NETWORK_OFF = """
import socket

def refuse(*args, **kwargs):
    raise OSError("the network is off")

socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
"""


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory):
    """Folder of programs of a fresh environment: the wheel alone, the dependencies lent by this one, no network."""
    folder = tmp_path_factory.mktemp("environment")
    python, site = fresh(folder)
    call(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=folder)
    (site / "sitecustomize.py").write_text(NETWORK_OFF, encoding="utf-8")
    where = call(python, "-c", "import prilora_lite; print(prilora_lite.__file__)", cwd=folder).strip()
    assert Path(where).is_relative_to(site)
    return python.parent


def test_the_wheel_holds_the_weights_and_no_tests(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert "prilora_lite/pocket/model/model.safetensors" in names
    assert "prilora_lite/pocket/model/README.md" in names
    assert "prilora_lite/teaching/recordings/pruning.jsonl" in names
    assert {name.split("/")[0] for name in names} == {"prilora_lite", "prilora_lite-0.1.0.dist-info"}


def test_the_network_is_off_in_the_fresh_environment(environment, tmp_path):
    code = "import socket; socket.create_connection(('127.0.0.1', 9))"
    with pytest.raises(AssertionError, match="the network is off"):
        call(environment / Path(sys.executable).name, "-c", code, cwd=tmp_path)


def test_the_first_command_runs_from_the_wheel_without_network(environment, tmp_path):
    """Shortened to a tenth of an epoch; everything else is what a user meets."""
    out = call(environment / "prilora-lite", "ablate", "--set", "epochs=0.1", cwd=tmp_path)
    assert "LoRA (r = 8)" in out
    assert "PRILoRA (4..12, pruned)" in out
    assert "jupyter lab" in out
    written = sorted(file.name for file in (tmp_path / "runs").iterdir())
    assert written == ["ablation.csv", "ablation.jsonl", "ablation.md", "ablation.png"]


def test_the_stored_studies_are_in_the_wheel(environment, tmp_path):
    code = "from prilora_lite import recordings as r; print(*(len(r.load_study(name)) for name in r.STUDIES))"
    rows = call(environment / Path(sys.executable).name, "-c", code, cwd=tmp_path).split()
    assert list(map(int, rows)) == [len(recordings.load_study(name)) for name in recordings.STUDIES]


# What lies about in a tree that is worked in: a course that is given, other environments, caches, work in progress
STRAY = (
    "notebooks/assignments/submitted/ann/a1_lora_layer/a1_lora_layer.ipynb", "notebooks/assignments/gradebook.db",
    "notebooks/assignments/grades/a1_lora_layer.jsonl", "notebooks/assignments/source/a4_ablation_report/runs.jsonl",
    "notebooks/.ipynb_checkpoints/03_rank_schedule-checkpoint.ipynb", "notebooks/03_rank_schedule.part",
    "prilora_lite/__pycache__/lora.cpython-311.pyc", "prilora_lite/pocket/model/.model.safetensors.1.part",
    "env/lib/site-packages/numpy/tests/test_numpy.py", "env/README.md", "tests/.pytest_cache/README.md",
    ".hypothesis/tests/example", "runs/ablation.jsonl", "notes.txt",
)  # fmt: skip


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """What git holds of this tree in a folder of its own, with stray files among it; and the names of what it holds."""
    if not (ROOT / ".git").exists():
        pytest.skip("needs a clone: git says what belongs to the project")
    folder = tmp_path_factory.mktemp("tree")
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, encoding="utf-8", check=True
    )
    names = [name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    for name in STRAY:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("stray", encoding="utf-8")
    return folder, set(names)


def build(kind, tree, folder):
    """The built distribution, "wheel" or "sdist", of a tree."""
    call(sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", folder, cwd=tree)
    (file,) = folder.iterdir()
    return file


@pytest.fixture(scope="module")
def sdist(tree, tmp_path_factory):
    """The sdist of the tree, unpacked."""
    file = build("sdist", tree[0], tmp_path_factory.mktemp("sdist"))
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(file) as archive:
        archive.extractall(folder, filter="data")
    return folder / "prilora_lite-0.1.0"


def test_the_sdist_holds_what_git_holds_and_nothing_that_lies_about(sdist, tree):
    held = {path.relative_to(sdist).as_posix() for path in sdist.rglob("*") if path.is_file()}
    assert held == tree[1] | {"PKG-INFO"}


def test_the_wheel_of_the_sdist_is_that_of_the_tree(sdist, tree, tmp_path):
    from_sdist = build("wheel", sdist, tmp_path / "sdist")
    from_tree = build("wheel", tree[0], tmp_path / "tree")
    assert from_sdist.name == from_tree.name
    assert from_sdist.read_bytes() == from_tree.read_bytes()
