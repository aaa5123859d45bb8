"""PRILoRA in ``transformers.Trainer``: the callback that prunes."""

from __future__ import annotations

import base64
import io
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers.trainer_callback import ExportableState, TrainerControl, TrainerState
from transformers.training_args import TrainingArguments
from transformers.utils import logging

from prilora_lite.adapter_file import warn_of_what_is_lost
from prilora_lite.config import PRILoRAConfig
from prilora_lite.integrations.checkpoints import LAST_WHOLE, SealCheckpoints, checkpoint_of, damaged_file, resumed_from
from prilora_lite.integrations.rank_patterns import check_as_asked
from prilora_lite.integrations.trained import TRAINED, digests, keep_what_is_lacking, restore, trained
from prilora_lite.integrations.trainer_arguments import (
    check_averages,
    check_checkpoints,
    check_optimizer,
    check_processes,
    left_out,
)
from prilora_lite.lora import LoRALinear
from prilora_lite.models.layers import PeftLayer, check_patterns, configuration_of, lora_layers
from prilora_lite.models.listener import warn_if_untrained
from prilora_lite.pruner import Pruner
from prilora_lite.shared.errors import first_of

NOT_ADAPTED = (
    "the model is not adapted: call adapt(model, config), or PEFT's get_peft_model with a LoraConfig, before making "
    "the Trainer"
)
LAST = "put PRILoRACallback last among the callbacks, behind those that ask for an evaluation or a save"

