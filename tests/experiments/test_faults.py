"""Kills, damage, full disks, read-only folders, pickles and code where there should be none."""

import base64
import contextlib
import errno
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers as hf

from benchmarks import killed_training
from prilora_lite import PRILoRAConfig, Settings, finetune, latest_checkpoint, load_encoder, load_rows
from prilora_lite.cli import main
from prilora_lite.experiments.tasks import TASKS
from prilora_lite.integrations.checkpoints import CHECKSUMS
from prilora_lite.shared.files import write_whole
from prilora_lite.shared.records import append_record, read_records
from tests.environments import processes
from tests.experiments.test_study import QUICK, command
from tests.small_models import write_encoder
from tests.training import assert_same_weights, callback_of, trainer

CONFIG = PRILoRAConfig(first_rank=2, last_rank=5, interval=3)
SAVING = {"save_strategy": "steps", "save_steps": 4, "max_steps": 9}
FILES = ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json")
ROOT = Path(__file__).parents[2]

posix = pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL and limits of a process are POSIX's")
needs_bubblewrap = pytest.mark.skipif(shutil.which("bwrap") is None, reason="needs bubblewrap for a small disk")


# Kills


@pytest.fixture
def options(encoder, rows):
    settings = Settings(learning_rate=5e-3, epochs=4, batch_size=8, max_length=16)
    return {
        "task": "cola", "method": CONFIG, "encoder": encoder, "rows": str(rows), "settings": settings, "save_steps": 2,
    }  # fmt: skip


@pytest.mark.slow
@posix
def test_a_run_killed_at_random_moments_and_resumed_ends_bit_for_bit_as_if_undisturbed(options, tmp_path):
    result = killed_training.compare(options, tmp_path, kills=3)
    assert result["equal"]
    assert result["steps"] == 20
    first, second, third = result["killed_at_steps"]
    assert first >= 0
    assert 5 <= second < 20
    assert 10 <= third < 20


@posix
def test_a_process_killed_while_it_saves_leaves_a_whole_adapter(options, tmp_path):
    result = killed_training.kill_saving(options, tmp_path, kills=3)
    assert result["whole"]
    assert result["saves"] >= 6


def test_what_a_killed_process_left_beside_an_adapter_is_not_taken_for_one(tmp_path):
    part = tmp_path / f".adapter.safetensors.{os.getpid()}.part"
    part.write_bytes(b"half")
    write_whole(tmp_path / "adapter.safetensors", b"whole")
    assert [path.name for path in tmp_path.iterdir()] == ["adapter.safetensors"]
    assert (tmp_path / "adapter.safetensors").read_bytes() == b"whole"


@posix
def test_a_link_stays_one_and_what_it_names_has_the_new_content(tmp_path):
    (tmp_path / "run1").write_bytes(b"old")
    (tmp_path / "latest").symlink_to("run1")
    write_whole(tmp_path / "latest", b"new")
    assert (tmp_path / "latest").is_symlink()
    assert (tmp_path / "run1").read_bytes() == b"new"


@posix
def test_a_private_file_stays_private(tmp_path):
    (tmp_path / "mine").write_bytes(b"old")
    (tmp_path / "mine").chmod(0o600)
    write_whole(tmp_path / "mine", b"new")
    assert (tmp_path / "mine").stat().st_mode & 0o777 == 0o600


def test_a_run_whose_description_was_cut_off_says_which_file(options, tmp_path):
    finetune(**options, output_dir=tmp_path, device="cpu", progress=False)
    (tmp_path / "run.json").write_text('{"task": "co', encoding="utf-8")
    with pytest.raises(ValueError, match=r"run\.json, which says whose checkpoints these are, can't be read"):
        finetune(**options, output_dir=tmp_path, resume=True, device="cpu", progress=False)


# Damage


@pytest.fixture(scope="module")
def run_of_trainer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    a_trainer = trainer(folder, **SAVING)
    a_trainer.train()
    return folder, a_trainer


def resume(folder):
    a_trainer = trainer(folder, **SAVING)
    a_trainer.train(resume_from_checkpoint=str(folder / "checkpoint-4"))
    return a_trainer


@pytest.fixture
def checkpoint(run_of_trainer, tmp_path):
    return Path(shutil.copytree(run_of_trainer[0] / "checkpoint-4", tmp_path / "checkpoint-4"))


