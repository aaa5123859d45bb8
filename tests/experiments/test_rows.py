"""Rows of one's own: what labels say is read, and what can't be learned from is refused with its row."""

import re
import warnings

import pandas as pd
import pytest
from datasets import ClassLabel, Dataset, Value

from prilora_lite import Settings, Task, finetune, load_rows
from prilora_lite.experiments.rows import check_rows, read_file
from prilora_lite.experiments.tasks import TASKS, get_task, task_as_json

MINE = Task("mine", ("text",), ("bad", "fair", "good"))
STARS = Task("stars", ("text",), ("1", "2", "3", "4", "5"))
SCORES = Task("scores", ("text",))
PAIRS = Task("pairs", ("one", "other"), ("no", "yes"))


def rows_of(labels, texts=None, feature=None):
    """The same rows, with other texts, for training and validation."""
    texts = [f"text {i}" for i in range(len(labels))] if texts is None else texts
    made = {}
    for split in ("train", "validation"):
        data = Dataset.from_dict({"text": [t and f"{split} {t}" for t in texts], "label": labels})
        made[split] = data if feature is None else data.cast_column("label", feature)
    return made


def labels_read(task, rows):
    return check_rows(task, rows)["validation"]["label"][:]


# Labels


@pytest.mark.parametrize(
    ("task", "labels", "feature"),
    [
        (MINE, [2, 0, 1], None),
        (MINE, ["good", "bad", "fair"], None),
        (MINE, ["2", "0", "1"], None),
        (MINE, [2.0, 0.0, 1.0], None),
        (MINE, [0, 2, 1], ClassLabel(names=["good", "fair", "bad"])),
        (MINE, [1, 2, 0], ClassLabel(names=["fair", "good", "bad"])),
        (MINE, [2, 0, 1], ClassLabel(names=["bad", "fair", "good"])),
        (MINE, [2, 0, 1], ClassLabel(names=["0", "1", "2"])),
        (MINE, [3, 1, 2], ClassLabel(names=["awful", "bad", "fair", "good"])),
        (STARS, [2, 0, 1], ClassLabel(names=["1", "2", "3", "4", "5"])),
        (Task("votes", ("text",), ("-1", "0", "1")), [2, 0, 1], ClassLabel(names=["-1", "0", "1"])),
        (Task("turned", ("text",), ("2", "1", "0")), [2, 0, 1], ClassLabel(names=["2", "1", "0"])),
        (STARS, [3, 1, 2], None),
        (STARS, ["3", "1", "2"], None),
        (STARS, [3.0, 1.0, 2.0], None),
    ],
)
def test_labels_are_read_by_name_or_number(task, labels, feature):
    assert labels_read(task, rows_of(labels, feature=feature)) == [2, 0, 1]


@pytest.mark.parametrize("task", ["cola", "sst2", "qnli", "mrpc"])
def test_names_in_another_order_than_glues_are_mapped(task):
    glue = TASKS[task]
    turned = ClassLabel(names=list(glue.labels[::-1]))
    data = {
        split: Dataset.from_dict({c: [f"{split} {i}" for i in range(3)] for c in glue.columns} | {"label": [0, 1, 1]})
        for split in ("train", "validation")
    }
    assert labels_read(glue, data) == [0, 1, 1]
    data["validation"] = data["validation"].cast_column("label", turned)
    assert labels_read(glue, data) == [1, 0, 0]


def test_names_are_read_from_the_features_in_a_parquet_file(tmp_path):
    rows = rows_of([0, 1, 2], feature=ClassLabel(names=["good", "fair", "bad"]))
    (tmp_path / "mine").mkdir()
    for split, data in rows.items():
        data.to_parquet(tmp_path / "mine" / f"{split}.parquet")
    assert load_rows(MINE, tmp_path)["train"]["label"][:] == [2, 1, 0]


@pytest.mark.parametrize("names", [("no", "yes"), ("0", "1"), ("1", "0"), ("false", "true")])
def test_true_is_the_class_that_says_so(names):
    true = names.index({"no": "yes", "false": "true"}.get(names[0], "1"))
    assert labels_read(Task("truths", ("text",), names), rows_of([True, False])) == [true, 1 - true]


def test_where_no_label_says_which_of_them_true_is_the_second_is_and_that_is_said():
    with pytest.warns(UserWarning, match=r"the train rows of tone have labels True and False: True is read as 'dry'"):
        assert labels_read(Task("tone", ("text",), ("warm", "dry")), rows_of([True, False])) == [1, 0]


