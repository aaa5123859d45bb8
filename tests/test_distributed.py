"""One run made by two processes: started by torchrun, joined by gloo, on this machine."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from prilora_lite import study
from prilora_lite.cli import main
from prilora_lite.records import read_records

ROOT = Path(__file__).parent.parent
RUN = """
import sys
from prilora_lite import PRILoRAConfig, Settings, finetune
encoder, rows, output = sys.argv[1:]
settings = Settings(learning_rate=5e-3, epochs=2, batch_size=8, max_length=16)
config = PRILoRAConfig(first_rank=2, last_rank=5, interval=3)
result = finetune("stsb", config, encoder=encoder, rows=rows, settings=settings, output_dir=output, progress=False,
                  precision="fp32", device="cpu")
print(result.steps)
"""
ONE = [sys.executable]
TWO = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


def start(launcher, *arguments):
    variables = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([*launcher, *map(str, arguments)], env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, done.stderr


@pytest.fixture(scope="module")
def without_dropout(encoder, tmp_path_factory):
    """The small encoder with no dropout, whose noise two processes would not share out as one draws it."""
    folder = tmp_path_factory.mktemp("encoder")
    for file in Path(encoder).iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def test_two_processes_train_and_prune_what_one_does(without_dropout, rows, tmp_path):
    (tmp_path / "run.py").write_text(RUN, encoding="utf-8")
    for name, launcher in (("one", ONE), ("two", TWO)):
        start(launcher, tmp_path / "run.py", without_dropout, rows, tmp_path / name)
    one, two = (load_file(tmp_path / name / "adapter.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    pruned = [name for name in one if "lora_A" in name]
    assert pruned
    for name in pruned:
        assert torch.equal(one[name] == 0, two[name] == 0), name
        assert (one[name] == 0).float().mean() >= 0.4  # half of 24 or 40 entries a row
    for name in one:  # Adam's first steps go by the sign of each gradient, so rounding shows where one is nearly zero
        assert (one[name] - two[name]).norm() <= 1e-2 * one[name].norm(), name


def test_a_study_writes_each_run_once_and_speaks_with_one_voice(encoder, rows, tmp_path):
    output = tmp_path / "runs.jsonl"
    arguments = [
        "ablate", "--methods", "head", "prilora", "--tasks", "cola", "--seeds", "0", "1", "--encoder", encoder,
        "--rows", rows, "--output", output, "--device", "cpu", "--precision", "fp32",
        "--set", "epochs=1", "batch_size=8", "max_length=16",
    ]  # fmt: skip
    out, err = start(TWO, "-m", "prilora_lite", *arguments)
    assert [(r["name"], r["seed"]) for r in read_records(output)] == [
        ("head", 0), ("prilora", 0), ("head", 1), ("prilora", 1),
    ]  # fmt: skip
    assert {r["steps"] for r in read_records(output)} == {5}  # 40 rows in batches of 8, whoever computes them
    assert len(output.read_bytes().splitlines()) == 4
    assert out.count("PRILoRA (4..12, pruned)") == 1
    assert err.count("[4/4] cola PRILoRA (4..12, pruned), seed 1:") == 1
    before = output.read_bytes()
    start(TWO, "-m", "prilora_lite", *arguments)
    assert output.read_bytes() == before


def test_a_batch_that_can_not_be_shared_is_refused(encoder, rows, monkeypatch):
    from prilora_lite import Settings, finetune, training

    monkeypatch.setattr(training, "WORLD_SIZE", 3)
    with pytest.raises(ValueError, match="a batch of 8 rows can't be shared by 3 processes"):
        finetune("cola", "head", encoder=encoder, rows=rows, settings=Settings(batch_size=8, max_length=16))


def test_several_runs_at_a_time_and_several_processes_a_run_are_refused(rows, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(study, "WORLD_SIZE", 2)
    assert main(["ablate", "--jobs", "2", "--output", str(tmp_path / "runs.jsonl")]) == 2
    assert "several jobs under torchrun" in capsys.readouterr().err
