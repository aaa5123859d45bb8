from dataclasses import replace

import pytest
import torch

from prilora_lite.experiments.device import bf16_is_native, pick_device, pick_precision, shared_by
from tests.training import FAST, run


def test_precision_and_device_that_do_not_exist_are_refused(encoder, rows):
    with pytest.raises(ValueError, match="precision must be one of auto, fp32, bf16, got 'fp8'"):
        run(encoder, rows, precision="fp8")
    with pytest.raises(ValueError, match=r"device 'tpu' is not available on this machine, which has .*cpu"):
        run(encoder, rows, device="tpu")


def test_the_device_is_chosen_by_itself():
    assert pick_device() == ("cuda" if torch.cuda.is_available() else "mps" if torch.mps.is_available() else "cpu")
    assert pick_device("cpu") == "cpu"
    assert bf16_is_native("mps") is False


def test_the_precision_asked_for_goes_before_the_presets_and_that_before_the_devices(monkeypatch):
    monkeypatch.setattr("prilora_lite.experiments.device.bf16_is_native", lambda device: True)
    assert pick_precision("fp32", "minilm", "cpu") == "fp32"
    assert pick_precision("auto", "pocket", "cpu") == "fp32"
    assert pick_precision("auto", "minilm", "cpu") == "bf16"


def test_a_rank_in_the_environment_is_a_processs_number_only_beside_several_processes():
    assert shared_by({}) == shared_by({"RANK": "8"}) == shared_by({"RANK": "8", "WORLD_SIZE": "1"}) == (0, 1)
    assert shared_by({"RANK": "1", "WORLD_SIZE": "2"}) == (1, 2)
    with pytest.raises(ValueError, match=r"RANK=8 and WORLD_SIZE=2 .* from 0 to 1, as torchrun .* unset both"):
        shared_by({"RANK": "8", "WORLD_SIZE": "2"})


@pytest.mark.parametrize("launched", ["bf16", "fp16"])  # on a CPU, Accelerate leaves fp16 out by itself
def test_a_run_in_fp32_is_one_whatever_accelerate_was_launched_with(launched, encoder, rows, monkeypatch):
    short = replace(FAST, epochs=0.4)
    losses = run(encoder, rows, settings=short).losses
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", launched)
    assert run(encoder, rows, settings=short).losses == losses
