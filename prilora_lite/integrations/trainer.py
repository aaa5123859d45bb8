"""PRILoRA in ``transformers.Trainer``: the callback that prunes, and checkpoints that tell whether they are whole."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from accelerate.state import PartialState
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import nn
from transformers.trainer_callback import ExportableState, TrainerCallback, TrainerControl, TrainerState
from transformers.training_args import TrainingArguments
from transformers.utils import logging

from prilora_lite.config import PRILoRAConfig
from prilora_lite.lora import LoRALinear
from prilora_lite.models.layers import INSTEAD, PeftLayer, configuration_of, lora_layers
from prilora_lite.pruner import Pruner
from prilora_lite.shared.files import sha256_of, write_whole

logger = logging.get_logger("transformers.prilora_lite")

SEVERAL_GPUS = (
    "Trainer would use nn.DataParallel over {} GPUs, whose replicas lose the input statistics: "
    "set CUDA_VISIBLE_DEVICES=0 for one GPU, or start one process per GPU with torchrun"
)
SPLIT_WEIGHTS = ("FSDP", "DEEPSPEED", "MEGATRON_LM")  # of Accelerate's ways to train
CHECKSUMS = "checksums.json"
TRAINED = "trained.safetensors"  # trained weights by the model's own names, where transformers saves them under others
LAST_WHOLE = "latest_checkpoint(folder) finds the last whole one"


class SealCheckpoints(TrainerCallback):
    """Writes the SHA-256 of each file of a checkpoint beside them, when Trainer has written them all."""

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        folder = _checkpoint(args, state)
        args.distributed_state.wait_for_everyone()  # each process writes the state of its own generators
        if state.is_world_process_zero and folder.is_dir():  # Trainer's search for hyperparameters has other folders
            files = sorted(file for file in folder.iterdir() if file.is_file() and file.name != CHECKSUMS)
            write_whole(folder / CHECKSUMS, json.dumps({file.name: sha256_of(file) for file in files}).encode())


def _trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def _renamed(folder: Path, trained: Iterable[str]) -> bool:
    """Whether a checkpoint of a whole model lacks trained weights under their own names."""
    file, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if file.is_file():
        with safe_open(file, framework="pt") as stored:
            return not set(trained) <= set(stored.keys())
    return index.is_file() and not set(trained) <= json.loads(index.read_text(encoding="utf-8"))["weight_map"].keys()


def _saved_in(state: TrainerState) -> dict[str, Any]:
    """What the callback left in a checkpoint.

    Raises:
        RuntimeError: it left nothing there.
    """
    stored = state.stateful_callbacks.get(PRILoRACallback.__name__, {})
    saved = stored.get("attributes", {}).get("saved") if isinstance(stored, dict) else None
    if saved is None:
        raise RuntimeError(
            f"the checkpoint of step {state.global_step} was written without PRILoRACallback, so it has no pruner "
            "to resume; start anew, or resume from a checkpoint of a run that had it"
        )
    return saved


def _checkpoint(args: TrainingArguments, state: TrainerState) -> Path:
    """Where Trainer keeps the checkpoint of this step."""
    return Path(args.output_dir) / f"checkpoint-{state.global_step}"


def damaged_file(checkpoint: Path) -> Path | None:
    """The first file of a checkpoint that is not as it was written; None if all are, or if there are no checksums."""
    sums = checkpoint / CHECKSUMS
    if not sums.exists():
        return None
    try:
        expected = json.loads(sums.read_text(encoding="utf-8"))
        files = [(checkpoint / Path(name).name, digest) for name, digest in expected.items()]
    except (OSError, ValueError, AttributeError, RecursionError):
        return sums
    return next((file for file, digest in files if not file.is_file() or sha256_of(file) != digest), None)


class PRILoRACallback(SealCheckpoints, ExportableState):
    """Runs the :class:`~prilora_lite.pruner.Pruner` inside ``transformers.Trainer``.

    Usage::

        adapt(model, PRILoRAConfig())
        trainer = Trainer(model, args, ..., callbacks=[PRILoRACallback()])

    or, with PEFT::

        model = get_peft_model(model, LoraConfig(..., **rank_pattern_for(model, first_rank=4, last_rank=12)))
        trainer = Trainer(model, args, ..., callbacks=[PRILoRACallback()])

    It prunes every N optimizer steps and in the last one, before Trainer's last evaluation and save. With
    ``load_best_model_at_end`` it also prunes before each evaluation and save, so that the checkpoint chosen was pruned
    when it was evaluated. The pruner's state travels in the checkpoint's ``trainer_state.json``; a resumed run takes it
    from there, and stops if it is missing or the weights that Trainer loaded are not the ones it was saved with. It
    writes the SHA-256 of a checkpoint's files beside them, ``checksums.json``; a run that is resumed from a checkpoint
    in its own ``output_dir`` stops if one differs. In any other folder, :func:`latest_checkpoint` checks them.

    Args:
        config: gives the pruning settings for a model of PEFT's; default: those of :class:`~.config.PRILoRAConfig`.
            A model that ``adapt`` was called on has its own.

    Attributes:
        pruner: the pruner of the current run, None before it and where the configuration's ratio is 0.
        pruned_after_evaluation: whether a run that was stopped early had to be pruned once more when it had ended.

    Raises (in training):
        RuntimeError: the model is not adapted, not adapted as ``config`` says, or merged; Trainer uses FSDP, DeepSpeed
            or ``nn.DataParallel``; or a checkpoint can't be resumed from.
    """

    def __init__(self, config: PRILoRAConfig | None = None) -> None:
        self.config = config
        self.pruner: Pruner | None = None
        self.pruned_after_evaluation = False
        self._model: nn.Module | None = None
        self._layers: dict[str, LoRALinear | PeftLayer] = {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: nn.Module, **kwargs: Any
    ) -> None:
        layers = lora_layers(model)
        if not layers:
            raise RuntimeError(
                "the model is not adapted: call adapt(model, config), or PEFT's get_peft_model with a LoraConfig, "
                "before making the Trainer"
            )
        config = self._settled_config(model)
        if not any(layer.lora_A.requires_grad for layer in layers.values()):
            raise RuntimeError(
                "lora_A is frozen in all layers, so nothing would be trained, and A would still be pruned: "
                "PeftModel.from_pretrained needs is_trainable=True for an adapter that is to go on training"
            )
        if any(layer.merged for layer in layers.values()):
            raise RuntimeError("the model is merged, so its adapter would not be trained; call unmerge() on its layers")
        _check_processes(args)
        if any(getattr(module, "gradient_checkpointing", False) for module in model.modules()):
            model.enable_input_require_grads()  # the reentrant kind drops the gradient behind frozen embeddings
        self._model, self._layers, self.pruned_after_evaluation = model, layers, False
        if self.pruner is not None:
            self.pruner.detach()  # of a run that was interrupted
        self.pruner = Pruner(model, **config.pruning(args.seed)) if config.ratio else None
        if state.global_step:
            if damaged := damaged_file(_checkpoint(args, state)):
                raise RuntimeError(f"{damaged} is not as it was written: it is damaged; {LAST_WHOLE}")
            self._resume(_checkpoint(args, state), state)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        folder = _checkpoint(args, state)
        if state.is_world_process_zero and self._model is not None and _renamed(folder, _trained(self._model)):
            write_whole(folder / TRAINED, save({name: p.detach().cpu() for name, p in _trained(self._model).items()}))
        super().on_save(args, state, control, **kwargs)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.pruner is not None:
            self.pruner.step()
            last = state.global_step >= state.max_steps or control.should_training_stop
            if last or self._will_be_judged(args, control):
                self.pruner.prune()

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.pruner is not None and self.pruner.steps and self._will_be_judged(args, control):
            self.pruner.prune()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self._model is None:
            return
        if args.load_best_model_at_end and state.best_model_checkpoint is not None:
            best = Path(state.best_model_checkpoint)
            self._restore(best, _saved_in(TrainerState.load_from_json(str(best / "trainer_state.json"))))
        if self.pruner is None:
            return
        self.pruner.detach()
        if self.pruner.steps == 0:
            logger.warning("PRILoRACallback: no optimizer step was made, so nothing was pruned")
        elif self.pruner.pruned_at != self.pruner.steps and state.best_model_checkpoint is None:
            logger.warning("PRILoRACallback: training was stopped early; pruned now, so evaluate and save once more")
            self.pruner.prune()
            self.pruned_after_evaluation = True

    @property
    def history(self) -> list[dict[str, float]]:
        """The pruner's: for each prune its step, the share of zeros before and after, and the mass removed."""
        return self.pruner.history if self.pruner else []

    def state(self) -> dict[str, Any]:
        """What Trainer writes into ``trainer_state.json``: the pruner, and a digest of the trained weights."""
        if self._model is None:
            return {"args": {}, "attributes": {}}
        buffer = io.BytesIO()
        torch.save(None if self.pruner is None else self.pruner.state_dict(), buffer)
        saved = {
            "pruner": base64.b64encode(buffer.getvalue()).decode(),
            "weights": _digest(self._model),
            "layers": {name: [layer.rank, layer.scaling, layer.dropout] for name, layer in self._layers.items()},
        }
        return {"args": {}, "attributes": {"saved": saved}}

    def _settled_config(self, model: nn.Module) -> PRILoRAConfig:
        """The configuration to prune by: the one that the model was adapted with; without one, the callback's own."""
        config = configuration_of(model) or self.config or PRILoRAConfig()
        if self.config not in (None, config):
            raise RuntimeError(
                f"PRILoRACallback was given {self.config}, but the model was adapted with {config}; leave the first "
                "out, or change the second: model.prilora_config = dataclasses.replace(model.prilora_config, ratio=...)"
            )
        return config

    def _resume(self, folder: Path, state: TrainerState) -> None:
        saved = _saved_in(state)
        now = {name: [layer.rank, layer.scaling, layer.dropout] for name, layer in self._layers.items()}
        for name, was in saved.get("layers", now).items():
            if was != now.get(name):
                raise RuntimeError(
                    f"in the checkpoint of step {state.global_step} {name} had rank, scaling and dropout {was}; now it "
                    f"has {now.get(name)}: resume with the configuration that the run began with, or start anew"
                )
        self._restore(folder, saved)
        try:
            pruner_state = torch.load(
                io.BytesIO(base64.b64decode(saved["pruner"])), weights_only=True, map_location="cpu"
            )
        except Exception as error:  # damaged or hostile bytes end in errors of many kinds; none of them runs
            raise RuntimeError(f"the pruner in the checkpoint of step {state.global_step} can't be read") from error
        if (pruner_state is None) != (self.pruner is None):
            raise RuntimeError("the checkpoint was saved with pruning on and is resumed with it off, or the reverse")
        if self.pruner is not None:
            self.pruner.load_state_dict(pruner_state)

    def _restore(self, folder: Path, saved: dict[str, Any]) -> None:
        """See to it that the model has the weights that a checkpoint was saved with.

        Trainer takes what it finds in a file by name. Some models (ViT and its kin) are saved by transformers under
        other names than they have, so that only the head would arrive.
        """
        if saved["weights"] == _digest(self._model):
            return
        own = folder / TRAINED
        if own.is_file():
            stored, parameters = load_file(own), dict(self._model.named_parameters())
            with torch.no_grad():
                for name in stored.keys() & parameters.keys():
                    parameters[name].copy_(stored[name])
        if saved["weights"] != _digest(self._model):
            raise RuntimeError(
                f"the weights that Trainer loaded are not those that {folder} was saved with: it is damaged or belongs "
                "to another model, or transformers saved it under other names than the model has (as it does with ViT) "
                f"and there is no {TRAINED} in it; {LAST_WHOLE}"
            )

    @staticmethod
    def _will_be_judged(args: TrainingArguments, control: TrainerControl) -> bool:
        selects = args.load_best_model_at_end or args.save_strategy == "best"
        return selects and (control.should_evaluate or control.should_save)


