"""Notebooks 07 and 08 with another encoder by one word: the folder of a small random one."""

import contextlib
import io

import nbformat
import pytest

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
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("IPython.display.display", lambda *_, **__: None)  # where there is no page, it prints
    monkeypatch.chdir(tmp_path)
    content = nbformat.read(ROOT / "notebooks" / f"{notebook}.ipynb", as_version=4)
    code = [cell.source for cell in content.cells if cell.cell_type == "code"]
    assert sum('ENCODER = "pocket"' in source for source in code) == 1
    names, said = {"__name__": "__main__"}, io.StringIO()
    with contextlib.redirect_stdout(said):
        for source in code:
            exec(compile(source.replace('ENCODER = "pocket"', f'ENCODER = "{word}"'), "<cell>", "exec"), names)
    assert f"ENCODER = {word}" in said.getvalue()
    for file in tmp_path.glob("*/ablation.jsonl"):  # what 08 runs itself
        assert {(run["encoder"], run["task"]) for run in read_records(file)} == {(word, task)}
        break
    else:
        assert f"{task}: 40 rows" in said.getvalue()
