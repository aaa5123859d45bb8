"""What a learner writes is kept in a file of its own, and notebook 06 builds on it, or says why not."""

import linecache

import pytest

from prilora_lite import exercises
from prilora_lite.teaching.exercises import mine, pieces

RIGHT = "def lora_forward(x, W0, A, B, s):\n    return x @ W0.T + s * (x @ A.T) @ B.T\n"


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def cell(source, number=[0]):  # noqa: B006 - a counter
    """Run a source as a notebook does, whose lines Python can look up, and return the names it defines."""
    number[0] += 1
    name = f"<ipython-input-{number[0]}>"
    linecache.cache[name] = (len(source), None, source.splitlines(True), name)
    names = {}
    exec(compile(source, name, "exec"), names)
    return names


def kept():
    return pieces.FILE.read_text(encoding="utf-8")


def test_a_piece_that_passes_is_kept_and_used(capsys):
    mine_ = cell(RIGHT)["lora_forward"]
    assert exercises.lora_forward(mine_) is mine_
    assert capsys.readouterr().out == "lora_forward: well done, and kept in my_prilora.py\n"
    assert RIGHT in kept()
    assert exercises.my_pieces().lora_forward.__code__.co_filename == "my_prilora.py"
    assert capsys.readouterr().out.startswith("lora_forward      yours\nrank_schedule     ours: not written yet\n")


def test_an_unwritten_piece_gives_ours_to_go_on_with_and_keeps_nothing(capsys):
    ours = exercises.lora_forward(cell("def lora_forward(*a):\n    raise NotImplementedError\n")["lora_forward"])
    assert ours is exercises.lora_forward.exercise.truth
    assert capsys.readouterr().out == "lora_forward: not written yet, so this page goes on with ours\n"
    assert not pieces.FILE.exists()
    assert exercises.lora_forward(ours) is ours
    assert "that is ours" in capsys.readouterr().out


def test_a_wrong_piece_is_not_kept_and_the_right_one_before_it_stays():
    exercises.lora_forward(cell(RIGHT)["lora_forward"])
    before = kept()
    with pytest.raises(exercises.WrongAnswer, match="scaling"):
        exercises.lora_forward(cell(RIGHT.replace("s * ", ""))["lora_forward"])
    assert kept() == before


def test_a_piece_written_anew_takes_the_place_of_the_old_one():
    exercises.lora_forward(cell(RIGHT)["lora_forward"])
    exercises.lora_forward(cell(RIGHT.replace("s * (x @ A.T)", "(s * x @ A.T)"))["lora_forward"])
    assert kept().count("def lora_forward") == 1
    assert "(s * x @ A.T)" in kept()


def test_helpers_and_imports_of_its_cell_are_kept_and_what_the_cell_shows_is_not():
    source = (
        "from torch.nn.functional import linear\nHALF = 0.5\nprint('hello')\n"
        "def twice(x):\n    return 2 * x\n"
        "def my_forward(x, W0, A, B, s):\n    # a remark\n"
        "    return linear(x, W0) + twice(HALF * s) * linear(linear(x, A), B)\n"
    )
    exercises.lora_forward(cell(source)["my_forward"])
    assert all(part in kept() for part in ("import linear", "HALF = 0.5", "def twice", "# a remark"))
    assert "hello" not in kept()
    assert exercises.my_pieces().lora_forward.__code__.co_filename == "my_prilora.py"  # under the name of the piece


def test_a_piece_that_needs_another_cell_is_right_but_not_kept(capsys):
    names = cell("def lora_forward(x, W0, A, B, s):\n    return helper(x, W0, A, B, s)\n")
    names["helper"] = cell(RIGHT)["lora_forward"]
    exercises.lora_forward(names["lora_forward"])
    out = capsys.readouterr().out
    assert out.startswith("lora_forward: well done (not kept for notebook 06: ")
    assert "'helper' is not defined" in out
    assert not pieces.FILE.exists()


def test_a_lambda_is_right_but_not_kept_and_is_told_why(capsys):
    exercises.lora_forward(cell("lora_forward = lambda x, W0, A, B, s: x @ W0.T + s * x @ A.T @ B.T\n")["lora_forward"])
    assert "well done (not kept for notebook 06: write it with def" in capsys.readouterr().out
    assert not pieces.FILE.exists()


def test_a_file_that_cannot_be_written_does_not_make_a_right_answer_wrong(capsys):
    pieces.FILE.mkdir()
    exercises.lora_forward(cell(RIGHT)["lora_forward"])
    assert "well done (not kept for notebook 06: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [("s * (", "(", "ours: does not pass its check: You left out the scaling"), ("return", "return x +", "ours: "),
     ("x @ W0", "y @ W0", "'y' is not defined"), ("return", "return (", "SyntaxError")],
)  # fmt: skip
def test_a_piece_that_was_spoilt_in_the_file_is_named_and_ours_used(old, new, reason, capsys):
    exercises.lora_forward(cell(RIGHT)["lora_forward"])
    pieces.FILE.write_text(kept().replace(old, new), encoding="utf-8")
    assert exercises.my_pieces().lora_forward is exercises.lora_forward.exercise.truth
    assert reason in capsys.readouterr().out


