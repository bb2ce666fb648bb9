"""A configuration keeps in step with any cut, as far as it can say what was cut."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import excise
from excise.configuration import built, matches
from excise.uniform import knobs
from tests.vision import declare_ops

X = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(0))
TOKENS = torch.randint(3, 90, (1, 9), generator=torch.Generator().manual_seed(0))


class Config:
    """Numbers, written and read as transformers does."""

    def __init__(self, **numbers: Any) -> None:
        if numbers.get("even", 2) % 2:
            raise ValueError("even has to be even")
        vars(self).update(numbers)

    def to_dict(self) -> dict[str, Any]:
        """The numbers."""
        return copy.deepcopy(vars(self))

    @classmethod
    def from_dict(cls, numbers: Mapping[str, Any]) -> Config:
        """A configuration of these numbers."""
        return cls(**numbers)


NUMBERS: dict[str, Any] = {
    "width": 16, "inner": 24, "inners": [20, 28], "heads": 4, "head": 5, "scaled": 12, "even": 14,
    "unread": 16,
}  # fmt: skip


class Layer(nn.Module):
    """An MLP of a width that all layers share, one of its own, and heads."""

    def __init__(self, config: Any, number: int) -> None:
        super().__init__()
        self.up, self.down = (
            nn.Linear(config.width, config.inner),
            nn.Linear(config.inner, config.width),
        )
        self.own = nn.Linear(config.width, config.inners[number])
        self.back = nn.Linear(config.inners[number], config.width)
        self.head = config.head
        self.value = nn.Linear(config.width, config.heads * config.head)
        self.out = nn.Linear(config.heads * config.head, config.width)

    def forward(self, x: Tensor) -> Tensor:
        """Three residual branches."""
        x = x + self.down(self.up(x).relu())
        x = x + self.back(self.own(x).relu())
        value = self.value(x).unflatten(-1, (-1, self.head)).softmax(-1)
        return x + self.out(value.flatten(-2))  # type: ignore[no-any-return]


class Model(nn.Module):
    """Two layers; one length is also a factor, and a submodule keeps a copy of the numbers."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.stem = nn.Linear(6, config.width)
        self.layers = nn.ModuleList(Layer(config, i) for i in range(2))
        self.scaled = nn.Sequential(
            nn.Linear(config.width, config.scaled), nn.Linear(config.scaled, config.width)
        )
        self.tail = nn.Module()
        self.tail.config = copy.deepcopy(config)
        self.tail.one = nn.Linear(config.width, config.even)
        self.tail.two = nn.Linear(config.even, 3)

    def forward(self, x: Tensor) -> Tensor:
        """The layers, a branch with a factor, the tail."""
        x = self.stem(x)
        for layer in self.layers:
            x = layer(x)
        x = x + self.scaled(x) / math.sqrt(self.config.scaled)
        return self.tail.two(self.tail.one(x).relu())  # type: ignore[no-any-return, operator]


def model() -> Model:
    """The model with seeded weights."""
    torch.manual_seed(0)
    return Model(Config(**copy.deepcopy(NUMBERS))).eval()


def cut(removed: dict[str, list[int]], made: nn.Module | None = None) -> tuple[Any, excise.Plan]:
    """The model without units of the axes that these tensors' first dimensions carry."""
    made = made or model()
    graph = excise.trace(made, X)
    groups = {slot.tensor: g.name for g in graph.groups for slot in g.slots if slot.dim == 0}
    plan = excise.plan_units(graph, {groups[name]: units for name, units in removed.items()})
    small = excise.remove(made, plan)
    excise.verify(made, small, plan, X).check()
    return small, plan


def stock(small: Any) -> Model:
    """What the constructor alone makes of a cut model's configuration, with its weights."""
    again = Model(Config.from_dict(small.config.to_dict()))
    again.load_state_dict(small.state_dict())
    return again.eval()


def test_a_number_that_all_lengths_agree_on_follows() -> None:
    small, _ = cut({"stem.weight": [1, 5, 6], "tail.one.weight": [0, 1]})
    assert small.config.to_dict() == {**NUMBERS, "width": 13, "even": 12}
    assert small.tail.config.to_dict() == small.config.to_dict()
    assert torch.equal(stock(small)(X), small(X))


def test_the_model_before_the_cut_keeps_its_numbers() -> None:
    made = model()
    cut({"stem.weight": [1, 5, 6]}, made)
    assert made.config.to_dict() == NUMBERS


def test_a_number_on_which_layers_disagree_stays() -> None:
    small, _ = cut({"layers.0.up.weight": [0, 1, 2]})
    assert small.config.to_dict() == NUMBERS
    both, _ = cut({"layers.0.up.weight": [0, 1, 2], "layers.1.up.weight": [4, 5, 6]})
    assert both.config.inner == 21
    assert torch.equal(stock(both)(X), both(X))


