"""A stored run goes on counting when a setting is added: what its record lacks is filled with the default."""

import copy
import json
from dataclasses import asdict, fields, replace
from pathlib import Path

import pytest

from prilora_lite import PRILoRAConfig, Settings, finetune
from prilora_lite.experiments.identity import own_code, run_key, same_method, same_run, same_settings
from prilora_lite.experiments.study import read_runs
from prilora_lite.experiments.tasks import TASKS
from prilora_lite.importance import IMPORTANCE_RULES
from prilora_lite.ranks import SCHEDULES

RESULTS = Path(__file__).parents[2] / "results"
STORED = read_runs(RESULTS / "pocket.jsonl")


@pytest.mark.parametrize("name", [field.name for field in fields(PRILoRAConfig)])
def test_a_record_that_lacks_a_setting_at_its_default_is_the_same_run(name):
    default = getattr(PRILoRAConfig(), name)
    default = list(default) if isinstance(default, tuple) else default
    keys = [r["key"] for r in STORED if isinstance(r["key"][3], dict) and r["key"][3].get(name, default) == default]
    assert keys or name in ("scaling",)  # in the stored runs of older days it is never at today's default
    for key in keys:
        older = copy.deepcopy(key)
        older[3].pop(name, None)
        assert same_run(older) == same_run(key)


@pytest.mark.parametrize("name", [field.name for field in fields(Settings)])
def test_a_record_that_lacks_one_of_the_settings_at_its_default_is_the_same_run(name):
    settings = asdict(Settings())
    assert same_settings({k: v for k, v in settings.items() if k != name}) == same_settings(settings)


def test_a_setting_off_its_default_makes_another_run():
    key = next(record["key"] for record in STORED if isinstance(record["key"][3], dict))
    other = copy.deepcopy(key)
    other[3]["first_rank"] += 1
    assert same_run(other) != same_run(key)


def test_an_integer_and_the_float_of_its_value_make_one_run():
    assert same_settings({"epochs": 1, "alpha": 16}) == same_settings({"epochs": 1.0, "alpha": 16.0})
    assert same_method(PRILoRAConfig(alpha=16, ratio=0).to_dict()) == same_method(PRILoRAConfig(ratio=0.0).to_dict())


def test_a_folder_claimed_before_a_setting_existed_is_still_its_runs(tmp_path, encoder, rows):
    settings = Settings(epochs=1, batch_size=8, max_length=16, learning_rate=1e-3)
    config = PRILoRAConfig(first_rank=1, last_rank=2, interval=2)
    options = {"encoder": encoder, "rows": rows, "settings": settings, "output_dir": tmp_path, "progress": False}
    first = finetune("rte", config, save_steps=2, **options)
    claim = json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))
    del claim["method"]["ranks"], claim["warmup"]
    claim["epochs"] = 1
    (tmp_path / "run.json").write_text(json.dumps(claim), encoding="utf-8")
    assert finetune("rte", config, resume=True, **options).metrics == first.metrics
    with pytest.raises(ValueError, match=r"another run: method was .* and is"):
        finetune("rte", replace(config, interval=3), resume=True, **options)


@pytest.mark.parametrize(
    ("table", "change"), [(IMPORTANCE_RULES, {"importance": "mine"}), (SCHEDULES, {"ranks": "mine"})]
)
def test_an_edited_function_of_ones_own_makes_another_run(table, change, monkeypatch):
    def key():
        return run_key(TASKS["rte"], 0, "pocket", PRILoRAConfig(**change), Settings(), "fp32", "rows", "weights")

    keys = []
    for function in (lambda lora_A: lora_A.abs(), lambda lora_A: lora_A.abs(), lambda lora_A: -lora_A.abs()):
        monkeypatch.setitem(table, "mine", function)
        keys.append(same_run(key()))
    assert keys[0] == keys[1] != keys[2]
    idle = PRILoRAConfig(**change, ratio=0, last_rank=4)  # no prune, flat ranks
    assert own_code(idle) == own_code(PRILoRAConfig()) == {}
