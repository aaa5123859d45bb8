"""What a run leaves in its folder: whose checkpoints these are, and what was trained."""

from __future__ import annotations

import contextlib
import json
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
from prilora_lite.integrations.trainer import latest_checkpoint
from prilora_lite.shared.files import not_written, write_whole

TORCH_CANT_WRITE = ("PytorchStreamWriter", "iostream error")  # in torch.save's RuntimeError on a full disk


def claim(folder: Path, run: dict[str, Any], resume: bool) -> None:
    """Write down which run a folder belongs to; refuse one that holds the checkpoints of another."""
    file = folder / "run.json"
    if latest_checkpoint(folder) is not None:
        if not resume:
            raise ValueError(f"{folder} holds checkpoints of an earlier run: resume it, or give another output_dir")
        try:
            earlier = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
            there, here = same_fields(earlier), same_fields(json.loads(json.dumps(run)))
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(f"{file}, which says whose checkpoints these are, can't be read: {error}") from error
        differ = [name for name in here if there.get(name) != here[name]]
        if differ:
            changes = ", ".join(f"{name} was {earlier.get(name)!r} and is {run[name]!r}" for name in differ)
            raise ValueError(f"{folder} holds checkpoints of another run: {changes}; give another output_dir")
    write_whole(file, json.dumps(run, indent=1).encode())


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """An OSError that names the folder where torch's or safetensors' own error says that a file can't be written."""
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not any(words in str(error) for words in TORCH_CANT_WRITE):
            raise
        raise not_written(folder, error) from error


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
    if PROCESS == 0:
        with no_bars("transformers"):
            model.save_pretrained(folder / "model")
        tokenizer.save_pretrained(folder / "model")
    return folder / "model"