def test_a_list_with_a_number_for_each_layer_follows_layer_by_layer() -> None:
    small, plan = cut({"layers.0.own.weight": [0, 1, 2], "layers.1.own.weight": [7]})
    assert small.config.inners == [17, 27]
    assert torch.equal(stock(small)(X), small(X))
    assert excise.Plan.from_json(plan.to_json()) == plan


def test_a_number_in_a_product_is_worked_out() -> None:
    """Heads are nowhere a length by themselves: `heads * head` is."""
    made = model()
    graph = excise.trace(made, X)
    heads = [g.name for g in graph.groups if g.size == NUMBERS["heads"]]
    plan = excise.plan_units(graph, {heads[0]: [2], heads[1]: [0]})
    small: Any = excise.remove(made, plan)
    assert small.config.heads == 3
    assert torch.equal(stock(small)(X), small(X))


def test_a_number_that_the_code_makes_a_factor_of_stays() -> None:
    small, _ = cut({"scaled.0.weight": [0, 1, 2], "stem.weight": [3]})
    assert small.config.scaled == NUMBERS["scaled"]
    assert small.config.width == 15


def test_a_number_that_the_configuration_refuses_stays() -> None:
    small, _ = cut({"tail.one.weight": [0], "stem.weight": [3]})
    assert small.config.even == NUMBERS["even"]
    assert small.config.width == 15


def test_a_constructor_that_fails_leaves_all_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    made = model()

    def refuse(*_: Any) -> None:
        raise RuntimeError("not again")

    monkeypatch.setattr(Model, "__init__", refuse)
    small, _ = cut({"stem.weight": [1]}, made)
    assert small.config.to_dict() == NUMBERS


def test_what_excise_loads_has_the_same_numbers(tmp_path: Path) -> None:
    small, plan = cut({"stem.weight": [1], "layers.1.own.weight": [7]})
    excise.save(small, plan, tmp_path / "small.safetensors")
    again: Any = excise.load(tmp_path / "small.safetensors", build=model)
    assert again.config.to_dict() == small.config.to_dict()
    assert torch.equal(again.eval()(X), small(X))


class Fickle(nn.Module):
    """Fewer parts of it are there where the number is small, and a buffer repeats it."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(config.depth))
        self.register_buffer("factor", torch.tensor(config.width**0.5), persistent=False)
        self.up, self.down = nn.Linear(8, config.width), nn.Linear(config.width, 8)
        self.one, self.two = nn.Linear(8, config.inner), nn.Linear(config.inner, 8)

    def forward(self, x: Tensor) -> Tensor:
        """All parts in a row."""
        for layer in self.layers:
            x = layer(x)
        x = self.down(self.up(x)) * self.factor
        return self.two(self.one(x))  # type: ignore[no-any-return]


def test_a_uniform_cut_leaves_numbers_that_set_more_than_lengths() -> None:
    """A depth removes layers, and the buffer would be computed anew from another width."""
    torch.manual_seed(0)
    made = Fickle(Config(depth=4, width=16, inner=16)).eval()
    x = torch.randn(2, 8)
    graph = excise.trace(made, x)
    plan = excise.plan(graph, excise.scores.magnitude(made, graph), keep_params=0.8, uniform=True)
    assert {a.attribute for a in plan.attributes if "config" in a.attribute} == {"config.inner"}


def test_a_number_from_which_more_than_lengths_follow_stays() -> None:
    """The weights would fit into what the constructor makes, and the factor would be another."""
    torch.manual_seed(0)
    made = Fickle(Config(depth=4, width=16, inner=16)).eval()
    x = torch.randn(2, 8)
    graph = excise.trace(made, x)
    plan = excise.plan_units(graph, {"up": [0, 1], "one": [3]})
    small: Any = excise.remove(made, plan)
    assert (small.config.width, small.config.inner) == (16, 15)


def test_a_constructor_that_makes_fewer_parts_makes_another_model() -> None:
    made = Fickle(Config(depth=4, width=16, inner=16)).eval()
    graph = excise.trace(made, torch.randn(2, 8))
    same, fewer = (built(made, {"config.depth": depth}) for depth in (4, 2))
    assert same is not None
    assert fewer is not None
    assert matches(graph, {}, same)
    assert not matches(graph, {}, fewer)


class Tables(nn.Module):
    """A table that is laid out by a tensor of one number, wherever that one lies."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.one, self.two = nn.Linear(6, config.size), nn.Linear(config.size, 3)
        self.register_buffer("table", torch.arange(5) + torch.tensor(0.5).expand(5))

    def forward(self, x: Tensor) -> Tensor:
        """Two layers."""
        return self.two(self.one(x))  # type: ignore[no-any-return]