@pytest.mark.parametrize("names", [("True", "False"), ("False", "True")])
def test_true_and_false_are_the_same_classes_in_parquet_and_in_csv(names, tmp_path):
    for split in ("train", "validation"):
        frame = pd.DataFrame({"text": [f"{split} 0", f"{split} 1"], "label": [True, False]})
        frame.to_parquet(tmp_path / f"{split}.parquet")
        frame.to_csv(tmp_path / f"{split}.csv", index=False)
    for ending in ("parquet", "csv"):
        files = {split: tmp_path / f"{split}.{ending}" for split in ("train", "validation")}
        read = labels_read(Task("truths", ("text",), names), files)
        assert list(map(repr, read)) == [str(names.index("True")), str(names.index("False"))]


@pytest.mark.parametrize(("labels", "numbers"), [([1, 2.5, 0], [1, 2.5, 0]), (["1", "2.5", "-3e-1"], [1, 2.5, -0.3])])
def test_a_task_without_labels_has_numbers(labels, numbers):
    assert labels_read(SCORES, rows_of(labels)) == numbers


@pytest.mark.parametrize(
    ("task", "labels", "message"),
    [
        (MINE, ["good", "goood"], "have the label 'goood', expected bad, fair, good, or their numbers (row 1)"),
        (MINE, [0, 3], "have label 3, expected 0 to 2 (row 1)"),
        (MINE, [0, 1, -1], "have label -1, expected 0 to 2; -1 marks GLUE's hidden test labels (row 2)"),
        (MINE, [0.5, 1], "have label 0.5, expected 0 to 2 (row 0)"),
        (MINE, [0, None], "labels that are missing or not finite (row 1)"),
        (MINE, ["good", ""], "labels that are missing or not finite (row 1)"),
        (MINE, ["good", None], "labels that are missing or not finite (row 1)"),
        (MINE, [[0], [1]], "have the label [0], expected bad, fair, good, or their numbers (row 0)"),
        (Task("n", ("text",), ("1", "2", "3+")), ["1", "0"], "have label 0, expected one of 1, 2, 3+ (row 1)"),
        (STARS, [5, 0], "have label 0, expected one of 1, 2, 3, 4, 5 (row 1)"),
        (STARS, [5, 6], "have label 6, expected one of 1, 2, 3, 4, 5 (row 1)"),
        (MINE, [True, False], "label True, expected one of bad, fair, good (row 0): write that instead; or call the"),
        (SCORES, [True, False], "have the label True, expected a number (row 0): write that instead"),
        (Task("stars", ("text",), ("1", "2")), [True, False], "label True, expected one of 1, 2 (row 0)"),
        (Task("t", ("text",), ("yes", "no")), [True, False], "label True, expected one of yes, no (row 0): write that"),
        (SCORES, ["1.5", "high"], "have the label 'high', expected a number (row 1)"),
        (SCORES, [1.0, float("inf")], "labels that are missing or not finite (row 1)"),
        (SCORES, [2.0, 2.0], "all validation rows of scores have the label 2: no correlation with them is defined"),
    ],
)
def test_a_label_that_is_none_is_named_with_its_row(task, labels, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        check_rows(task, rows_of(labels))


@pytest.mark.parametrize("form", ["torch", "numpy", "pandas"])
def test_a_dataset_that_gives_other_types_is_read_as_it_is(form):
    plain = rows_of([2, 0, 1])
    formatted = {split: data.with_format(form, columns=["label"]) for split, data in plain.items()}
    read = check_rows(MINE, formatted)
    assert [read[split].to_dict() for split in plain] == [data.to_dict() for data in check_rows(MINE, plain).values()]
    assert read["train"][0] == plain["train"][0]


def test_a_class_may_be_called_by_a_large_number():
    years = Task("years", ("text",), ("1000000", "1000001"))
    assert labels_read(years, rows_of([1000001, 1000000])) == [1, 0]


def test_names_that_are_not_the_tasks_are_refused():
    rows = rows_of([0, 1], feature=ClassLabel(names=["worse", "better"]))
    with pytest.raises(
        ValueError, match=r"have the label 'worse', expected bad, fair, good, or their numbers \(row 0\)"
    ):
        check_rows(MINE, rows)


@pytest.mark.parametrize("names", [("good", "fair", "bad"), ("-1", "0", "1")])
def test_the_hidden_labels_of_a_test_split_are_refused_by_their_number(names):
    rows = rows_of([-1, -1], feature=ClassLabel(names=names))
    with pytest.raises(ValueError, match="have label -1, expected 0 to 2; -1 marks GLUE's hidden test labels"):
        check_rows(Task("mine", ("text",), names), rows)


# Texts


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["a dog", None], "row 1 of mine train has no text in text: None"),
        (["a dog", ""], "row 1 of mine train has an empty text in text"),
    ],
)
def test_a_row_without_a_text_is_named(texts, message):
    with pytest.raises(ValueError, match=message):
        check_rows(MINE, rows_of([0, 1], texts))