def _check_processes(args: TrainingArguments) -> None:
    """Raise RuntimeError where no process has the whole weights and the statistics of its inputs."""
    if args.n_gpu > 1:
        raise RuntimeError(SEVERAL_GPUS.format(args.n_gpu))
    strategy = PartialState().distributed_type
    if strategy.name in SPLIT_WEIGHTS:
        raise RuntimeError(f"under {strategy.value} no process has whole weights to prune: {INSTEAD}")


def latest_checkpoint(folder: str | Path) -> Path | None:
    """The newest checkpoint of a Trainer in a folder that was written to its end, None if there is none.

    Trainer writes ``trainer_state.json`` last; a checkpoint without a readable one was cut off and is passed over, and
    so is one with a file whose SHA-256 is not the one that :class:`PRILoRACallback` wrote down.

    Raises:
        TypeError, ValueError, OSError: not a path.
    """
    found = []
    for path in Path(folder).glob("checkpoint-*"):
        try:
            step = json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))["global_step"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            continue
        if isinstance(step, int):
            found.append((step, path))
    return next((path for _, path in sorted(found, reverse=True) if damaged_file(path) is None), None)


def _digest(model: nn.Module) -> str:
    """SHA-256 over all trainable parameters."""
    digest = hashlib.sha256()
    for name, parameter in _trained(model).items():
        digest.update(name.encode())
        digest.update(parameter.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
