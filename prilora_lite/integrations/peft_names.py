"""What PEFT calls its files and its parameters."""

from __future__ import annotations

from typing import Any

from prilora_lite.models.layers import COMPILED

CONFIG, WEIGHTS, CARD, PREFIX = "adapter_config.json", "adapter_model.safetensors", "README.md", "base_model.model."


def own_name(name: str) -> str:
    """A parameter's name in the adapted model, from the one in PEFT's file."""
    name = name.removeprefix(PREFIX).removeprefix(COMPILED)
    return name.removesuffix(".weight") if name.endswith((".lora_A.weight", ".lora_B.weight")) else name


def peft_name(name: str) -> str:
    """The inverse of :func:`own_name`."""
    return PREFIX + name + (".weight" if name.endswith((".lora_A", ".lora_B")) else "")


def peft() -> Any:
    """PEFT itself.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    try:
        import peft
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("PEFT's format needs PEFT: pip install peft") from error
    return peft
