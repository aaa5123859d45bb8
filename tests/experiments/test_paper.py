"""The paper's setting, with a small random encoder in the place of DeBERTaV3-base: same structure, same files."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
import transformers as hf

from prilora_lite.experiments import published
from prilora_lite.experiments.presets import PRESETS
from prilora_lite.experiments.tasks import TASKS
from prilora_lite.shared.records import read_records
from tests.small_models import WORDS, write_rows

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A hub's cache that holds the paper's encoder under its name and revision, in small."""
    sentencepiece = pytest.importorskip("sentencepiece")
    preset, cache = PRESETS["paper"], tmp_path_factory.mktemp("hub")
    folder = cache / f"models--{preset.hub_name.replace('/', '--')}" / "snapshots" / preset.revision
    folder.mkdir(parents=True)
    model = io.BytesIO()
    sentences = [" ".join(WORDS[i:] + WORDS[:i]) for i in range(len(WORDS))]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences * 5), model_writer=model, vocab_size=60, hard_vocab_limit=False,
        pad_id=0, bos_id=1, eos_id=2, unk_id=3, pad_piece="[PAD]", bos_piece="[CLS]", eos_piece="[SEP]",
        unk_piece="[UNK]", minloglevel=2,
    )  # fmt: skip
    (folder / "spm.model").write_bytes(model.getvalue())
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": false, "vocab_type": "spm"}', encoding="utf-8")
    config = hf.DebertaV2Config(
        hidden_size=24, num_hidden_layers=12, num_attention_heads=2, intermediate_size=40, vocab_size=128,
        max_position_embeddings=512, relative_attention=True, share_att_key=True, pos_att_type=["p2c", "c2p"],
        position_buckets=256, norm_rel_ebd="layer_norm", position_biased_input=False, type_vocab_size=0,
        pooler_hidden_size=24, pad_token_id=0,
    )  # fmt: skip
    hf.set_seed(0)
    hf.DebertaV2Model(config).save_pretrained(folder)
    return cache


def test_one_command_runs_the_papers_setting_beside_the_published_table(hub, tmp_path):
    rows = write_rows(tmp_path / "rows", TASKS["rte"])
    output = tmp_path / "runs.jsonl"
    command = [sys.executable, "-m", "prilora_lite", "ablate", "--encoder", "paper", "--tasks", "rte", "--seeds", "0"]
    command += ["--methods", "lora", "prilora", "adalora", "--rows", rows, "--output", output, "--set", "epochs=4"]
    variables = os.environ | {"HF_HUB_CACHE": str(hub), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(list(map(str, command)), cwd=ROOT, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lora, prilora, adalora = read_records(output)
    assert lora["settings"] == {
        "learning_rate": 1.2e-3, "epochs": 4, "batch_size": 32, "max_length": 320, "warmup": 200, "weight_decay": 0.01,
        "head_dropout": 0.2, "alpha": 32, "train_rows": None,
    }  # fmt: skip
    shapes = 4 * (24 + 24) + 2 * (24 + 40)  # query, key, value, output; up, down
    assert lora["counts"]["adapter"] == prilora["counts"]["adapter"] == 96 * shapes
    assert prilora["counts"]["adapter_nonzero"] == 96 * shapes - 96 * (5 * 12 + 20)  # half of each row of A
    assert adalora["pruning"][-1]["step"] <= adalora["steps"]
    shown = [line.split() for line in done.stdout.splitlines()]
    assert ["LoRA", "(r", "=", "8)", "85.20"] in shown
    assert ["published,", "%", "rte"] in shown


# Means over the tasks as the table gives them: MNLI's and QQP's two values count as one, their mean
AVERAGES = {"full": 88.09, "bitfit": 86.02, "houlsby": 88.12, "pfeiffer": 88.24, "lora": 88.34, "adalora": 89.31}


def test_the_published_averages_are_the_means_of_the_published_results():
    for method, results in published.RESULTS.items():
        mnli, qqp = (results["mnli"] + results["mnli-mm"]) / 2, (results["qqp"] + results["qqp-f1"]) / 2
        rest = [results[task] for task in ("sst2", "cola", "qnli", "rte", "mrpc", "stsb")]
        assert abs(sum([mnli, qqp, *rest]) / 8 - AVERAGES[method]) <= 0.01, method  # both rounded


def test_every_task_with_a_published_result_has_published_settings():
    assert {task.partition("-")[0] for task in published.TASKS} == set(PRESETS["paper"].settings)
