"""A run resumes with the importance function that it had, whatever kind of callable it is, and with no other."""

import functools
import io
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from prilora_lite import PRILoRAConfig, Pruner, adapt
from prilora_lite.importance import IMPORTANCE_RULES
from prilora_lite.shared.callables import callable_name
from tests.environments import call
from tests.small_models import batch, build


class Power:
    def __init__(self, power):
        self.power, self.calls = power, 0

    def __call__(self, lora_A):
        self.calls += 1
        return lora_A.abs() ** self.power

    def squared(self, lora_A):
        return lora_A**2 / self.power


def by_power(power, lora_A):
    return lora_A.abs() ** power


def enclosing(power, function=None):
    return lambda lora_A: (function or torch.abs)(lora_A) ** power


class Slotted:
    __slots__ = ("power",)

    def __init__(self, power):
        self.power = power

    def __call__(self, lora_A):
        return lora_A.abs() ** self.power


class ByAnother:
    sign = 1

    def score(self, lora_A):
        return self.sign * lora_A.abs()

    def __call__(self, lora_A):
        return self.score(lora_A)


class ByAnotherSigned(ByAnother):
    sign = -1


class ByAnotherSquared(ByAnother):
    def score(self, lora_A):
        return lora_A**2


RULES = {
    "named": lambda: by_size,
    "lambda": lambda: lambda lora_A: lora_A.abs(),
    "another lambda": lambda: lambda lora_A: -lora_A.abs(),
    "of another attribute": lambda: lambda lora_A: lora_A.neg(),
    "of another parameter": lambda: lambda mean_square: mean_square.abs(),
    "of another constant": lambda: lambda lora_A: lora_A.abs() + 1,
    "of a set": lambda: lambda lora_A: lora_A.abs() if lora_A.device.type in {"cpu", "cuda", "mps"} else lora_A,
    "enclosing 1": lambda: enclosing(1),
    "enclosing 2": lambda: enclosing(2),
    "enclosing 2 and a function": lambda: enclosing(2, by_size),
    "default 1": lambda: by_default(1),
    "default 2": lambda: by_default(2),
    "partial 1": lambda: functools.partial(by_power, 1.0),
    "partial 2": lambda: functools.partial(by_power, 2.0),
    "partial of a partial": lambda: functools.partial(functools.partial(by_power, 2.0)),
    "enclosing a tensor": lambda: enclosing(torch.ones(3)),
    "enclosing another tensor": lambda: enclosing(torch.arange(3.0)),
    "of slots 1": lambda: Slotted(1),
    "of slots 2": lambda: Slotted(2),
    "by another method": ByAnother,
    "by another method of another class": ByAnotherSquared,
    "by another constant of its class": ByAnotherSigned,
    "object 1": lambda: Power(1),
    "object 2": lambda: Power(2),
    "method of object 1": lambda: Power(1).squared,
    "method of object 2": lambda: Power(2).squared,
}


def by_size(lora_A):
    """The size of each entry."""
    return lora_A.abs()


def by_default(power):
    def rule(lora_A, *, gradient=power):
        return lora_A.abs() * gradient

    return rule


def pruner_with(rule):
    model = build("bert")
    adapt(model, PRILoRAConfig(first_rank=2, last_rank=5, interval=1, importance=rule))
    return Pruner(model.train())


