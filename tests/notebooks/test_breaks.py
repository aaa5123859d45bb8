"""Breaking the library on purpose turns a notebook red: what the notebooks print is really compared."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent

BREAKS = {
    "scaling is alpha, not alpha / r": (
        "03_rank_schedule", "config.py", "[self.alpha / rank for rank in ranks]", "[self.alpha for rank in ranks]",
    ),
    "ranks fall": (
        "03_rank_schedule", "ranks.py", "first_rank + (last_rank - first_rank) * l",
        "last_rank + (first_rank - last_rank) * l",
    ),
    "the norm runs over the features": (
        "04_what_is_important", "importance.py", "counted.square_()).sum(0)",
        "counted.square_()).mean(1).sum().expand(x.shape[1])",
    ),
    "B is pruned": (
        "05_pruning_during_training", "pruner.py", "self.layers[name].lora_A.masked_fill_(~mask, 0)",
        "self.layers[name].lora_B.masked_fill_(~keep_mask(self.layers[name].lora_B.abs(), 0.5), 0)",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("notebook", "file", "right", "wrong"), BREAKS.values(), ids=BREAKS.keys())
def test_a_broken_library_turns_a_notebook_red(notebook, file, right, wrong, tmp_path):
    broken = tmp_path / "prilora_lite" / file
    shutil.copytree(ROOT / "prilora_lite", broken.parent, ignore=shutil.ignore_patterns("__pycache__"))
    source = broken.read_text(encoding="utf-8")
    assert source.count(right) >= 1
    broken.write_text(source.replace(right, wrong), encoding="utf-8")
    shutil.copy(ROOT / "conftest.py", tmp_path)
    shutil.copy(ROOT / "notebooks" / f"{notebook}.ipynb", tmp_path)
    command = [sys.executable, "-m", "pytest", "-q", "-x", "--tb=line", "-p", "no:cacheprovider", "-p", "nbval.plugin"]
    command += [f"{notebook}.ipynb"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    environment |= {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # the others take seconds to load
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 1, done.stdout + done.stderr  # 1: tests were run and one failed
    assert "1 failed" in done.stdout
    assert "passed" in done.stdout  # the set-up cell at least: it is the break that is seen, not a missing package