def flip_a_bit(file, seed):
    content = bytearray(file.read_bytes())
    place = random.Random(seed).randrange(8 * len(content))
    content[place // 8] ^= 1 << place % 8
    file.write_bytes(content)


def test_an_undamaged_checkpoint_resumes_bit_for_bit(run_of_trainer, checkpoint):
    resumed = resume(checkpoint.parent)
    assert_same_weights(run_of_trainer[1].model, resumed.model)
    assert callback_of(resumed).history == callback_of(run_of_trainer[1]).history


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_in_a_checkpoint_does_not_resume(name, seed, checkpoint):
    flip_a_bit(checkpoint / name, seed)
    assert latest_checkpoint(checkpoint.parent) is None
    with pytest.raises(Exception, match=r"."):  # torch, safetensors and Trainer have errors of their own
        resume(checkpoint.parent)


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "rng_state.pth"])
def test_the_damaged_file_is_named(name, checkpoint):
    """The last bytes of a tensor, or of a zip's directory: nothing but a checksum sees them change."""
    content = bytearray((checkpoint / name).read_bytes())
    place = len(content) // 2 if name != "model.safetensors" else len(content) - 1
    content[place] ^= 1
    (checkpoint / name).write_bytes(content)
    with pytest.raises(RuntimeError, match=rf"checkpoint-4.{name} is not as it was written: it is damaged"):
        resume(checkpoint.parent)


@pytest.mark.parametrize("name", [*FILES, CHECKSUMS])
def test_a_checkpoint_with_a_file_cut_off_is_passed_over(name, checkpoint):
    older = shutil.copytree(checkpoint, checkpoint.with_name("checkpoint-2"))
    state = json.loads((older / "trainer_state.json").read_text(encoding="utf-8"))
    (older / "trainer_state.json").write_text(json.dumps(state | {"global_step": 2}), encoding="utf-8")
    (older / CHECKSUMS).unlink()  # as another version of the library, or Trainer alone, would have written it
    content = (checkpoint / name).read_bytes()
    (checkpoint / name).write_bytes(content[: len(content) // 2])
    assert latest_checkpoint(checkpoint.parent) == older


@pytest.mark.parametrize("content", ["[]", "7", '{"global_step": "4"}', '{"global_step": null}', "{}", "[" * 100_000])
def test_a_state_that_is_none_is_passed_over(content, checkpoint):
    (checkpoint / CHECKSUMS).unlink()
    (checkpoint / "trainer_state.json").write_text(content, encoding="utf-8")
    assert latest_checkpoint(checkpoint.parent) is None


def test_checksums_of_files_elsewhere_are_not_followed(checkpoint, tmp_path):
    (tmp_path / "secret").write_text("7", encoding="utf-8")
    (checkpoint / CHECKSUMS).write_text(json.dumps({"../secret": "0" * 64}), encoding="utf-8")
    assert latest_checkpoint(tmp_path) is None


@pytest.mark.parametrize("method", ["head", "houlsby"])
def test_a_damaged_checkpoint_of_another_method_is_passed_over(method, options, tmp_path):
    finetune(**(options | {"method": method}), output_dir=tmp_path, device="cpu", progress=False)
    newest = latest_checkpoint(tmp_path)
    flip_a_bit(newest / "optimizer.pt", 0)
    assert latest_checkpoint(tmp_path) not in (newest, None)


# Full disks


def in_a_child(work, *arguments, size=None):
    """What ``work`` returns and prints in a process of its own, where no file can grow beyond so many bytes."""
    context = processes()
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(sender, work, arguments, size))
    child.start()
    sender.close()
    returned, printed = receiver.recv()
    child.join()
    return returned, printed


def _child(sender, work, arguments, size):
    import resource

    if size is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        try:
            returned = work(*arguments)
        except OSError as error:
            returned = str(error)
    sender.send((returned, printed.getvalue()))


def refused(status, printed, place):
    """The command ended with status 2 and a message of at most two lines that names the place."""
    assert status == 2, printed
    assert "Traceback" not in printed
    message = printed[printed.rindex("prilora-lite: ") :].strip()
    assert f"{place} can't be written" in message
    assert len(message.splitlines()) <= 2


@posix
def test_a_study_on_a_full_disk_loses_nothing_and_goes_on_later(encoder, rows, tmp_path):
    output = tmp_path / "runs.jsonl"
    assert main(command(output, encoder, rows, methods=["head"], seeds=["0"])) == 0
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    arguments = command(output, encoder, rows, methods=["head"], seeds=["0", "1"])
    refused(*in_a_child(main, arguments, size=output.stat().st_size + 100), output)
    assert [record["seed"] for record in read_records(output)] == [0]
    for path, content in before.items():
        assert path.read_bytes().startswith(content)
    assert main(arguments) == 0
    assert [record["seed"] for record in read_records(output)] == [0, 1]


@posix
def test_tables_that_do_not_fit_leave_the_old_ones(encoder, rows, tmp_path):
    output = tmp_path / "runs.jsonl"
    assert main(command(output, encoder, rows, methods=["head"], seeds=["0"])) == 0
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    refused(*in_a_child(main, ["report", str(output)], size=500), tmp_path / "runs.csv")
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT])
def test_a_record_that_can_not_be_written_names_the_file(error, tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=rf"runs\.jsonl can't be written \({os.strerror(error)}\)"):
        append_record(tmp_path / "runs.jsonl", {"key": 1})


