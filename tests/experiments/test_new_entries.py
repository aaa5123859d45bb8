"""An entry that a table gains is known wherever names are: in the help, in messages, in a study and its tables."""

import pandas as pd
import pytest

from prilora_lite import TASKS, PRILoRAConfig, Settings, ablate, finetune, grid, load_adapter, load_encoder
from prilora_lite.cli import main
from prilora_lite.experiments.tasks import Task, get_task
from prilora_lite.importance import IMPORTANCE_RULES
from prilora_lite.ranks import SCHEDULES
from prilora_lite.shared.records import read_records
from tests.experiments.test_study import QUICK
from tests.small_models import write_rows

ANSWERS = Task("answers", ("question", "passage"), ("no", "yes"), ("accuracy",), hub=("owner/other", "a" * 40))


def gradient_size(lora_A, gradient):
    """The size of the gradient alone."""
    return gradient.abs()


def steep_ranks(num_layers, first_rank, last_rank):
    """All layers but the last have the first rank."""
    return [first_rank] * (num_layers - 1) + [last_rank]


@pytest.fixture(autouse=True)
def _gained(monkeypatch):
    monkeypatch.setitem(IMPORTANCE_RULES, "gradient_size", gradient_size)
    monkeypatch.setitem(SCHEDULES, "steep", steep_ranks)
    monkeypatch.setitem(TASKS, "answers", ANSWERS)


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    return write_rows(tmp_path_factory.mktemp("rows"), ANSWERS)


@pytest.mark.parametrize(
    ("option", "name"), [("importances", "gradient_size"), ("schedules", "steep"), ("tasks", "answers")]
)
def test_the_help_names_it(option, name, capsys):
    with pytest.raises(SystemExit):
        main(["ablate", "--help"])
    said = capsys.readouterr().out.split(f"\n  --{option} ")[1].split("\n  --")[0]
    assert name in said.replace(",", " ").replace(";", " ").split()


@pytest.mark.parametrize(
    ("ask", "name"),
    [
        (lambda: PRILoRAConfig(importance="gradient-size"), "gradient_size"),
        (lambda: PRILoRAConfig(ranks="steepp"), "steep"),
        (lambda: get_task("answer"), "answers"),
    ],
)
def test_a_message_about_a_mistyped_name_offers_it(ask, name):
    with pytest.raises(ValueError, match=f"did you mean '{name}'.*valid are .*{name}"):
        ask()


def test_a_study_trains_with_it_names_its_runs_by_it_and_is_not_made_twice(encoder, answers, tmp_path, capsys):
    command = [
        "ablate", "--ranks", "2..6", "--schedules", "linear", "steep", "2,2,2,4", "--importances", "gradient_size",
        "--intervals", "2", "--tasks", "answers", "--seeds", "0", "--encoder", encoder, "--rows", str(answers),
        "--output", str(tmp_path / "runs.jsonl"), *QUICK,
    ]  # fmt: skip
    assert main(command) == 0
    made = (tmp_path / "runs.jsonl").read_bytes()
    records = read_records(tmp_path / "runs.jsonl")
    names = [f"{ranks}, ratio 0.5, N 2, gradient_size" for ranks in ("2..6", "steep 2..6", "2,2,2,4")]
    assert [record["name"] for record in records] == names
    assert {record["task"] for record in records} == {"answers"}
    assert all(record["pruning"] for record in records)
    table = pd.read_csv(tmp_path / "runs.csv", comment="#")
    assert table["method"].tolist() == names
    assert table["ranks"].tolist() == ["linear", "steep", "2 2 2 4"]
    assert table["first_rank"].fillna(0).tolist() == [2, 2, 0]
    assert set(table["importance"]) == {"gradient_size"}
    said = capsys.readouterr()
    assert all(name in said.out and name in said.err for name in names)
    assert main(command) == 0
    assert (tmp_path / "runs.jsonl").read_bytes() == made


def test_a_study_of_several_jobs_refuses_it_before_its_first_run(tmp_path):
    runs = grid([PRILoRAConfig(importance="gradient_size")], ["pocket-rte"], [0, 1])
    with pytest.raises(ValueError, match=r"importance='gradient_size' was registered in this process.* use jobs=1"):
        ablate(runs, tmp_path / "runs.jsonl", jobs=2)
    assert not list(tmp_path.iterdir())


def test_an_adapter_made_with_it_loads(encoder, answers, tmp_path):
    config = PRILoRAConfig(first_rank=1, last_rank=3, ranks="steep", importance="gradient_size", interval=2)
    settings = Settings(epochs=1, batch_size=8, max_length=16)
    result = finetune(
        "answers", config, encoder=encoder, rows=answers, settings=settings, output_dir=tmp_path, progress=False
    )
    model, _ = load_encoder(encoder, "answers")
    load_adapter(model, result.path)
    assert [layer.lora_A.shape[0] for name, layer in model.named_modules() if name.endswith("query")] == [1, 1, 1, 3]
