"""torch.compile with a pruner: one graph, compiled once, with the statistics and masks of a plain model.

The backend is AOTAutograd without a code generator: what is traced, forward and backward, is what any backend gets.
"""

import pytest
import torch
from torch import nn
from torch._dynamo.exc import Unsupported
from torch._dynamo.testing import CompileCounterWithBackend

from prilora_lite import LoRALinear, PRILoRAConfig, Pruner, adapt
from tests.small_models import batch, checkpoint_activations, shallow

FAMILIES = ("bert", "llama", "deberta_v2")
# Float32 sums: where padding is left out, a compiled model adds zeros, a plain one on a CPU adds fewer numbers
TOLERANCE = {"rtol": 2e-6, "atol": 0}


@pytest.fixture(autouse=True, scope="module")
def _fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def adapted(name, layers=2):
    model = shallow(name, layers)
    model.config.problem_type = "single_label_classification"  # else transformers looks at the labels
    adapt(model, PRILoRAConfig(first_rank=2, last_rank=5))
    for module in model.modules():
        if isinstance(module, LoRALinear):
            nn.init.normal_(module.lora_B, std=0.02)
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model.train()


def train(model, pruner):
    """Three optimizer steps of two batches each, which are padded differently; where A is zero after the prune."""
    optimizer = torch.optim.SGD([p for p in pruner._model.parameters() if p.requires_grad], lr=0.1)
    for step in range(3):
        for padding in (1, 3):
            model(**batch(padding=padding, seed=10 * step + padding)).loss.backward()
        optimizer.step()
        pruner.step()
        optimizer.zero_grad()
        if step == 1:
            zeros = torch.cat([(layer.lora_A == 0).flatten() for layer in pruner.layers.values()])
    return zeros


def compiled_run(name, fullgraph=True, checkpointing=None, hook=True):
    """A compiled model's pruner after training, its zeros, and the graphs that were compiled."""
    torch._dynamo.reset()
    model, graphs = adapted(name), CompileCounterWithBackend("aot_eager")
    if checkpointing is not None:
        checkpoint_activations(model, reentrant=checkpointing == "reentrant")
        if not hook:
            model.disable_input_require_grads()
    pruner = Pruner(model, interval=2)
    try:
        zeros = train(torch.compile(model, fullgraph=fullgraph, backend=graphs), pruner)
    except Unsupported:
        if breaks(name, problem_type="single_label_classification"):
            pytest.skip("in this version the graph of the unadapted model breaks too")
        raise
    return pruner, zeros, graphs


def breaks(name, listens=False, problem_type=None):
    """How often the graph of a model breaks, unadapted or with a pruner."""
    torch._dynamo.reset()
    model = shallow(name, layers=1).train()
    model.config.problem_type = problem_type
    if listens:
        adapt(model, PRILoRAConfig(first_rank=2, last_rank=5))
        Pruner(model)
    return torch._dynamo.explain(model)(**batch()).graph_break_count


@pytest.fixture(scope="module")
def plain():
    """The pruner and the zeros of a model that is not compiled, by its name."""
    runs = {}
    for name in FAMILIES:
        model = adapted(name)
        pruner = Pruner(model, interval=2)
        runs[name] = pruner, train(model, pruner)
    return runs


@pytest.fixture(scope="module", params=FAMILIES)
def run(request):
    return request.param, *compiled_run(request.param)


def assert_statistics_equal(pruner, expected):
    for name, norms in expected.norms.items():
        torch.testing.assert_close(pruner.norms[name].mean_square, norms.mean_square, **TOLERANCE)


def test_a_training_pass_is_one_graph_that_is_compiled_once(run):
    *_, graphs = run
    assert graphs.frame_count == 1  # fullgraph: a graph break would be an error; another frame, compiled anew


def test_the_statistics_are_those_of_a_plain_model(run, plain):
    name, pruner, *_ = run
    assert_statistics_equal(pruner, plain[name][0])


def test_the_same_entries_are_pruned_as_in_a_plain_model(run, plain):
    name, _, zeros, _ = run
    assert zeros.float().mean() == 0.5
    assert torch.equal(zeros, plain[name][1])


def test_under_autocast_it_is_one_graph_too():
    torch._dynamo.reset()
    model = adapted("bert", layers=1)
    Pruner(model)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.autocast("cpu", torch.bfloat16):
        compiled(**batch()).loss.backward()
    assert all(layer.lora_B.grad.abs().sum() > 0 for layer in model.modules() if isinstance(layer, LoRALinear))


@pytest.mark.parametrize("name", ["bert", "llama"])
def test_with_gradient_checkpointing_it_is_one_graph_too(name, plain):
    pruner, zeros, graphs = compiled_run(name, checkpointing="not reentrant", hook=False)
    assert graphs.frame_count == 1
    assert_statistics_equal(pruner, plain[name][0])
    assert torch.equal(zeros, plain[name][1])


@pytest.mark.parametrize(
    ("name", "checkpointing"),
    [
        pytest.param("bert", "reentrant", marks=pytest.mark.slow),
        ("deberta_v2", "reentrant"),
        ("deberta_v2", "not reentrant"),
    ],
)
def test_with_gradient_checkpointing_that_breaks_the_graph_the_statistics_are_the_same(name, checkpointing, plain):
    """transformers' hook on the frozen embeddings breaks it; and DeBERTa's shared projections, which run twice."""
    pruner, zeros, _ = compiled_run(name, fullgraph=False, checkpointing=checkpointing)
    assert_statistics_equal(pruner, plain[name][0])
    assert torch.equal(zeros, plain[name][1])


@pytest.mark.parametrize("name", ["deberta_v2", "gpt2"])
def test_where_transformers_breaks_the_graph_a_pruner_adds_no_break(name):
    """DeBERTa's head looks at the labels when it is not told of what kind they are."""
    alone = breaks(name)
    assert breaks(name, listens=True) == alone
    assert name != "deberta_v2" or alone == 1
