"""What a step computes, counted while it does. Oracle: the closed form of benchmarks/flops.py."""

from __future__ import annotations

import pytest
import torch
import torch.nn.attention.varlen  # which makes its operations known
from torch import nn

from llama_recipes.adapters.llama_adapter import add_llama_adapter, start_llama_adapter
from llama_recipes.adapters.prefix import add_prefix, start_prefix
from llama_recipes.configs.peft import LlamaAdapterConfig, LoraConfig, PrefixConfig
from llama_recipes.data.loader import Batch, make_batch
from llama_recipes.kernels import library
from llama_recipes.kernels.build import INSTRUCTION_SETS
from llama_recipes.model.llama import Llama
from llama_recipes.monitoring.flop_table import flop_table
from llama_recipes.monitoring.flops import Count, counted
from llama_recipes.monitoring.products import _COUNTS, flops_of
from llama_recipes.parallel.recompute import recompute_layers
from llama_recipes.training import frozen_outputs
from llama_recipes.training.gpu_kernels import compile_layers
from llama_recipes.training.optimizers import make_optimizer
from llama_recipes.training.step import train_step
from support.adapted import lora
from support.documents import document, random_documents
from support.flops import closed_form, computed, work
from support.kernels import enable
from support.quantised import KINDS, WIDE, quantised
from support.tiny import tiny_llama

PATHS = pytest.mark.parametrize("path", ["pytorch", *INSTRUCTION_SETS])
RANK = 4
LENGTHS = (50, 20, 33, 33)
CPU = torch.device("cpu")


def use(path: str) -> None:
    if path != "pytorch":
        enable(path)


def made(model: Llama, batches: list[Batch]) -> Count:
    """The count of one whole step."""
    optimizer = make_optimizer(model, lr=1e-3, weight_decay=0.0)
    with counted(model) as count:
        train_step(model, batches, optimizer)
    return count


def micro_batches(*, padded: bool = False, whole: bool = False) -> list[Batch]:
    """Two, of four documents; `whole`: every token of which is trained."""
    documents = [document([1] * n) for n in LENGTHS] if whole else random_documents(LENGTHS)
    batch = make_batch(documents, numbers=range(4), pad_id=0, padded=padded)
    return [batch, batch]


def adapted(**changes) -> Llama:
    return lora(LoraConfig(r=RANK), **changes)