logger = logging.get_logger("transformers.prilora_lite")


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
    from there, and stops if it is missing. It also stops if the weights that Trainer loads, on resuming or as the best
    ones at the end, are not those saved. What Trainer would not find again by name, the callback saves itself, as
    ``trained.safetensors``: ViT's weights, or what is trained beside a PEFT adapter. It writes the SHA-256 of a
    checkpoint's files beside them, ``checksums.json``; a run that is resumed from a checkpoint in its own
    ``output_dir``, or in the folder that ``TrainingArguments(resume_from_checkpoint=...)`` names, stops if one differs.
    In any other folder, :func:`~.checkpoints.latest_checkpoint` checks them. With
    ``restore_callback_states_from_checkpoint`` Trainer makes a callback of its own; it is in
    ``trainer.callback_handler.callbacks``.

    Args:
        config: gives the pruning settings for a PEFT model; default: those of :class:`~.config.PRILoRAConfig`.
            A model that ``adapt`` was called on has its own.

    Attributes:
        pruner: the pruner of the current run, None before it and where the configuration's ratio is 0.
        pruned_after_evaluation: whether the model had to be pruned once more when the run had ended, because it was
            stopped early, or because a callback behind this one asked for the evaluation that was the best.

    Raises (in training):
        RuntimeError: the model is not adapted, not adapted as ``config`` says, or merged; there are two such callbacks;
            Trainer uses FSDP, DeepSpeed or ``nn.DataParallel``, or could not load the best model; a checkpoint can't be
            resumed from; or the weights that Trainer loaded are not those that were saved.
        ValueError: a run is resumed with other settings of pruning; ranks that PEFT gave to no layer, or two rules for
            its scaling; or several of PEFT's adapters are active.
    """

    def __init__(self, config: PRILoRAConfig | None = None) -> None:
        self.config = config  # after restore_callback_states_from_checkpoint first as JSON has it, or "a function"
        self.pruner: Pruner | None = None
        self.pruned_after_evaluation = False
        self._args: TrainingArguments | None = None
        self._model: nn.Module | None = None
        self._layers: dict[str, LoRALinear | PeftLayer] = {}

    def on_init_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: nn.Module, **kwargs: Any
    ) -> None:
        # said now, as a resumed run loads the optimizer's state before it asks a callback again
        if not any(".lora_A" in name for name, _ in model.named_parameters()):
            logger.warning(f"PRILoRACallback: {NOT_ADAPTED}; else a resumed run fails as it loads the optimizer")

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: nn.Module, **kwargs: Any
    ) -> None:
        layers = lora_layers(model)
        if not layers:
            raise RuntimeError(NOT_ADAPTED)
        self._check_alone(state)
        config = self._settled_config(model)
        if not config.ratio:  # else the pruner says it
            check_patterns(model, layers)
        if configuration_of(model) is None:
            check_as_asked(config, model, layers)
        if not any(layer.lora_A.requires_grad for layer in layers.values()):
            raise RuntimeError(
                "lora_A is frozen in all layers, so the adapter would be neither trained nor pruned: "
                "PeftModel.from_pretrained needs is_trainable=True for an adapter that is to go on training"
            )
        if any(layer.merged for layer in layers.values()):
            raise RuntimeError("the model is merged, so its adapter would not be trained; call unmerge() on its layers")
        check_optimizer(kwargs.get("optimizer"), model, layers.values())
        check_averages(kwargs.get("optimizer"), config.ratio)
        if names := left_out(kwargs.get("optimizer"), model):
            logger.warning(f"PRILoRACallback: the optimizer does not hold {first_of(names)}: that stays as it is")
        check_processes(args)
        check_checkpoints(args, state, model)
        if not config.ratio:  # else the pruner says it
            warn_of_what_is_lost(model)
        if any(getattr(module, "gradient_checkpointing", False) for module in model.modules()):
            _require_input_gradients(model)
        self._args, self._model, self._layers, self.pruned_after_evaluation = args, model, layers, False
        if self.pruner is not None:
            self.pruner.detach()  # of a run that was interrupted
        self.pruner = Pruner(model, **config.pruning(args.seed)) if config.ratio else None
        if config.ratio and state.max_steps <= config.interval > 1 and not _selects(args):
            logger.warning(
                f"PRILoRACallback: the run has {state.max_steps} steps and the interval is {config.interval}, so A is "
                "pruned once, in the last step, and no step is left to recover: give PRILoRAConfig a smaller interval"
            )
        if state.global_step:
            folder = resumed_from(args, state)
            if damaged := damaged_file(folder):
                raise RuntimeError(f"{damaged} is not as it was written: it is damaged; {LAST_WHOLE}")
            self._resume(folder, state)
            if self.pruner is not None and self.pruner.steps < state.global_step:  # it was saved in mid-step
                self.on_step_end(args, state, control)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        folder = checkpoint_of(args, state)
        if args.should_save and self._model is not None and folder.is_dir():
            keep_what_is_lacking(self._model, folder)
        if self.pruner is not None and _selects(args) and not _was_pruned(self.pruner.state_dict()):
            logger.warning(f"PRILoRACallback: the model of step {state.global_step} was saved unpruned: {LAST}")
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
        best = self._restore_best(state) if args.load_best_model_at_end else None
        if self.pruner is None:
            warn_if_untrained(self._layers, state.global_step)
            return
        self.pruner.detach()
        if self.pruner.steps == 0:
            logger.warning("PRILoRACallback: no optimizer step was made, so nothing was pruned")
        elif not _was_pruned(best or self.pruner.state_dict()):
            why = f"the best model was evaluated unpruned: {LAST}" if best else "training was stopped early"
            logger.warning(f"PRILoRACallback: {why}; pruned now, so evaluate and save once more")
            self.pruner.prune()
            self.pruned_after_evaluation = True

    @property
    def history(self) -> list[dict[str, float]]:
        """For each prune that chose entries its step, the share of zeros before and after, and the mass removed."""
        return self.pruner.history if self.pruner else []

    def state(self) -> dict[str, Any]:
        """What Trainer writes into ``trainer_state.json``: the pruner, and a digest of the trained weights."""
        if self._model is None:
            return {"args": {}, "attributes": {}}
        try:
            config = None if self.config is None else self.config.to_dict()
        except ValueError:
            config = "a function"  # which no file can hold
        buffer = io.BytesIO()
        torch.save(None if self.pruner is None else self.pruner.state_dict(), buffer)
        saved = {
            "pruner": base64.b64encode(buffer.getvalue()).decode(),
            "weights": digests(self._model),
            "optimizer": not self._args.save_only_model,
            "layers": self._shape_of_layers(),
        }
        return {"args": {}, "attributes": {"saved": saved, "config": config}}

    def _check_alone(self, state: TrainerState) -> None:
        """Refuse two callbacks of this kind."""
        if isinstance(state.stateful_callbacks.get(type(self).__name__), list):
            raise RuntimeError(f"Trainer was given two callbacks {type(self).__name__}: one prunes, so leave one out")

    def _settled_config(self, model: nn.Module) -> PRILoRAConfig:
        """The configuration to prune by: the one that the model was adapted with; without one, the callback's own."""
        if isinstance(self.config, str):
            raise RuntimeError(
                "the callback's configuration has a function in it, which a checkpoint can't hold: leave out "
                "restore_callback_states_from_checkpoint; PRILoRACallback resumes without it"
            )
        if isinstance(self.config, dict):
            self.config = PRILoRAConfig.from_dict(self.config)
        given, config = self.config, configuration_of(model) or self.config or PRILoRAConfig()
        if given and callable(given.ranks) and isinstance(config.ranks, tuple):  # adapt wrote down what it gives
            given = replace(given, ranks=tuple(given.layer_ranks(len(config.ranks))))
        if given not in (None, config):
            names = [field.name for field in fields(config)]
            differ = [name for name in names if getattr(given, name) != getattr(config, name)]
            said, has = (", ".join(f"{name}={getattr(one, name)!r}" for name in differ) for one in (given, config))
            raise RuntimeError(
                f"PRILoRACallback was given {said}, but the model was adapted with {has}; leave the first "
                "out, or change the second: model.prilora_config = dataclasses.replace(model.prilora_config, ratio=...)"
            )
        return config

    def _shape_of_layers(self) -> dict[str, list[float]]:
        """Rank, scaling and dropout of each layer: a resumed run must have the same."""
        return {name: [layer.rank, layer.scaling, layer.dropout] for name, layer in self._layers.items()}

    def _saved_in(self, state: TrainerState) -> dict[str, Any]:
        """What the callback left in a checkpoint.

        Raises:
            RuntimeError: it left nothing there that can be used.
        """
        stored = state.stateful_callbacks.get(type(self).__name__, {})
        saved = stored.get("attributes", {}).get("saved") if isinstance(stored, dict) else None
        step = state.global_step
        if saved is None:
            raise RuntimeError(
                f"the checkpoint of step {step} was written without {type(self).__name__}, so it has no pruner "
                "to resume; start anew, or resume from a checkpoint of a run that had it"
            )
        if not isinstance(saved["weights"], dict):
            raise RuntimeError(f"the checkpoint of step {step} was written by an earlier version: start anew")
        return saved

    def _resume(self, folder: Path, state: TrainerState) -> None:
        saved, step = self._saved_in(state), state.global_step
        if not saved["optimizer"]:
            raise RuntimeError(
                f"the checkpoint of step {step} was written with save_only_model, without the state of the optimizer "
                "and the schedule, so no run can go on from it: load its weights into the model and start a new run"
            )
        now = self._shape_of_layers()
        for name, was in saved["layers"].items():
            if was != now.get(name):
                raise RuntimeError(
                    f"in the checkpoint of step {step} {name} had rank, scaling and dropout {was}; now it "
                    f"has {now.get(name)}: resume with the configuration that the run began with, or start anew"
                )
        if changed := sorted(saved["weights"].keys() ^ trained(self._model).keys()):
            raise RuntimeError(
                f"in the checkpoint of step {step} {first_of(changed)} were trained and now are not, "
                "or the reverse: freeze what was frozen when it was written, and nothing else"
            )
        self._restore(folder, saved)
        pruner_state = _pruner_in(saved, step)
        if (pruner_state is None) != (self.pruner is None):
            raise RuntimeError("the checkpoint was saved with pruning on and is resumed with it off, or the reverse")
        if self.pruner is not None:
            self.pruner.load_state_dict(pruner_state)
            if self.pruner.steps == step:
                self.pruner.forget_pending()

    def _restore_best(self, state: TrainerState) -> dict[str, Any] | None:
        """See to it that the model is the best one; what state the pruner was in then, None if there was none."""
        if state.best_model_checkpoint is None:
            logger.warning("PRILoRACallback: no checkpoint was the best, so the model is that of the last step")
            return None
        best = Path(state.best_model_checkpoint)
        if not (best / "trainer_state.json").is_file():  # Trainer goes on with a warning, too
            logger.warning(f"PRILoRACallback: the best checkpoint, {best}, is gone: the model is that of the last step")
            return None
        was = TrainerState.load_from_json(str(best / "trainer_state.json"))
        saved = self._saved_in(was)
        self._restore(best, saved)
        if state.best_global_step and best.name != f"checkpoint-{state.best_global_step}":
            logger.warning(
                f"PRILoRACallback: the best evaluation was in step {state.best_global_step}, which has no checkpoint; "
                f"the model is that of {best}"
            )
        return _pruner_in(saved, was.global_step)

    def _restore(self, folder: Path, saved: dict[str, Any]) -> None:
        """See to it that the model has the weights that a checkpoint was saved with."""
        restored, lacking = restore(self._model, folder, saved["weights"])
        if lacking:
            raise RuntimeError(
                f"the weights that Trainer loaded are not those that {folder} was saved with: "
                f"{first_of(lacking)} did not arrive. It is damaged or belongs to another model, or transformers "
                f"saved it under other names than the model has (as it does with ViT) and there is no {TRAINED} in it; "
                f"{LAST_WHOLE}. If you resume from another folder, name it in "
                "TrainingArguments(resume_from_checkpoint=...), too"
            )
        if restored:  # behind Trainer's warning of missing keys, most of them the base's, which nothing has changed
            logger.warning(
                "PRILoRACallback: the model is whole. Of the missing keys that Trainer may have warned of, those that "
                f"were trained, {len(restored)} tensors, were taken from {folder / TRAINED}; the others are the base's"
            )

    @staticmethod
    def _will_be_judged(args: TrainingArguments, control: TrainerControl) -> bool:
        return _selects(args) and (control.should_evaluate or control.should_save)


