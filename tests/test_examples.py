"""Each script in examples/ runs as it stands, for a few steps, and leaves an adapter with half of A zero."""

import os
import runpy
import sys
import traceback
from contextlib import redirect_stdout
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.environments import processes

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.py"))


def _run(script, folder):
    """Run a script as a command in a folder, and keep there what it prints and how it ends."""
    os.chdir(folder)
    sys.argv = [str(script), "--steps", "3", "--output", str(folder)]
    with open("printed", "w", encoding="utf-8") as printed, redirect_stdout(printed):
        try:
            runpy.run_path(str(script), run_name="__main__")
        except Exception:
            traceback.print_exc(file=printed)
            raise


@pytest.fixture(scope="module", params=EXAMPLES, ids=lambda path: path.stem)
def saved(request, tmp_path_factory):
    """All A that an example leaves in its file."""
    script, tmp_path = request.param, tmp_path_factory.mktemp("example")
    if script.stem == "with_peft":
        pytest.importorskip("peft")
    process = processes().Process(target=_run, args=(script, tmp_path))
    process.start()
    process.join()
    printed = (tmp_path / "printed").read_text(encoding="utf-8")
    assert process.exitcode == 0, printed[-2000:]
    assert str(tmp_path) in printed.splitlines()[-1]
    (file,) = tmp_path.glob("adapter*.safetensors")
    return [tensor for name, tensor in load_file(file).items() if "lora_A" in name]


def test_an_example_runs_and_saves_what_it_pruned(saved):
    assert saved
    assert all((A == 0).float().mean() == 0.5 for A in saved)


def test_an_example_adapts_all_six_linear_layers_of_each_of_twelve(saved):
    assert len(saved) == 6 * 12


def test_there_is_an_example_for_trainer_for_peft_and_for_a_loop_of_ones_own():
    assert {script.stem for script in EXAMPLES} == {"with_trainer", "with_peft", "own_loop"}