@PATHS
@pytest.mark.parametrize("recomputed", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("padded", [False, True], ids=["packed", "padded"])
@pytest.mark.parametrize("adapter", [False, True], ids=["full", "lora"])
def test_a_step_is_counted_as_the_closed_form_has_it(adapter, padded, recomputed, path):
    """To the last operation, whichever path computes it and whether it computes some twice."""
    use(path)
    model = adapted() if adapter else tiny_llama()
    if recomputed:
        recompute_layers(model)
    batches = micro_batches(padded=padded)
    count = made(model, batches)
    assert count.model == computed(model, batches, rank=RANK if adapter else None)
    assert (count.recomputed > 0) == recomputed


@pytest.mark.parametrize("adapter", [False, True], ids=["full", "lora"])
def test_where_all_is_trained_it_is_the_closed_form_itself(adapter, either_path):
    """Up to the last token of a document, which predicts nothing."""
    model = (adapted if adapter else tiny_llama)(num_hidden_layers=4)
    batches = micro_batches(whole=True)
    flops = closed_form(model, batches, rank=RANK if adapter else None)
    assert made(model, batches).model == pytest.approx(flops.total, rel=0.02)


@pytest.mark.parametrize("kind", KINDS)
def test_fewer_bits_are_as_many_operations(kind, either_path):
    model = quantised(kind, LoraConfig(r=RANK))
    batches = micro_batches()
    assert made(model, batches).model == computed(model, batches, rank=RANK)
    assert made(adapted(**WIDE), batches).model == computed(model, batches, rank=RANK)


@pytest.mark.parametrize("tied", [False, True])
def test_the_head_counts_whosever_its_weights_are(tied, either_path):
    model, batches = tiny_llama(tie_word_embeddings=tied), micro_batches()
    assert made(model, batches).model == computed(model, batches)


def with_prompts(kind: str) -> Llama:
    model = tiny_llama()
    if kind == "prefix":
        add_prefix(model, PrefixConfig(num_virtual_tokens=5))
        start_prefix(model, seed=0, device=CPU)
    else:
        add_llama_adapter(model, LlamaAdapterConfig(adapter_len=5, adapter_layers=2))
        start_llama_adapter(model, seed=0, device=CPU)
    return model


@pytest.mark.parametrize("kind", ["prefix", "llama_adapter", "frozen layers"])
def test_both_paths_count_alike_whatever_is_trained(kind):
    counts = []
    for path in ("pytorch", None):
        model = tiny_llama(num_hidden_layers=3) if kind == "frozen layers" else with_prompts(kind)
        if kind == "frozen layers":
            model.model.embed_tokens.requires_grad_(False)
            model.layers[0].requires_grad_(False)
        enable(path) if path is None else library.disable()
        counts.append(made(model, micro_batches()).flops)
    assert counts[0] == counts[1]
    assert sum(counts[0].values()) > 0


def test_what_is_looked_up_is_not_counted(either_path):
    model, batches = tiny_llama(num_hidden_layers=3), micro_batches()
    model.model.embed_tokens.requires_grad_(False)
    model.layers[0].requires_grad_(False)
    frozen_outputs.keep(model, 1)
    once, looked_up = made(model, batches), made(model, batches)
    assert {name for name, _ in once.flops if "layers.0" in name}
    assert not {name for name, _ in looked_up.flops if "layers.0" in name}


def test_each_module_has_its_own(either_path):
    """Of two layers, where the last one's tokens without a label are left out above attention."""
    model, batches = adapted(), micro_batches()
    count, config, given = made(model, batches), model.config, work(batches)

    def of(name: str) -> tuple[int, ...]:
        passes = ("forward", "backward", "recomputed")
        return tuple(count.flops[f"model.layers.{name}", kind] for kind in passes)

    gate = 2 * config.hidden_size * config.intermediate_size
    assert of("0.mlp.gate_proj") == (gate * given.tokens, gate * given.tokens, 0)
    assert of("1.mlp.gate_proj") == (gate * given.supervised, gate * given.supervised, 0)
    square = 2 * config.hidden_size * config.num_attention_heads * config.head_dim * given.tokens
    assert of("0.self_attn.q_proj.base") == (square, 0, 0)
    assert of("1.self_attn.q_proj.base") == (square, square, 0)
    scores = 2 * config.num_attention_heads * config.head_dim * given.pairs
    assert of("0.self_attn") == (2 * scores, 3 * scores, 0)  # the keys ask for no gradient
    assert of("1.self_attn") == (2 * scores, 4 * scores, 0)
    head = 2 * config.vocab_size * config.hidden_size * given.supervised
    assert count.flops["head and loss", "forward"] == 2 * head


def test_recomputing_is_counted_where_it_is_and_apart(either_path):
    """All layers but the last; of one, all products but the last, whose result nobody needs."""
    model, batches = tiny_llama(num_hidden_layers=3), micro_batches()
    plain = made(model, batches)
    recompute_layers(model)
    count = made(model, batches)
    assert {key: n for key, n in count.flops.items() if key[1] != "recomputed"} == plain.flops
    for layer in (0, 1):
        for name in ("self_attn", "self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj"):
            key = f"model.layers.{layer}.{name}"
            assert count.flops[key, "recomputed"] == plain.flops[key, "forward"]
    again = sum(n for (name, kind), n in plain.flops.items()
                if kind == "forward" and name.startswith(("model.layers.0", "model.layers.1"))
                and "down_proj" not in name)  # fmt: skip
    assert count.recomputed == again


@pytest.mark.filterwarnings("ignore:The .grad attribute")
def test_compiled_layers_are_counted_as_if_they_were_not():
    model, batches = tiny_llama(), micro_batches()
    compile_layers(model, backend="eager")
    train_step(model, batches, make_optimizer(model, lr=1e-3, weight_decay=0.0))
    assert made(model, batches).model == computed(model, batches)
    assert made(tiny_llama(), batches).flops == made(model, batches).flops


@pytest.mark.parametrize("adapter", [False, True], ids=["full", "lora"])
def test_counting_changes_no_bit(adapter, either_path):
    weights = []
    for counting in (False, True):
        model = lora(LoraConfig(r=RANK, lora_dropout=0.5)) if adapter else tiny_llama()
        recompute_layers(model)
        optimizer = make_optimizer(model, lr=1e-2, weight_decay=0.0)
        torch.manual_seed(3)
        for _ in range(2):
            if counting:
                with counted(model):
                    train_step(model, micro_batches(), optimizer)
            else:
                train_step(model, micro_batches(), optimizer)
        weights.append(dict(model.named_parameters()))
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_nothing_is_left_behind(either_path):
    model = tiny_llama()
    with pytest.raises(KeyboardInterrupt), counted(model):
        raise KeyboardInterrupt
    assert library._watch is None
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    with counted(model) as count:
        pass
    train_step(model, micro_batches(), make_optimizer(model, lr=1e-3, weight_decay=0.0))
    assert not count.flops


def test_counts_of_several_processes_add_up():
    one = made(tiny_llama(), micro_batches())
    both = Count.summed([one.as_text(), Count().as_text(), one.as_text()])
    assert both.model == 2 * one.model
    assert both.flops.keys() == one.flops.keys()


# Attention that only a GPU has: its formulas, of a call that is not made


class _Backward(torch.autograd.Function):
    """Counts `operation` from inside of a backward pass, which asks for what inputs ask for."""

    @staticmethod
    def forward(ctx, q, k, v, operation, arguments):
        ctx.save_for_backward(q, k, v)
        ctx.counts = lambda: flops_of(operation, (q, q, k, v), arguments)
        return q + 0

    @staticmethod
    def backward(ctx, grad):
        _Backward.counted = ctx.counts()
        return grad, grad, grad, None, None


def operation(name: str):
    space, _, rest = name.partition("::")
    return getattr(getattr(torch.ops, space), rest).default


ATTENTIONS = [name for name in _COUNTS if "attn" in name or "attention" in name]


@pytest.mark.parametrize("name", [name for name in ATTENTIONS if not name.endswith("backward")])
def test_every_attention_counts_the_pairs_that_it_has_to_see(name):
    backward, heads, dim = operation(f"{name}_backward"), 2, 4
    if "varlen" in name:
        q, arguments = torch.ones(12, heads, dim), {"cu_seq_q": torch.tensor([0, 7, 12]).int()}
        pairs = 7 * 8 // 2 + 5 * 6 // 2
    else:
        q, arguments, pairs = torch.ones(3, heads, 7, dim), {"is_causal": True}, 3 * 7 * 8 // 2
    product = 2 * heads * dim * pairs
    assert flops_of(operation(name), (q, q, q), arguments) == 2 * product
    for asking, products in (((1, 1, 1), 4), ((1, 0, 1), 3), ((0, 0, 1), 1), ((0, 1, 1), 3)):
        inputs = [q.clone().requires_grad_(bool(asks)) for asks in asking]
        _Backward.apply(*inputs, backward, arguments).sum().backward()
        assert _Backward.counted == products * product
    if "is_causal" in arguments:
        assert flops_of(operation(name), (q, q, q), {}) == 4 * heads * dim * 3 * 7 * 7


@pytest.mark.parametrize("name", ATTENTIONS)
def test_pytorch_still_calls_arguments_what_we_call_them(name):
    names = [argument.name for argument in operation(name)._schema.arguments]
    assert {"query", "key", "cu_seq_q" if "varlen" in name else "is_causal"} <= set(names)
    if name.endswith("backward"):
        assert names[1:4] == ["query", "key", "value"]


@pytest.mark.parametrize(
    ("compute", "flops"),
    [
        (lambda x, w: torch.mm(x, w), 2 * 3 * 5 * 7),
        (lambda x, w: torch.mm(x, w, out=torch.empty(3, 7)), 2 * 3 * 5 * 7),
        (lambda x, w: torch.addmm(torch.ones(7), x, w), 2 * 3 * 5 * 7),
        (lambda x, w: torch.ones(3, 7).addmm_(x, w), 2 * 3 * 5 * 7),
        (lambda x, w: torch.bmm(x.expand(2, 3, 5), w.expand(2, 5, 7)), 2 * 2 * 3 * 5 * 7),
        (lambda x, w: torch.baddbmm(torch.ones(1), x[None], w[None]), 2 * 3 * 5 * 7),
        (lambda x, w: torch.nn.functional.linear(x, w.T, torch.ones(7)), 2 * 3 * 5 * 7),
        (lambda x, w: torch.einsum("ni,io->no", x, w), 2 * 3 * 5 * 7),
        (lambda x, w: x.softmax(-1) * x.exp(), 0),
    ],
)
def test_products_count_however_they_are_written(compute, flops):
    with counted(nn.Module()) as count:
        compute(torch.ones(3, 5), torch.ones(5, 7))
    assert count.model == flops


# The table


def test_the_table_has_a_line_for_each_kind_of_module_and_adds_up():
    model = lora(LoraConfig(r=RANK), num_hidden_layers=3)
    recompute_layers(model)
    count = made(model, micro_batches())
    lines = [line.rsplit(maxsplit=4) for line in flop_table(count).splitlines()]
    assert lines[0] == ["MFLOP", "forward", "backward", "recomputed", "share"]
    label = [line[0].lstrip() for line in lines[1:]]
    assert label == [
        *("Llama", "layers", "self_attn", "itself"),
        *("q_proj", "itself", "base", "k_proj", "v_proj", "itself", "base", "o_proj"),
        *("mlp", "gate_proj", "up_proj", "down_proj", "head and loss", "all"),
    ]
    numbers = {line[0].strip(): [float(n) for n in line[1:4]] for line in lines[1:]}
    whole = [count.of(kind) / 1e6 for kind in ("forward", "backward", "recomputed")]
    assert numbers["all"] == pytest.approx(whole, abs=6e-4)
    parts = zip(numbers["self_attn"], numbers["mlp"], strict=True)
    assert [a + b for a, b in parts] == pytest.approx(numbers["layers"], abs=2e-3)
    assert lines[-1][4] == "100.0%"


@pytest.mark.parametrize(("flops", "unit"), [(9e9, "MFLOP"), (1e10, "GFLOP"), (1e13, "TFLOP")])
def test_the_unit_of_the_table_fits_its_numbers(flops, unit):
    count = Count()
    count.flops["model.norm", "forward"] = int(flops)
    assert flop_table(count).startswith(unit)