def _make(folder, encoder, rows, method):
    settings = Settings(learning_rate=5e-3, epochs=1, batch_size=8, max_length=16)
    finetune(
        "cola", method, encoder=encoder, rows=rows, settings=settings, output_dir=folder, save_steps=2, resume=True,
        device="cpu", precision="fp32", progress=False,
    )  # fmt: skip


@posix
@pytest.mark.parametrize(
    ("method", "size", "cut"),
    [(CONFIG, 40_000, "model.safetensors"), ("full", 200_000, "optimizer.pt"), ("houlsby", 20, "run.json")],
)
def test_a_run_on_a_full_disk_ends_in_one_error_and_goes_on_later(method, size, cut, encoder, rows, tmp_path):
    folder = tmp_path / "run"
    message, _ = in_a_child(_make, folder, encoder, rows, method, size=size)
    assert message.startswith(str(folder))
    assert "make room or choose another place" in message
    assert len(message.splitlines()) <= 2
    assert latest_checkpoint(folder) is None
    written = {path.name for path in folder.rglob("*") if path.is_file() and path.stat().st_size < size}
    assert cut not in written
    assert in_a_child(_make, folder, encoder, rows, method)[0] is None
    assert latest_checkpoint(folder).name == "checkpoint-5"


def full_for(name):
    """The system's ``os.replace``, but for one file there is no room."""
    replace = os.replace

    def put(source, target):
        if Path(target).name == name:
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    return put


@pytest.mark.parametrize(("save_steps", "how"), [(None, "it is trained again"), (2, "resume=True goes on from ch")])
def test_a_disk_that_is_full_when_training_is_done_costs_no_metrics(save_steps, how, options, tmp_path, monkeypatch):
    options |= {"save_steps": save_steps, "device": "cpu", "progress": False}
    whole = finetune(**options, output_dir=tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full_for("adapter.safetensors"))
        with pytest.warns(UserWarning, match="what it trained is not saved") as told:
            result = finetune(**options, output_dir=tmp_path / "full")
    assert (result.curve, result.losses, result.path) == (whole.curve, whole.losses, None)
    message = next(str(each.message) for each in told if "not saved" in str(each.message))
    assert how in message
    assert [message.count(words) for words in ("can't be written", "start again", "No space left")] == [1, 1, 1]
    again = finetune(**options, output_dir=tmp_path / "full", resume=True)
    assert again.path.read_bytes() == whole.path.read_bytes()