def test_the_file_is_a_module_of_its_own():
    exercises.lora_forward(cell(RIGHT)["lora_forward"])
    names = {}
    exec(kept(), names)
    assert callable(names["lora_forward"])


def test_a_check_in_the_same_cell_is_not_kept_with_its_piece(capsys):
    mine_ = cell(
        f"from prilora_lite import exercises\n\n\n{RIGHT}\n\nlora_forward = exercises.lora_forward(lora_forward)\n"
    )
    assert "exercises." not in kept()
    assert capsys.readouterr().out == "lora_forward: well done, and kept in my_prilora.py\n"
    assert mine_["lora_forward"].__name__ == "lora_forward"


def test_a_piece_that_another_function_makes_is_kept(capsys):
    inner = RIGHT.replace("lora_forward", "inner").replace("\n", "\n    ")
    made = cell(f"def make():\n    {inner}\n    return inner\n\n\nlora_forward = make()\n")
    exercises.lora_forward(made["lora_forward"])
    assert capsys.readouterr().out == "inner: well done, and kept in my_prilora.py\n"


def test_a_piece_with_torchs_names_in_its_first_line_is_kept_in_a_file_that_can_be_imported():
    source = RIGHT.replace("(x, W0, A, B, s)", "(x: Tensor, W0: Tensor, A: Tensor, B: Tensor, s: float) -> Tensor")
    exercises.lora_forward(cell("from torch import Tensor\n" + source)["lora_forward"])
    exec(compile(kept().replace("from torch import Tensor\n", ""), "kept", "exec", dont_inherit=True), {})


def test_a_name_in_the_first_line_that_another_cell_imports_is_told_before_the_file_fails(capsys):
    source = RIGHT.replace("s)", "s: Decimal)")
    exercises.lora_forward(cell("from __future__ import annotations\n" + source)["lora_forward"])
    assert "not kept" in capsys.readouterr().out


def test_a_line_that_would_divide_the_file_is_named_and_nothing_is_lost(capsys):
    exercises.lora_forward(cell(RIGHT)["lora_forward"])
    before = kept()
    exercises.lora_forward(cell(RIGHT.replace(":\n", ":\n# %% lora_forward\n"))["lora_forward"])
    assert "leave out the line that begins with '# %% '" in capsys.readouterr().out
    assert kept() == before


def test_a_helper_that_another_piece_has_too_but_not_the_same_is_warned_of(capsys):
    helped = "def by(x):\n    return {}\n\n\n"
    exercises.lora_forward(cell(helped.format("x") + RIGHT)["lora_forward"])
    ranks = (
        "def rank_schedule(L, a, b):\n    return [round(b - (b - a) * (L - 1 - l) / max(L - 1, 1)) for l in range(L)]\n"
    )
    exercises.rank_schedule(cell(helped.format("2 * x") + ranks)["rank_schedule"])
    assert "(but lora_forward has another by: give one of the two another name)" in capsys.readouterr().out


def test_a_line_from_the_future_is_left_out_of_the_middle_of_the_file(capsys):
    exercises.lora_forward(cell("from __future__ import annotations\n" + RIGHT)["lora_forward"])
    assert capsys.readouterr().out == "lora_forward: well done, and kept in my_prilora.py\n"
    assert "__future__" not in kept()


def test_statements_that_share_a_line_are_kept_once():
    exercises.lora_forward(cell("count = 0; total = 5\n" + RIGHT)["lora_forward"])
    assert kept().count("count = 0; total = 5") == 1


def test_every_piece_is_named_once():
    names = [check.exercise.truth.__name__ for check in mine.PIECES]
    assert len(set(names)) == len(names) == 7
    assert vars(exercises.my_pieces()).keys() == set(names)


def test_a_decorated_piece_is_kept():
    exercises.lora_forward(cell("import torch\n\n\n@torch.enable_grad()\n" + RIGHT)["lora_forward"])
    assert "@torch.enable_grad()\n" + RIGHT in kept()


def test_a_line_that_begins_with_a_percent_sign_is_no_ipython_line_within_an_expression():
    odd = RIGHT.replace("    return ", "    s = (s\n% 1000)\n    return ")
    exercises.lora_forward(cell(odd)["lora_forward"])
    assert odd in kept()


def test_a_piece_whose_cell_can_not_be_found_says_so_in_a_notebook(monkeypatch, capsys):
    names = {}
    exec(RIGHT, names)
    monkeypatch.setattr(pieces, "_in_notebook", lambda: True)
    exercises.lora_forward(names["lora_forward"])
    assert "well done (not kept for notebook 06: its cell can't be found" in capsys.readouterr().out