def _selects(args: TrainingArguments) -> bool:
    """Whether Trainer keeps the model of the best evaluation."""
    return args.load_best_model_at_end or args.save_strategy == "best"


def _was_pruned(pruner: dict[str, Any]) -> bool:
    """Whether A was pruned in the step that a pruner's state is of, or has masks that last."""
    return pruner["pruned_at"] == pruner["steps"] or bool(pruner["masks"])


def _pruner_in(saved: dict[str, Any], step: int) -> dict[str, Any] | None:
    """The pruner's state in what the callback saved."""
    try:
        return torch.load(io.BytesIO(base64.b64decode(saved["pruner"])), weights_only=True, map_location="cpu")
    except Exception as error:  # damaged or hostile bytes end in errors of many kinds; none of them runs
        raise RuntimeError(f"the pruner in the checkpoint of step {step} can't be read") from error


def _require_input_gradients(module: nn.Module) -> None:
    """Without them, checkpointing of the reentrant kind drops the gradient behind frozen embeddings."""
    if hasattr(module, "get_input_embeddings") and hasattr(module, "enable_input_require_grads"):
        trained = any(parameter.requires_grad for parameter in module.parameters())
        if trained and any(getattr(inner, "gradient_checkpointing", False) for inner in module.modules()):
            module.enable_input_require_grads()  # and does it for the models inside
        return
    for child in module.children():
        _require_input_gradients(child)