def test_a_folder_that_another_run_takes_meanwhile_is_left_to_it(options, tmp_path):
    class Taken(hf.TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            (tmp_path / "run.json").write_text('{"seed": 1}', encoding="utf-8")

    with pytest.warns(UserWarning, match="another run took .* meanwhile; give each run an output_dir of its own"):
        result = finetune(**options | {"save_steps": None}, output_dir=tmp_path, callbacks=[Taken()])
    assert (result.path, result.metrics != {}) == (None, True)
    assert not (tmp_path / "adapter.safetensors").exists()


def test_a_tokenizer_that_finds_the_disk_full_costs_no_metrics(options, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise Exception("No space left on device (os error 28)")  # as the tokenizers have it

    monkeypatch.setattr(hf.PreTrainedTokenizerBase, "save_pretrained", full)
    options |= {"method": "head", "save_steps": None, "device": "cpu", "progress": False}
    with pytest.warns(UserWarning, match=r"can't be written \(No space left on device \(os error 28\)\)"):
        result = finetune(**options, output_dir=tmp_path)
    assert (result.path, result.steps) == (None, 20)
    assert not [path for path in tmp_path.iterdir() if "model" in path.name]  # half a model would pass for a whole one


@needs_bubblewrap
def test_a_small_disk_and_a_read_only_one(tmp_path):
    """The system's own errors, not those of a limit: ENOSPC and EROFS."""
    code = (
        "import sys; from pathlib import Path; from prilora_lite.shared.files import write_whole\n"
        "try:\n    write_whole(Path(sys.argv[1]), bytes(1_000_000))\nexcept OSError as error:\n    print(error)"
    )
    for options, words in ((["--size", "65536", "--tmpfs"], "No space left"), (["--ro-bind", "/usr"], "Read-only")):
        sandbox = ["bwrap", "--dev-bind", "/", "/", *options, str(tmp_path), sys.executable, "-c", code]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run([*sandbox, str(tmp_path / "file")], env=environment, capture_output=True, text=True)
        assert f"{tmp_path / 'file'} can't be written ({words}" in done.stdout, done.stderr


@pytest.mark.parametrize("arguments", [["ablate", "--methods", "head", *QUICK, "--output"], ["record", "--folder"]])
def test_a_place_that_can_not_be_written_to_is_found_before_the_first_run(arguments, tmp_path, capsys):
    (tmp_path / "file").write_text("a file", encoding="utf-8")
    place = tmp_path / "file" / ("runs.jsonl" if "--output" in arguments else "folder")
    assert main([*arguments, str(place)]) == 2
    message = capsys.readouterr().err
    assert str(tmp_path / "file") in message
    assert "Traceback" not in message
    assert (tmp_path / "file").read_text(encoding="utf-8") == "a file"


def test_a_report_that_can_not_be_written_names_its_place(tmp_path, capsys):
    (tmp_path / "file").write_text("a file", encoding="utf-8")
    assert main(["report", str(ROOT / "results" / "pocket.jsonl"), "--output", str(tmp_path / "file" / "x")]) == 2
    assert f"{tmp_path / 'file' / 'x' / 'pocket.csv'} can't be written" in capsys.readouterr().err


def test_learners_copies_that_can_not_be_written_are_an_error(tmp_path, capsys):
    pytest.importorskip("nbgrader")
    (tmp_path / "file").write_text("a file", encoding="utf-8")
    course = str(ROOT / "notebooks" / "assignments")
    assert main(["assignments", "--release", str(tmp_path / "file" / "x"), "--course", course]) == 2
    error = capsys.readouterr().err
    assert str(tmp_path / "file" / "x") in error
    assert "Traceback" not in error


# Pickles and code


class Bomb:
    """Unpickled, it makes a file."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return open, (self.marker, "w")


def test_an_encoder_whose_weights_are_a_pickle_is_not_opened(tmp_path):
    folder, marker = write_encoder(tmp_path / "encoder"), tmp_path / "marker"
    (folder / "model.safetensors").unlink()
    torch.save({"weight": Bomb(marker)}, folder / "pytorch_model.bin")
    with pytest.raises(OSError, match=r"A pickle .* can run code .*\.save_pretrained\(.*\) writes model\.safetensors"):
        load_encoder(str(folder), TASKS["cola"])
    assert not marker.exists()
    torch.load(folder / "pytorch_model.bin", weights_only=False)
    assert marker.exists()  # it would have gone off


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
@pytest.mark.parametrize("sealed", [True, False])
def test_a_hostile_pickle_in_a_checkpoint_is_not_run(name, sealed, checkpoint, tmp_path):
    marker = tmp_path / "marker"
    torch.save({"state": Bomb(marker)}, checkpoint / name)
    if not sealed:
        (checkpoint / CHECKSUMS).unlink()
    with pytest.raises(Exception, match=r"damaged|weights_only|Weights only"):
        resume(checkpoint.parent)
    assert not marker.exists()


def test_a_hostile_pruner_in_a_checkpoint_is_not_run(checkpoint, tmp_path):
    marker, buffer = tmp_path / "marker", io.BytesIO()
    torch.save({"steps": Bomb(marker)}, buffer)
    file = checkpoint / "trainer_state.json"
    state = json.loads(file.read_text(encoding="utf-8"))
    saved = state["stateful_callbacks"]["PRILoRACallback"]["attributes"]["saved"]
    saved["pruner"] = base64.b64encode(buffer.getvalue()).decode()
    file.write_text(json.dumps(state), encoding="utf-8")
    (checkpoint / CHECKSUMS).unlink()
    with pytest.raises(RuntimeError, match="the pruner in the checkpoint of step 4 can't be read"):
        resume(checkpoint.parent)
    assert not marker.exists()


@pytest.mark.parametrize("model_type", ["bert", "of_its_own"])
@pytest.mark.parametrize("part", ["config.json", "tokenizer_config.json"])
def test_code_that_comes_with_an_encoder_is_not_run(model_type, part, tmp_path, monkeypatch):
    """Where transformers has the architecture, its own class is taken; else it asks whether to run the code."""
    folder, marker = write_encoder(tmp_path / "encoder"), tmp_path / "marker"
    (folder / "evil.py").write_text(f"open({str(marker)!r}, 'w')", encoding="utf-8")
    classes = {"AutoConfig": "evil.C", "AutoModelForSequenceClassification": "evil.M", "AutoTokenizer": ["evil.T"] * 2}
    for name, change in (("config.json", {"model_type": model_type}), (part, {"auto_map": classes})):
        file = folder / name
        stored = json.loads(file.read_text(encoding="utf-8"))
        file.write_text(json.dumps(stored | change), encoding="utf-8")
    monkeypatch.setattr("builtins.input", lambda *prompt: "y")
    if model_type == "bert":
        load_encoder(str(folder), TASKS["cola"])
    else:
        with pytest.raises((ValueError, OSError), match=str(folder)):
            load_encoder(str(folder), TASKS["cola"])
    assert not marker.exists()


# Names that climb


@pytest.mark.parametrize("name", ["../../x", "/etc", "..", "", "a/../../b", "C:\\x", "cola\0", "pocket-cola/../x"])
def test_a_name_that_climbs_is_no_task_no_method_and_no_recording(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="unknown task"):
        load_rows(name, tmp_path)
    for arguments in (["ablate", "--tasks", name], ["ablate", "--methods", name], ["record", name]):
        assert main(arguments) == 2
        assert "unknown" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["../../x", "..", "", "a/../../b", "\0", "x" * 5000])
def test_a_name_that_climbs_is_no_encoder(name, tmp_path, monkeypatch):
    inside = tmp_path / "a" / "b"
    inside.mkdir(parents=True)
    monkeypatch.chdir(inside)
    with pytest.raises((ValueError, OSError), match="could not load the encoder"):
        load_encoder(name, TASKS["cola"])
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('encoder = "../../x"', "could not load the encoder"),
        ('tasks = ["../../x"]', "unknown task"),
        ('methods = ["../../x"]', "unknown method"),
        ('rows = "../../x"\ntasks = ["cola"]', "no such folder"),
        ('output = "../../x"', "expected a name that ends in .jsonl"),
        ('output = "\\u0000.jsonl"', "null"),
        ("ranks = [1000000000000]", "layer 0 would get rank 1000000000000"),
        ("ratios = [nan]", "ratio"),
        ("ratios = [inf]", "ratio"),
        ('ranks = ["nan..4"]', "expected FIRST..LAST"),
        ("seeds = [1e3]", "invalid int value"),
        ("jobs = 1.5", "invalid int value"),
        ("[set]\nepochs = nan", "epochs must be a finite number above 0"),
        ("[set]\nlearning_rate = inf", "learning_rate must be a finite number above 0"),
        ("[set]\nbatch_size = 100000000000000000000", "batch_size must be an integer of at least 1 and below"),
        ("[set]\nepochs = 1e300", "epochs must be"),
        ("[set]\nhead_dropout = nan", "head_dropout must lie in"),
        ("tasks = [[1]]", "unknown task"),
        ("methods = [{a = 1}]", "unknown method"),
        ("precision = true", "invalid choice"),
        ("encoder = 1979-05-27", "could not load the encoder"),
        ("a = " + "[" * 5000, "is not TOML"),
        ("\x00", "is not TOML"),
    ],
)
def test_a_hostile_study_file_is_one_message(text, message, encoder, rows, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    harmless = {"methods": ["head"], "tasks": ["cola"], "encoder": encoder, "rows": str(rows), "device": "cpu"}
    lines = [f"{name} = {json.dumps(value)}" for name, value in harmless.items() if name not in text]
    (folder / "study.toml").write_text("\n".join([*lines, text]), encoding="utf-8")
    monkeypatch.chdir(folder)
    assert main(["ablate", "study.toml", "--set", "max_length=16"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    found = {path.name for path in tmp_path.rglob("*") if path.is_file() and path.stat().st_size}
    assert found == {"study.toml"}