@pytest.mark.parametrize("blank", ["", " ", "\t\n"])
def test_a_row_whose_texts_are_all_blank_is_refused_and_one_with_a_text_is_noticed(blank):
    def pairs(one, other):
        train = Dataset.from_dict({"one": ["a", one], "other": ["b", other], "label": [0, 1]})
        return {"train": train, "validation": Dataset.from_dict({"one": ["c"], "other": ["d"], "label": [0]})}

    with pytest.raises(ValueError, match="row 1 of pairs train has an empty text in one and other"):
        check_rows(PAIRS, pairs(blank, blank))
    with pytest.warns(UserWarning, match="row 1 of pairs train has an empty text in other"):
        check_rows(PAIRS, pairs("a dog", blank))


def test_words_that_mean_nothing_to_pandas_are_texts(tmp_path):
    texts = ["NA", "null", "None", "nan"]
    for split in ("train", "validation"):
        (tmp_path / f"{split}.csv").write_text(
            "\ufefftext,label\n" + "".join(f"{split} {t},1\n{t},2\n" for t in texts), encoding="utf-8"
        )
    with pytest.warns(UserWarning, match="are training rows as well"):
        rows = check_rows(MINE, {split: tmp_path / f"{split}.csv" for split in ("train", "validation")})
    assert rows["train"]["text"][1::2] == texts
    assert rows["train"]["label"][:2] == [1, 2]


# Rows that were trained on


@pytest.mark.parametrize(("same", "said"), [((0,), "1 of 4"), ((1, 3), "2 of 4"), ((0, 1, 2, 3), "4 of 4")])
def test_validation_rows_that_are_trained_on_are_noticed(same, said):
    rows = rows_of([0, 1, 2, 0])
    rows["validation"] = rows["validation"].map(
        lambda row, i: {"text": rows["train"][i]["text"]} if i in same else {}, with_indices=True
    )
    with pytest.warns(
        UserWarning, match=f"{said} validation rows of mine are training rows as well, .* row {same[0]}:"
    ):
        check_rows(MINE, rows)


def test_rows_that_are_apart_are_not_noticed():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_rows(MINE, rows_of([0, 1]))
        load_rows("pocket-mrpc")


# Where rows come from


def test_csv_parquet_and_datasets_are_the_same_rows(tmp_path):
    frame = pd.DataFrame({"text": ["a dog, and a cat", 'a "bird"', "the dog"], "label": ["good", "bad", "fair"]})
    valid = frame.assign(text=frame["text"] + " here")
    for split, part in (("train", frame), ("validation", valid)):
        part.to_csv(tmp_path / f"{split}.csv", index=False)
        part.to_parquet(tmp_path / f"{split}.parquet")
    kinds = [
        {split: str(tmp_path / f"{split}{end}") for split in ("train", "validation")} for end in (".csv", ".parquet")
    ]
    kinds.append({"train": Dataset.from_pandas(frame), "validation": Dataset.from_pandas(valid)})
    read = [
        {split: data.select_columns(["text", "label"]).to_dict() for split, data in check_rows(MINE, k).items()}
        for k in kinds
    ]
    assert read[0] == read[1] == read[2]
    assert read[0]["train"] == {"text": frame["text"].tolist(), "label": [2, 0, 1]}


@pytest.mark.parametrize(
    ("rows", "error", "message"),
    [
        ({"train": "no.csv", "validation": "no.csv"}, FileNotFoundError, "there is no file no.csv"),
        ({"train": "rows.xlsx"}, ValueError, "rows.xlsx: expected a file of rows that ends in .csv or .parquet"),
        ({"train": pd.DataFrame()}, TypeError, r"got DataFrame: Dataset.from_pandas\(frame\)"),
        ({"train": [{"text": "a", "label": 0}]}, TypeError, "got list: .*Dataset.from_list"),
        ({"validation": None}, ValueError, "the rows of mine lack the split 'train'; there are validation"),
    ],
)
def test_rows_of_another_kind_are_refused_with_the_way_out(rows, error, message):
    with pytest.raises(error, match=message):
        check_rows(MINE, rows)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00text", b'text,label\n"a,0\nb,1'])
