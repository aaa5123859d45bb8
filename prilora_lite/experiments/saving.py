"""What a run leaves in its folder: whose checkpoints these are, and what was trained."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save
from torch import nn
from transformers import PreTrainedTokenizerBase

from prilora_lite.checkpoint import save_adapter
from prilora_lite.config import PRILoRAConfig
from prilora_lite.experiments.bars import no_bars
from prilora_lite.experiments.device import PROCESS
from prilora_lite.experiments.identity import same_fields
from prilora_lite.integrations.checkpoints import latest_checkpoint
from prilora_lite.shared.errors import warn
from prilora_lite.shared.files import NotWritten, not_written, write_whole

# In what torch.save and the tokenizers raise on a full disk, which is no OSError
CANT_WRITE = ("PytorchStreamWriter", "iostream error", "os error")

PRODUCTS = ("adapter.safetensors", "trained.safetensors", "model")  # what save_trained leaves
NAMES = {"rows": "the content of the rows", "weights": "the content of the encoder"}


def claim(folder: Path, run: dict[str, Any], resume: bool) -> bytes:
    """Write down which run a folder belongs to; refuse one that holds the checkpoints or the result of another.

    Args:
        folder: may hold the same run's checkpoints, if it is resumed, and its result, which is written anew.
        run: the description of the run, as :func:`~.identity.described` gives it.
        resume: whether to go on from checkpoints.

    Returns:
        What run.json says now, for :func:`try_to_save`.

    Raises:
        ValueError: checkpoints or a result of another run; the message names what has changed.
    """
    file, has_checkpoints = folder / "run.json", latest_checkpoint(folder) is not None
    results = [name for name in PRODUCTS if (folder / name).exists()]
    if has_checkpoints and not resume:
        raise ValueError(f"{folder} holds checkpoints of an earlier run: resume it, or give another output_dir")
    if has_checkpoints or results:
        what = "checkpoints" if has_checkpoints else results[0]
        try:
            earlier = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
            there, here = same_fields(earlier), same_fields(json.loads(json.dumps(run)))
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(f"{file}, which says whose {what} these are, can't be read: {error}") from error
        if differ := [name for name in here if there.get(name) != here[name]]:
            changes = ", ".join(_change(name, earlier, run) for name in differ)
            raise ValueError(f"{folder} holds {what} of another run: {changes}; give another output_dir")
    claimed = json.dumps(run, indent=1).encode()
    write_whole(file, claimed)
    return claimed


def _change(name: str, earlier: dict[str, Any], run: dict[str, Any]) -> str:
    label = NAMES.get(name, name)
    if name not in earlier:
        return f"{label} is {run[name]!r}, and run.json does not say what it was"
    return f"{label} was {earlier[name]!r} and is {run[name]!r}"


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """A NotWritten that names the folder where a library's own error says that a file can't be written."""
    try:
        yield
    except NotWritten:  # by one of ours, which names the file
        raise
    except Exception as error:
        if not isinstance(error, OSError | SafetensorError) and not any(words in str(error) for words in CANT_WRITE):
            raise
        raise not_written(folder, error) from error


def try_to_save(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, method: str | PRILoRAConfig, folder: Path, claimed: bytes
) -> Path | None:
    """As :func:`save_trained`; where it can't write, a warning and None: a long run's metrics are not lost for that.

    Args:
        model, tokenizer, method, folder: see there.
        claimed: what :func:`claim` wrote; a folder that another run has claimed meanwhile is left to it.
    """
    try:
        with writing(folder):
            if (folder / "run.json").read_bytes() != claimed:
                raise NotWritten(f"another run took {folder} meanwhile; give each run an output_dir of its own")
            return save_trained(model, tokenizer, method, folder)
    except NotWritten as error:
        checkpoint = latest_checkpoint(folder)
        how = f"resume=True goes on from {checkpoint.name}" if checkpoint else "no checkpoint: it is trained again"
        warn(f"the run is done and has its metrics, but what it trained is not saved: {error} ({how})")
        return None


def save_trained(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, method: str | PRILoRAConfig, folder: Path
) -> Path:
    """Write what was trained; of several processes only the first writes. Returns where it is."""
    if isinstance(method, PRILoRAConfig):
        path = folder / "adapter.safetensors"
        return save_adapter(model, path) if PROCESS == 0 else path
    if method in ("houlsby", "pfeiffer"):  # no class of transformers has these layers
        path = folder / "trained.safetensors"
        trained = {name: p.detach().cpu() for name, p in model.named_parameters() if p.requires_grad}
        if PROCESS == 0:
            write_whole(path, save(trained))
        return path
    path, part = folder / "model", folder / ".model.part"
    if PROCESS == 0:
        try:
            with no_bars("transformers"):
                model.save_pretrained(part)
            tokenizer.save_pretrained(part)
            shutil.rmtree(path, ignore_errors=True)
            part.rename(path)
        finally:  # half a model would pass for a whole one
            shutil.rmtree(part, ignore_errors=True)
    return path
