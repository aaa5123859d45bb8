"""One run made by two processes: started by torchrun, joined by gloo, on this machine."""

import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate.state import DistributedType, PartialState
from safetensors.torch import load_file
from torch import nn

from prilora_lite import PRILoRAConfig, Pruner, adapt
from prilora_lite.cli import main
from prilora_lite.experiments import study
from prilora_lite.shared.records import read_records
from tests.small_models import build
from tests.training import callback_of, trainer

ROOT = Path(__file__).parents[2]
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
TWO = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
ONE_AFTER_ANOTHER = """
import json, runpy, sys
for sys.argv in json.loads(sys.argv[1]):
    runpy.run_path(sys.argv[0], run_name="__main__")
"""
COMMAND = "import sys; from prilora_lite.cli import main; sys.exit(main(sys.argv[1:]))"


def in_two_processes(folder, *scripts):
    """Run scripts, each with its arguments, one after another in the same two processes: one start is 20 s of work."""
    (folder / "one_after_another.py").write_text(ONE_AFTER_ANOTHER, encoding="utf-8")
    command = [*TWO, str(folder / "one_after_another.py"), json.dumps(scripts, default=str)]
    variables = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, done.stderr


def in_one_process(script, *arguments):
    """In this one, which has all that it needs loaded."""
    before, sys.argv = sys.argv, [str(script), *map(str, arguments)]
    try:
        runpy.run_path(str(script), run_name="__main__")
    finally:
        sys.argv = before


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


@pytest.fixture(scope="module")
def made(without_dropout, encoder, rows, tmp_path_factory):
    """A folder in which one process, then two have trained by finetune and by Trainer, and have gone on with a study;
    the study's file as one process left it, and what two said."""
    folder = tmp_path_factory.mktemp("made")
    for name, text in (("run", RUN), ("loop", LOOP), ("ablate", COMMAND)):
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
    study_of = [
        "ablate", "--methods", "head", "prilora", "--tasks", "cola", "--encoder", encoder, "--rows", str(rows),
        "--output", str(folder / "runs.jsonl"), "--device", "cpu", "--precision", "fp32",
        "--set", "epochs=1", "batch_size=8", "max_length=16", "--seeds", "0",
    ]  # fmt: skip
    in_one_process(folder / "run.py", without_dropout, rows, folder / "one")
    in_one_process(folder / "loop.py", "trainer", folder)
    assert main(study_of) == 0
    before = (folder / "runs.jsonl").read_bytes()
    said = in_two_processes(
        folder,
        [folder / "run.py", without_dropout, rows, folder / "two"],
        [folder / "loop.py", "trainer", folder],
        [folder / "ablate.py", *study_of, "1"],
    )
    return folder, before, *said