def test_a_file_that_is_no_csv_is_named(content, tmp_path):
    (tmp_path / "train.csv").write_bytes(content)
    with pytest.raises(ValueError, match=r"train\.csv can't be read as CSV"):
        check_rows(MINE, {"train": tmp_path / "train.csv"})


def test_a_task_of_ones_own_without_rows_says_how_to_give_them():
    with pytest.raises(ValueError, match=r"where are the rows of mine\? Give rows=.*mine/train.csv"):
        load_rows(MINE)


def test_a_folder_of_the_name_of_the_hubs_dataset_is_not_taken_for_it(tmp_path, monkeypatch):
    (tmp_path / "nyu-mll" / "glue").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="the folder nyu-mll/glue in the working directory would be taken for"):
        load_rows("rte")


# The task itself


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"name": ""}, "the name of a task is a text without /"),
        ({"name": "a/b"}, "the name of a task is a text without /"),
        ({"columns": "text"}, r"columns of the task t must be names, each once, such as \('text',\); got 'text'"),
        ({"columns": ()}, "must be one or two names of texts"),
        ({"columns": ("a", "b", "c")}, "must be one or two names of texts"),
        ({"columns": ("label",)}, "must be one or two names of texts"),
        ({"labels": ("one",)}, "labels of the task t must be two classes or more, or none for regression"),
        ({"labels": ("a", "a")}, "labels of the task t must be names, each once"),
        ({"metrics": ("acuracy",)}, "whose labels are classes: 'acuracy': did you mean 'accuracy'"),
        ({"metrics": ("pearson",)}, "unknown metric of t, whose labels are classes: 'pearson'"),
        ({"labels": (), "metrics": ("accuracy",)}, "unknown metric of t, whose labels are numbers: 'accuracy'"),
        ({"labels": ("a", "b", "c"), "metrics": ("f1",)}, "without f1, which is of two classes"),
        ({"splits": ()}, "must be one validation split or more"),
        ({"splits": ("train",)}, "must be one validation split or more"),
    ],
)
def test_a_task_that_can_not_be_is_refused_when_it_is_made(parts, message):
    usual = {"name": "t", "columns": ("text",), "labels": ("no", "yes"), "metrics": ("accuracy",)}
    with pytest.raises(ValueError, match=message):
        Task(**(usual | parts))


def test_lists_and_numbers_make_a_task_as_well():
    assert Task("t", ["text"], [0, 1], ["accuracy"]) == Task("t", ("text",), ("0", "1"))
    assert SCORES.metrics == ("pearson_spearman",)
    assert str(MINE) == "mine"


def test_a_task_equal_to_one_of_glues_is_that_one_and_one_that_differs_is_not():
    cola = TASKS["cola"]
    assert task_as_json(Task("cola", cola.columns, cola.labels, cola.metrics)) == "cola"
    assert task_as_json(Task("cola", ("text",), cola.labels))["columns"] == ["text"]
    assert get_task(MINE) is MINE


def test_a_text_column_of_another_type_is_refused():
    rows = rows_of([0, 1])
    rows["train"] = rows["train"].map(lambda row: {"text": 3}).cast_column("text", Value("int64"))
    with pytest.raises(ValueError, match="row 0 of mine train has no text in text: 3"):
        check_rows(MINE, rows)


# CSV files


