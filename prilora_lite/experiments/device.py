"""What a run computes on: the device, the precision, and how many processes share the work."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping

import torch

from prilora_lite.experiments.presets import PRESETS, Preset

PRECISIONS = ("auto", "fp32", "bf16")


def shared_by(environment: Mapping[str, str]) -> tuple[int, int]:
    """This process's number, from 0 up, and how many processes make one run together.

    torchrun and `accelerate launch` tell both. They call the first RANK, as many a script calls the rank of its
    matrices: it counts only where there are several processes.

    Args:
        environment: as ``os.environ``.

    Raises:
        ValueError: a number that is not below how many there are.
    """
    processes = int(environment.get("WORLD_SIZE", "1"))
    if processes <= 1:
        return 0, 1
    process = int(environment.get("RANK", "0"))
    if not 0 <= process < processes:
        raise ValueError(
            f"RANK={process} and WORLD_SIZE={processes} in the environment: expected a RANK from 0 to {processes - 1}, "
            "as torchrun sets it; without torchrun unset both"
        )
    return process, processes


PROCESS, PROCESSES = shared_by(os.environ)


def bf16_is_native(device: str) -> bool:
    """Whether a device type (``cuda``, ``mps``, ``cpu``) multiplies in bfloat16 in hardware, so that it is faster."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device == "cpu":
        capabilities = getattr(torch.cpu, "get_capabilities", dict)()  # torch 2.11 and newer tell
        return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    return False


def pick_precision(precision: str = "auto", encoder: str = "", device: str | None = None) -> str:
    """``fp32`` or ``bf16``: what was asked for, else what the encoder's preset says, else what suits the device.

    Raises:
        ValueError: no such precision or device.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    native, preset = bf16_is_native(pick_device(device)), PRESETS.get(encoder, Preset())
    choices = (precision, preset.precision, "bf16" if native else "fp32")
    return next(choice for choice in choices if choice != "auto")


def pick_device(device: str | None = None) -> str:
    """The device type used: the one asked for, else CUDA, else MPS, else CPU.

    Raises:
        ValueError: the device asked for is not there.
    """
    here = [name for name, module in (("cuda", torch.cuda), ("mps", torch.backends.mps)) if module.is_available()]
    here.append("cpu")
    if device is not None and device not in here:
        raise ValueError(f"device {device!r} is not available on this machine, which has {', '.join(here)}")
    return device or here[0]


@contextlib.contextmanager
def threads_for(encoder: str) -> Iterator[None]:
    """As many threads of torch as the encoder's preset says; afterwards as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(PRESETS.get(encoder, Preset()).threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