def test_a_constructor_that_needs_all_on_one_device_is_asked_too() -> None:
    assert built(Tables(Config(size=16)), {"config.size": 8}) is not None


class Halves(nn.Module):
    """A length and its half, from one number."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.one, self.two = nn.Linear(6, config.size), nn.Linear(config.size, 3)
        self.part, self.rest = nn.Linear(6, config.size // 2), nn.Linear(config.size // 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Two branches."""
        return self.two(self.one(x)) + self.rest(self.part(x))  # type: ignore[no-any-return]


def test_a_number_stays_where_a_length_computed_from_it_does() -> None:
    made = Halves(Config(size=16)).eval()
    alone, _ = cut({"one.weight": [0, 1]}, made)
    both, _ = cut({"one.weight": [0, 1], "part.weight": [5]}, made)
    assert alone.config.size == 16
    assert both.config.size == 14


def decoder(kind: str) -> Any:
    """A small model whose configuration has numbers for each layer."""
    declare_ops()
    transformers = pytest.importorskip("transformers")
    given: dict[str, Any] = {
        "vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 3, "head_dim": 8,
        "num_attention_heads": 8, "num_key_value_heads": 2, "pad_token_id": 0, "use_cache": False,
    }  # fmt: skip
    torch.manual_seed(0)
    if kind == "list":
        given |= {
            "vocab_size_per_layer_input": 99, "hidden_size_per_layer_input": 8, "laurel_rank": 8,
            "intermediate_size": 64, "num_kv_shared_layers": 0,
            "activation_sparsity_pattern": [0.0] * 3, "layer_types": ["full_attention"] * 3,
        }  # fmt: skip
        made = transformers.Gemma3nTextModel(transformers.Gemma3nTextConfig(**given)).eval()
    else:
        given |= {
            "intermediate_size": 48, "num_sliding_attention_heads": 8, "sliding_window": 5,
            "mlp_layer_types": ["dense"] * 3,
        }  # fmt: skip
        family = pytest.importorskip("transformers.models.step3p7")
        made = family.Step3p7TextModel(family.Step3p7TextConfig(**given)).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape))
    return made


CUTS = {
    "list": {"layers.0.mlp.gate_proj": 4, "layers.1.mlp.gate_proj": 12},
    "per_layer_config": {"layers.0.self_attn.q_proj/2": 1, "layers.2.self_attn.q_proj/2": 2},
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", CUTS)
def test_layers_that_differ_reload_without_excise(kind: str, tmp_path: Path) -> None:
    made = decoder(kind)
    given = {"input_ids": TOKENS, "use_cache": False}
    graph = excise.trace(made, **given)
    plan = excise.plan_units(graph, {name: range(n) for name, n in CUTS[kind].items()})
    small: Any = excise.remove(made, plan)
    excise.verify(made, small, plan, **given).check()
    small.save_pretrained(tmp_path)
    again = type(small).from_pretrained(tmp_path).eval()
    excise.save(small, plan, tmp_path / "small.safetensors")
    loaded: Any = excise.load(tmp_path / "small.safetensors", build=lambda: made)
    with torch.no_grad():
        wanted = small(**given)[0]
        assert torch.equal(again(**given)[0], wanted)
        assert torch.equal(loaded(**given)[0], wanted)
    if kind == "list":
        assert again.config.intermediate_size == [60, 52, 64]
    else:
        found = [layer.num_attention_heads for layer in again.config.per_layer_config]
        assert found == [6, 8, 4]
        assert [layer.num_attention_heads for layer in made.config.per_layer_config] == [8, 8, 8]


@pytest.mark.filterwarnings("ignore")
def test_layers_that_differ_in_what_the_code_reads_once_stay_unsaid() -> None:
    """The widths of this family's MLPs cannot differ; then nothing of them is written."""
    made = decoder("per_layer_config")
    graph = excise.trace(made, input_ids=TOKENS, use_cache=False)
    plan = excise.plan_units(
        graph, {"layers.0.mlp.gate_proj": [0], "layers.0.self_attn.q_proj/2": [1]}
    )
    small: Any = excise.remove(made, plan)
    assert small.config.to_dict() == made.config.to_dict()


@pytest.mark.filterwarnings("ignore")
def test_a_uniform_cut_has_a_number_for_each_layer_where_there_can_be_one() -> None:
    made = decoder("per_layer_config")
    graph = excise.trace(made, input_ids=TOKENS, use_cache=False)
    found = {key for knob in knobs(graph) for key, _, _ in knob.keys}
    heads = {f"config.per_layer_config[{i}].num_attention_heads" for i in range(3)}
    assert heads < found
    assert "config.intermediate_size" in found