def csv_file(folder, text):
    file = folder / "train.csv"
    file.write_text(text, encoding="utf-8")
    return file


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "text,label\nNot bad, really,1\nAwful, sadly,0\n",
            r"line 2 has 3 fields, but there are 2 names \(text, label\)",
        ),
        ("text,label\nfine,1\nNot bad, really,1\n", "line 3 has 3 fields.*has to stand in quotes"),
        ("text,label\nfine,1,\nawful,0,\n", "line 2 has 3 fields"),
        ("text,label\nfine\nawful,0\n", "line 2 has 1 fields"),
        ("text,text,label\nfine,x,1\n", "two of its columns are called 'text'"),
    ],
)
def test_a_line_whose_fields_are_not_as_many_as_the_names_is_refused(text, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        read_file(csv_file(tmp_path, text))


def test_commas_quotes_and_line_ends_in_quotes_are_text(tmp_path):
    text = '\ufefftext,label\r\n"Not bad, really",1\r\n"He said ""no"",\nand left",0\r\n\r\n'
    assert read_file(csv_file(tmp_path, text)).to_dict() == {
        "text": ["Not bad, really", 'He said "no",\nand left'], "label": ["1", "0"]
    }  # fmt: skip


def test_a_long_text_is_read(tmp_path):
    assert len(read_file(csv_file(tmp_path, f"text,label\n{'a' * 200_000},1\n"))["text"][0]) == 200_000


def test_labels_that_are_numbers_below_zero_are_taken_by_their_names():
    task = Task("sign", ("text",), ("-1", "0", "1"))
    rows = Dataset.from_dict({"text": ["a", "b", "c"], "label": [-1.0, 0.0, 1.0]})
    assert list(check_rows(task, {"train": rows, "validation": rows})["train"]["label"]) == [0, 1, 2]


def test_a_quotation_mark_that_does_not_close_its_text_is_refused(tmp_path):
    file = tmp_path / "train.csv"
    file.write_text('text,label\n"Yes, he said,0\nnothing" she said,1\n', encoding="utf-8")
    with pytest.raises(ValueError, match="a quotation mark inside it is doubled"):
        read_file(file)


def test_training_rows_of_one_class_are_warned_of():
    rows = {
        "train": rows_of([1, 1, 1])["train"],
        "validation": Dataset.from_dict({"text": ["x", "y"], "label": [0, 1]}),
    }
    with pytest.warns(UserWarning, match="all train rows of mine have the label 'fair'"):
        check_rows(MINE, rows)


@pytest.mark.parametrize(
    ("labels", "warning"),
    [
        ([3.5, 3.5, 3.5], "all train rows of scores have the label 3.5, so nothing can be told apart"),
        ([49.0, 50.0, 51.0], r"labels of scores are large \(their mean or sd is 50\)"),
        ([-90.0, 0.0, 90.0], r"labels of scores are large \(their mean or sd is 73.5\)"),
    ],
)
def test_numbers_that_are_hard_to_learn_are_warned_of(labels, warning):
    rows = {"train": rows_of(labels)["train"], "validation": rows_of([0.0, 1.0])["validation"]}
    with pytest.warns(UserWarning, match=warning):
        check_rows(SCORES, rows)


@pytest.mark.parametrize("labels", [[1.7e9, 1.7e9 + 20, 1.7e9 + 40], [0.0, 1e39]])
@pytest.mark.parametrize("split", ["train", "validation"])
def test_numbers_that_float32_can_not_tell_apart_or_hold_are_refused(labels, split):
    rows = rows_of([0.0, 1.0]) | {split: rows_of(labels)[split]}
    with pytest.raises(ValueError, match=f"labels of the {split} rows of scores are too large, or too close"):
        check_rows(SCORES, rows)


def test_means_that_differ_in_their_last_digit_alone_are_as_good_as_any():
    assert labels_read(SCORES, rows_of([0.1 + 0.2, 0.3, 0.5])) == [0.1 + 0.2, 0.3, 0.5]


def test_classes_that_only_validation_rows_have_are_warned_of():
    rows = {"train": rows_of([0, 1])["train"], "validation": Dataset.from_dict({"text": ["x", "y"], "label": [2, 1]})}
    with pytest.warns(UserWarning, match="validation rows of mine have labels that no train row has: 'good'"):
        check_rows(MINE, rows)


@pytest.mark.parametrize("split", ["train", "validation"])
def test_classes_that_are_whole_floats_become_integers(split):
    rows = {"train": [0.0, 1.0], "validation": [2.0, 1.0]}
    rows = {name: Dataset.from_dict({"text": ["x", "y"], "label": labels}) for name, labels in rows.items()}
    with pytest.warns(UserWarning, match="validation rows of mine have labels that no train row has: 'good'"):
        labels = check_rows(MINE, rows)[split]["label"][:]
    assert all(type(label) is int for label in labels)


def test_a_file_in_another_encoding_is_told_how_to_be_saved(tmp_path):
    file = tmp_path / "rows.csv"
    file.write_bytes("sentence,label\nça va,1\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"is not in UTF-8 .*; Excel's name for that is 'CSV UTF-8'"):
        read_file(file)


def test_rows_that_were_loaded_from_a_folder_leave_nothing_in_it(tmp_path, encoder, rows):
    for split, data in load_rows("cola", rows).items():
        data.save_to_disk(tmp_path / split)
    before = sorted(tmp_path.rglob("*"))
    loaded = {split: Dataset.load_from_disk(tmp_path / split) for split in ("train", "validation")}
    settings = Settings(epochs=1, max_length=16, train_rows=32)
    finetune("cola", "head", encoder=encoder, rows=loaded, settings=settings, progress=False)
    assert sorted(tmp_path.rglob("*")) == before
