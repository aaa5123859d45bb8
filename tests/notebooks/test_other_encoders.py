"""Notebooks 07 and 08 with another encoder by one word: the folder of a small random one."""

import nbformat
import pytest
from nbclient import NotebookClient

from prilora_lite.experiments.tasks import TASKS
from prilora_lite.shared.records import read_records
from tests.notebooks.test_form import ROOT
from tests.small_models import write_encoder, write_rows


@pytest.mark.parametrize(
    ("notebook", "word", "task"), [("07_real_encoder_on_glue", "./small", "cola"), ("08_ablation", "./small", "rte")]
)
def test_one_word_changes_encoder_and_rows(notebook, word, task, tmp_path, monkeypatch):
    write_encoder(tmp_path / word, positions=512)
    monkeypatch.setenv("PRILORA_GLUE", str(write_rows(tmp_path / "rows", TASKS[task])))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    content = nbformat.read(ROOT / "notebooks" / f"{notebook}.ipynb", as_version=4)
    (choice,) = [cell for cell in content.cells if 'ENCODER = "pocket"' in cell.source]
    choice.source = choice.source.replace('ENCODER = "pocket"', f'ENCODER = "{word}"')
    NotebookClient(content, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    said = "".join(output.get("text", "") for cell in content.cells for output in cell.get("outputs", []))
    assert f"ENCODER = {word}" in said
    for file in tmp_path.glob("*/ablation.jsonl"):  # what 08 runs itself
        assert {(run["encoder"], run["task"]) for run in read_records(file)} == {(word, task)}
        break
    else:
        assert f"{task}: 40 rows" in said
