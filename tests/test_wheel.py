"""The built wheel in an environment of its own, with the network off: what a user without this repository gets."""

import sys
import zipfile
from pathlib import Path

import pytest

from prilora_lite import recordings
from tests.environments import call, fresh

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
    assert "prilora_lite/recordings/pruning.jsonl" in names
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
