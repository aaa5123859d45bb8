"""What the saved state of a pruner says of its settings, and whether a pruner may go on from it."""

from __future__ import annotations

from typing import Any

from prilora_lite.importance import importance_rule, needs
from prilora_lite.shared.callables import callable_name, is_ours
from prilora_lite.shared.errors import expect


def stored_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """A pruner's settings as a file can hold them; a seed only where something is drawn.

    A function of one's own stands there by its name and a digest, under whatever name it is in the table of rules: so
    an edited one is another.
    """
    rule = settings["importance"]
    named = isinstance(rule, str) and is_ours(importance_rule(rule))
    stored = settings | {"importance": rule if named else callable_name(importance_rule(rule))}
    return stored if needs(rule, "generator") else stored | {"seed": None}


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