def test_two_processes_train_and_prune_what_one_does(made):
    one, two = (load_file(made[0] / name / "adapter.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    pruned = [name for name in one if "lora_A" in name]
    assert pruned
    for name in pruned:
        assert torch.equal(one[name] == 0, two[name] == 0), name
        assert (one[name] == 0).float().mean() >= 0.4  # half of 24 or 40 entries a row
    for name in one:  # Adam's first steps go by the sign of each gradient, so rounding shows where one is nearly zero
        assert (one[name] - two[name]).norm() <= 1e-4 * one[name].norm(), name


# In float64, to the bit: every process the same, and all of them what one does with the whole batch

LOOP = '''
import sys
import torch
from accelerate import Accelerator
from torch import nn
from transformers import Trainer, TrainingArguments
from prilora_lite import PRILoRACallback, PRILoRAConfig, Pruner, adapt
from tests.small_models import VOCABULARY, build

CONFIG = PRILoRAConfig(first_rank=2, last_rank=5, interval=2)


def rows(count=24):
    """Rows that are padded more and more, so that processes and micro-batches differ in tokens."""
    ids = torch.randint(3, VOCABULARY, (count, 8), generator=torch.Generator().manual_seed(0))
    mask = (torch.arange(8) < 8 - torch.arange(count)[:, None] % 7).long()
    return [{"input_ids": i * m, "attention_mask": m, "labels": i[0] % 2} for i, m in zip(ids, mask)]


def small_model():
    torch.manual_seed(0)
    model = build("bert").double()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    adapt(model, CONFIG)
    return model.train()


def with_trainer(model, output, world):
    arguments = TrainingArguments(
        output_dir=output, per_device_train_batch_size=8 // world, num_train_epochs=2, learning_rate=1e-3, seed=1,
        use_cpu=True, report_to=[], disable_tqdm=True, save_strategy="no", lr_scheduler_type="constant",
    )
    trainer = Trainer(model, arguments, train_dataset=rows(), callbacks=[PRILoRACallback()])
    trainer.model_accepts_loss_kwargs = False  # as it is: BERT's loss is a mean, which Trainer would multiply by world
    trainer.train()


def with_accelerate(model, output, world):
    """Two processes make each step of two micro-batches; one process of one batch."""
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=world)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    loader = torch.utils.data.DataLoader(rows(), batch_size=8 // world**2)
    wrapped, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    pruner = Pruner(wrapped, **CONFIG.pruning())
    for batch in loader:
        with accelerator.accumulate(wrapped):
            accelerator.backward(wrapped(**batch).loss)
            optimizer.step()
            optimizer.zero_grad()
        if accelerator.sync_gradients:
            pruner.step()
    pruner.prune()


if __name__ == "__main__":
    way, output = sys.argv[1:]
    from prilora_lite.experiments.device import PROCESS, PROCESSES
    model = small_model()
    {"trainer": with_trainer, "accelerate": with_accelerate}[way](model, output, PROCESSES)
    trained = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    torch.save(trained, f"{output}/{PROCESSES}-{PROCESS}.pt")
'''


@pytest.mark.slow
def test_all_processes_hold_the_same_bits_and_what_one_process_computes_in_a_loop_of_ones_own(tmp_path):
    (tmp_path / "loop.py").write_text(LOOP, encoding="utf-8")
    in_one_process(tmp_path / "loop.py", "accelerate", tmp_path)
    in_two_processes(tmp_path, [tmp_path / "loop.py", "accelerate", tmp_path])
    assert_the_same_bits(tmp_path)


def test_all_processes_hold_the_same_bits_and_what_one_process_computes(made):
    assert_the_same_bits(made[0])


def assert_the_same_bits(folder):
    one, first, second = (torch.load(folder / f"{name}.pt", weights_only=True) for name in ("1-0", "2-0", "2-1"))
    assert any("lora_A" in name for name in one)
    for name, expected in one.items():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], expected, rtol=1e-9, atol=1e-12)
        if "lora_A" in name:
            assert torch.equal(first[name] == 0, expected == 0), name
            assert ((expected == 0).sum(1) == expected.shape[1] // 2).all()


def test_a_study_goes_on_writes_each_run_once_and_speaks_with_one_voice(made):
    folder, before, out, err = made
    output = folder / "runs.jsonl"
    assert output.read_bytes().startswith(before)
    assert [(r["name"], r["seed"]) for r in read_records(output)] == [
        ("head", 0), ("prilora", 0), ("head", 1), ("prilora", 1),
    ]  # fmt: skip
    assert {r["steps"] for r in read_records(output)} == {5}  # 40 rows in batches of 8, whoever computes them
    assert len(output.read_bytes().splitlines()) == 4
    assert re.findall(r"^  PRILoRA \(4\.\.12, pruned\) ", out, flags=re.MULTILINE) == ["  PRILoRA (4..12, pruned) "]
    assert out.count("PRILoRA (4..12, pruned) minus head only on cola") == 1
    assert err.count("[4/4] cola PRILoRA (4..12, pruned), seed 1:") == 1


def test_a_batch_that_can_not_be_shared_is_refused(encoder, rows, monkeypatch):
    from prilora_lite import Settings, finetune
    from prilora_lite.experiments import loop

    monkeypatch.setattr(loop, "PROCESSES", 3)
    with pytest.raises(ValueError, match="a batch of 8 rows can't be shared by 3 processes"):
        finetune("cola", "head", encoder=encoder, rows=rows, settings=Settings(batch_size=8, max_length=16))


def test_several_runs_at_a_time_and_several_processes_a_run_are_refused(rows, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(study, "PROCESSES", 2)
    assert main(["ablate", "--jobs", "2", "--output", str(tmp_path / "runs.jsonl")]) == 2
    assert "use jobs=1 under torchrun" in capsys.readouterr().err


# Ways to train in which no process has whole weights


class Wrapper(nn.Module):
    def __init__(self, module):
        super().__init__()
        self.module = module


class FullyShardedDataParallel(Wrapper):
    """By name the wrapper of FSDP1, which needs a GPU to be made."""


class DeepSpeedEngine(Wrapper):
    """By name DeepSpeed's."""


def zero_3(model):
    """DeepSpeed's third stage marks each weight of which it holds a part."""
    for parameter in model.parameters():
        parameter.ds_id = 0
    return model


@pytest.mark.parametrize(
    ("wrap", "message"),
    [
        (FullyShardedDataParallel, "FSDP splits each weight"),
        (DeepSpeedEngine, "DeepSpeed keeps copies"),
        (zero_3, "DeepSpeed keeps copies"),
        (nn.DataParallel, "the replicas of nn.DataParallel lose the input statistics"),
    ],
)
def test_split_copied_and_replicated_weights_are_refused_with_what_to_use(wrap, message):
    model = build("bert")
    adapt(model, PRILoRAConfig(first_rank=2, last_rank=5))
    with pytest.raises(ValueError, match=f"{message}.*: use one process per GPU .* torchrun"):
        Pruner(wrap(model))


@pytest.mark.skipif(sys.platform == "win32", reason="gloo over a file needs POSIX paths")
def test_fsdps_second_version_is_refused(tmp_path):
    from torch.distributed.fsdp import fully_shard

    model = build("bert")
    adapt(model, PRILoRAConfig(first_rank=2, last_rank=5))
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        pruner = Pruner(model)
        fully_shard(model)
        for refused in (lambda: Pruner(model), pruner.step):
            with pytest.raises(ValueError, match="FSDP splits each weight"):
                refused()
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("kind", ["FSDP", "DEEPSPEED", "MEGATRON_LM"])
def test_the_callback_refuses_what_accelerate_was_told_to_split(kind, tmp_path, monkeypatch):
    a_trainer = trainer(tmp_path)
    monkeypatch.setitem(PartialState._shared_state, "distributed_type", DistributedType[kind])
    with pytest.raises(RuntimeError, match=f"under {kind} no process has whole weights to prune: use one process"):
        callback_of(a_trainer).on_train_begin(a_trainer.args, a_trainer.state, a_trainer.control, model=a_trainer.model)