def stored(state):
    """A state after its way through a file, which is opened without running anything."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("kind", RULES)
def test_a_run_resumes_with_the_function_that_it_had(kind):
    state = stored(pruner_with(RULES[kind]()).state_dict())
    pruner_with(RULES[kind]()).load_state_dict(state)


def test_no_two_functions_have_one_name_save_where_they_are_one():
    names = {kind: callable_name(make()) for kind, make in RULES.items()}
    assert names["partial 2"] == names["partial of a partial"]  # Python makes one of them
    assert len(set(names.values())) == len(names) - 1


@pytest.mark.parametrize(
    ("had", "has"), [("lambda", "another lambda"), ("partial 1", "partial 2"), ("object 1", "named")]
)
def test_a_run_does_not_resume_with_another_function(had, has):
    state = stored(pruner_with(RULES[had]()).state_dict())
    with pytest.raises(ValueError, match=r"the saved pruner had other settings: importance='\S+ \(.*, now '\S+ \("):
        pruner_with(RULES[has]()).load_state_dict(state)


def test_a_run_does_not_resume_with_a_rule_in_the_table_that_was_edited(monkeypatch):
    monkeypatch.setitem(IMPORTANCE_RULES, "mine", by_size)
    state = stored(pruner_with("mine").state_dict())
    pruner_with("mine").load_state_dict(state)
    monkeypatch.setitem(IMPORTANCE_RULES, "mine", by_default(1.0))
    with pytest.raises(ValueError, match=r"other settings: importance='by_size \(.*, now 'by_default"):
        pruner_with("mine").load_state_dict(state)


def test_a_run_of_an_earlier_version_resumes_by_the_rules_name(monkeypatch):
    monkeypatch.setitem(IMPORTANCE_RULES, "mine", by_size)
    state = pruner_with("mine").state_dict()
    state["settings"]["importance"] = "mine"  # as it was stored
    pruner_with("mine").load_state_dict(state)


def test_an_object_that_changes_as_it_is_called_is_the_same_in_a_later_run():
    pruner = pruner_with(Power(1))
    pruner.settings["importance"](torch.ones(2))
    pruner_with(Power(1)).load_state_dict(stored(pruner.state_dict()))


def test_a_function_runs_as_often_as_one_likes_and_another_docstring_is_no_other_function():
    name = callable_name(by_size)
    for _ in range(100):  # Python writes its byte code anew as it runs
        by_size(torch.ones(2))
    assert callable_name(by_size) == name
    places = {}
    exec("def by_size(lora_A):\n    'Said otherwise.'\n    return lora_A.abs()", places)
    assert callable_name(places["by_size"]) == name


@dataclass
class Share:
    """A rule that is equal to another of its kind and has no hash."""

    power: float

    def __call__(self, lora_A):
        return lora_A.abs() ** self.power


def power_of_two(lora_A, power=2.0):
    return lora_A.abs() ** power


@pytest.mark.parametrize(
    "rule", [Share(2.0), power_of_two, functools.partial(power_of_two, power=2.0)], ids=["object", "default", "partial"]
)
def test_a_rule_may_have_no_hash_and_parameters_with_a_default(rule):
    pruner = pruner_with(rule)
    pruner._model(**batch()).loss.backward()
    pruner.step()
    assert pruner.sparsity() == pytest.approx(0.5, abs=0.02)


def writes_into_all(lora_A, mean_square, gradient):
    return lora_A.abs_().mul_(mean_square.sqrt_()).add_(gradient.abs_())


def test_a_rule_that_writes_into_what_it_is_given_changes_neither_weights_nor_statistics():
    pruner = pruner_with(writes_into_all)
    pruner._model(**batch()).loss.backward()
    before = {name: layer.lora_A.detach().clone() for name, layer in pruner.layers.items()}
    pruner.step()
    for name, layer in pruner.layers.items():
        gradient, s = layer.lora_A.grad.clone(), pruner.mean_square(name).clone()
        kept = layer.lora_A != 0
        assert torch.equal(layer.lora_A[kept], before[name][kept])
        assert torch.equal(pruner.scores(name), layer.lora_A.abs() * s.sqrt() + gradient.abs())
        assert torch.equal(pruner.mean_square(name), s)


def test_a_layer_that_is_trained_only_later_is_scored_by_its_gradient():
    model = build("bert")
    adapt(model, PRILoRAConfig(first_rank=2, last_rank=5, interval=1, importance=by_gradient))
    late = next(layer for layer in model.modules() if hasattr(layer, "lora_A"))
    late.lora_A.requires_grad_(False)
    pruner = Pruner(model.train())
    late.lora_A.requires_grad_(True)
    model(**batch()).loss.backward()
    pruner.step()
    assert (late.lora_A == 0).any()


def pruned_by(rule, **config):
    model = build("bert")
    adapt(model, PRILoRAConfig(first_rank=2, last_rank=5, interval=1, **config))
    pruner = Pruner(model.train(), importance=rule)
    model(**batch()).loss.backward()
    pruner.step()
    return model


def test_a_warning_says_that_files_will_not_name_the_function_that_pruned():
    with pytest.warns(
        UserWarning, match=r"by_size \(.*no file can hold.*importance='magnitude_input'.*IMPORTANCE_RULES"
    ):
        model = pruned_by(by_size)
    assert model.prilora_config.importance == "magnitude_input"


def test_the_warning_names_the_line_that_called_the_pruner_not_one_of_torchs():
    with pytest.warns(UserWarning, match="pruned by the function by_size") as warned:
        pruned_by(by_size)
    assert warned[0].filename == __file__


def test_files_name_a_function_that_has_a_name(monkeypatch, recwarn):
    monkeypatch.setitem(IMPORTANCE_RULES, "by_size", by_size)
    assert pruned_by(by_size).prilora_config.importance == "by_size"
    assert not [w for w in recwarn if "function" in str(w.message)]


def test_of_a_function_that_the_configuration_holds_it_is_said_once_before_training_that_no_file_can(recwarn):
    assert pruned_by(by_size, importance=by_size).prilora_config.importance is by_size
    (told,) = [str(w.message) for w in recwarn if "function" in str(w.message)]
    assert told.startswith("save_adapter will refuse this model: importance is a function, which no file can hold")


def by_gradient(lora_A, gradient):
    return (lora_A * gradient).abs()


def test_a_function_that_holds_itself_has_a_name():
    def rule(lora_A, times=3):
        return rule(lora_A.abs(), times - 1) if times else lora_A

    assert callable_name(rule) == callable_name(rule)


NAMES = """
from tests.method.test_own_importance import RULES, callable_name
print(*(callable_name(make()) for make in RULES.values()), sep="\\n")
"""


def test_a_function_has_one_name_in_all_processes(tmp_path):
    root = str(Path(__file__).parents[2])
    there = call(sys.executable, "-c", NAMES, cwd=tmp_path, PYTHONPATH=root, PYTHONHASHSEED="1")
    assert there.split("\n")[:-1] == [callable_name(make()) for make in RULES.values()]


def test_a_state_from_before_functions_had_a_digest_loads_where_the_function_has_its_name():
    state = pruner_with(by_size).state_dict()
    state["settings"]["importance"] = "by_size"
    pruner_with(by_size).load_state_dict(state)
    state["settings"]["importance"] = "by_power"
    with pytest.raises(ValueError, match="other settings: importance='by_power', now 'by_size "):
        pruner_with(by_size).load_state_dict(state)


class Score(torch.nn.Module):
    def forward(self, lora_A):
        return lora_A.abs()


def without_wraps(rule):
    return lambda *args, **given: rule(*args, **given)


@pytest.mark.parametrize(
    "rule",
    [torch.abs, Score(), without_wraps(by_size), lambda: torch.rand(2, 3)],
    ids=["C", "module", "decorated", "no"],
)
def test_a_function_whose_parameters_can_not_be_told_is_refused_with_the_way_out(rule):
    with pytest.raises(ValueError, match=r"names none of lora_A, .*: wrap it, as lambda lora_A"):
        PRILoRAConfig(importance=rule)


SIGN = 1.0


def signed(lora_A):
    return SIGN * lora_A.abs()


def by_a_helper(lora_A):
    return signed(lora_A)


@pytest.mark.parametrize("rule", [signed, by_a_helper])
def test_a_function_that_reads_another_global_value_is_another_function(rule, monkeypatch):
    before = callable_name(rule)
    monkeypatch.setattr(sys.modules[__name__], "SIGN", -1.0)
    assert callable_name(rule) != before


def test_functions_that_call_each_other_have_a_name():
    places = {}
    exec("def one(lora_A):\n    return two(lora_A)\ndef two(lora_A):\n    return one(lora_A)", places)
    assert callable_name(places["one"]) != callable_name(places["two"])


def test_a_rule_whose_parameters_have_no_names_is_refused_at_once():
    def by_place(lora_A, /):
        return lora_A.abs()

    with pytest.raises(ValueError, match="called by name: leave out the / behind lora_A"):
        PRILoRAConfig(importance=by_place)


def weight_times_gradient(lora_A, gradient):
    return (lora_A * gradient).abs()


@pytest.mark.parametrize(("interval", "warned"), [(1, True), (2, False)])
def test_a_choice_among_equal_scores_is_said_once(interval, warned, recwarn):
    model = build("bert")
    adapt(model, PRILoRAConfig(first_rank=2, last_rank=5, interval=interval, importance=weight_times_gradient))
    pruner = Pruner(model.train())
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(4):
        model(**batch()).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        pruner.step()
    said = [w for w in recwarn if "the same importance in" in str(w.message)]
    assert len(said) == warned


def alike_in_a_row(lora_A):
    return torch.arange(len(lora_A))[:, None].expand_as(lora_A).float()


@pytest.mark.parametrize(
    ("importance", "scope", "warned"),
    [(torch.ones_like, "row", True), (torch.ones_like, "matrix", True), (alike_in_a_row, "row", True),
     (alike_in_a_row, "matrix", False)],
)  # fmt: skip
def test_a_rule_that_scores_alike_what_is_compared_is_told(importance, scope, warned, recwarn):
    model = build("bert")
    adapt(model, PRILoRAConfig(first_rank=2, last_rank=5, interval=1, scope=scope))
    pruner = Pruner(model.train(), importance=lambda lora_A, **others: importance(lora_A))
    for _ in range(2):
        model(**batch()).loss.backward()
        pruner.step()
    said = [str(w.message) for w in recwarn if "the same importance in" in str(w.message)]
    assert len(said) == warned
    assert not warned or "look at what the importance returns" in said[0]


def test_gradients_that_no_backward_pass_left_are_named():
    model = build("bert")
    adapt(model, PRILoRAConfig(first_rank=2, last_rank=5, interval=1, importance=weight_times_gradient))
    pruner, trained = Pruner(model.train()), [p for p in model.parameters() if p.requires_grad]
    torch.autograd.grad(model(**batch()).loss, trained, allow_unused=True)
    with pytest.raises(RuntimeError, match=r"no gradient has reached .*torch\.autograd\.grad does not"):
        pruner.step()
