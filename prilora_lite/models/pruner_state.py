"""What a pruner writes down: on the model, how it pruned; in its state, its settings, and who may go on from it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

from torch import nn

from prilora_lite.adapter_file import warn_of_what_is_lost
from prilora_lite.importance import IMPORTANCE_RULES, importance_rule, inputs_of
from prilora_lite.shared.callables import callable_name, is_ours
from prilora_lite.shared.errors import expect, warn


def stored_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """A pruner's settings as a file can hold them; a seed only where something is drawn.

    A function of one's own stands there by its name and a digest, under whatever name it is in the table of rules: so
    an edited one is another.
    """
    rule = settings["importance"]
    named = isinstance(rule, str) and is_ours(importance_rule(rule))
    stored = settings | {"importance": rule if named else callable_name(importance_rule(rule))}
    return stored if "generator" in inputs_of(rule) else stored | {"seed": None}


def check_state(state: dict[str, Any], now: dict[str, Any], rule: object) -> None:
    """Raise ValueError unless a saved state is of a pruner over the same layers with the same settings.

    Args:
        state, now: what the state_dict() of the saved pruner was, and what that of this one is.
        rule: the importance of this one.
    """
    expect(dict, state, "the state_dict() of a Pruner")
    if state.get("layers") != now["layers"]:
        raise ValueError("the saved pruner belongs to another model: its lora_A have other names or shapes")
    if state["norms"].keys() != now["norms"].keys():
        raise ValueError(
            "the saved pruner was written by an earlier version, where query and key had no statistics of their "
            "own: start this run anew"
        )
    saved, settings = state["settings"], now["settings"]
    differ = [name for name in settings if saved.get(name) != settings[name]]
    if "importance" in differ and saved["importance"] in (rule, getattr(rule, "__qualname__", None)):
        differ.remove("importance")  # as earlier versions named a function, or one in the table
    if differ:
        changes = ", ".join(f"{name}={saved.get(name)!r}, now {settings[name]!r}" for name in differ)
        raise ValueError(
            f"the saved pruner had other settings: {changes}; resume with those that the run began with, or start anew"
        )


def record_pruning(model: nn.Module, settings: dict[str, Any]) -> None:
    """Have the configuration on a model say how it was pruned, since files and cards repeat what it says.

    The seed is left out, which is the run's. A rule that is a function goes by its name in
    :data:`~.importance.IMPORTANCE_RULES`; one without a name is left out, with a warning, since no file can hold it.
    """
    said = {name: value for name, value in settings.items() if name != "seed"}
    rule = said["importance"]
    rule = next((name for name, function in IMPORTANCE_RULES.items() if function is rule), rule)
    for module in model.modules():
        if "prilora_config" not in vars(module):
            continue
        config = module.prilora_config
        if callable(rule) and rule != config.importance:
            warn(
                f"A is pruned by the function {callable_name(rule)}, which no file can hold, so a saved adapter will "
                f"say importance={config.importance!r}: put the function into importance.IMPORTANCE_RULES, and give "
                "its name there instead"
            )
            said["importance"] = config.importance
        else:
            said["importance"] = rule
        now = replace(config, **said)
        if now != config:
            written, adapted_with = getattr(module, "_pruned_as", (None, None))
            module._pruned_as = now, adapted_with if written is config else config
            module.prilora_config = now


def warn_before_training(model: nn.Module, given: Collection[str]) -> None:
    """Warn of what an error would tell too late, and of defaults that an earlier Pruner of this model has changed.

    Args:
        model: an adapted model.
        given: names of the settings that this Pruner is given.
    """
    warn_of_what_is_lost(model)
    for module in model.modules():
        written, adapted_with = getattr(module, "_pruned_as", (None, None))
        if written is None or module.prilora_config is not written:  # or somebody has set another since
            continue
        names = [name for name in written.pruning() if name != "seed" and name not in given]
        kept = {n: getattr(written, n) for n in names if getattr(written, n) != getattr(adapted_with, n)}
        if kept:
            warn(
                f"{', '.join(f'{name}={value!r}' for name, value in kept.items())} of an earlier Pruner of this model "
                "holds for this one, too, since it was given no other: name what this one should prune by, or adapt a "
                "fresh model"
            )
