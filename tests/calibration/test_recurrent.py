"""Recurrent layers as consumers: their rows are those of a loop written by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import excise
from excise.calibration import Batch, Consumer, Follower, batches, by_op, consumers, watch
from excise.calibration.call import Call
from excise.scores.probe import Change, outputs, results
from excise.trace.run import run
from tests.calibration.recurrent import LENGTHS, Sequences, sequences, walked

KINDS: dict[str, dict[str, Any]] = {
    "GRU": {"kind": "GRU"},
    "LSTM": {"kind": "LSTM"},
    "RNN": {"kind": "RNN", "nonlinearity": "relu"},
    "GRU without bias": {"kind": "GRU", "bias": False},
    "GRU, both directions, two layers": {"kind": "GRU", "bidirectional": True, "num_layers": 2},
    "LSTM, projected": {"kind": "LSTM", "proj_size": 4, "bidirectional": True, "num_layers": 2},
    "LSTM, packed": {"kind": "LSTM", "bidirectional": True, "num_layers": 2, "packed": True},
    "LSTM, packed and projected": {
        "kind": "LSTM", "bidirectional": True, "proj_size": 4, "packed": True
    },
}  # fmt: skip


def inputs(model: Sequences, seed: int = 1, size: int = 4) -> tuple[Tensor, ...]:
    torch.manual_seed(seed)
    x = torch.randn(size, 5, 3, dtype=torch.float64)
    return (x, LENGTHS.repeat(size // 4)) if model.packed else (x,)


class Seen(Follower):
    """Notes what each consumer reads and makes in one run."""

    def __init__(self, graph: excise.AxisGraph) -> None:
        super().__init__(graph.trace.ops)
        self.readers, self.found = by_op(consumers(graph)), dict[Consumer, tuple[Tensor, Tensor]]()

    def visit(self, number: int, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run one operation."""
        for consumer in self.readers.get(number, ()):
            with self.pause():
                call = Call("", func, args, kwargs)
                self.found[consumer] = consumer.read(call), consumer.output(call)
        return func(*args, **kwargs)


@pytest.mark.parametrize("name", KINDS)
def test_rows_are_what_the_steps_read(name: str) -> None:
    model = sequences(**KINDS[name])
    given = inputs(model)
    graph = excise.trace(model, *given)
    seen = Seen(graph)
    with torch.no_grad():
        run(model, seen, given, {})
        x = model.embed(given[0]).tanh()
    lengths = given[1] if model.packed else torch.full((4,), 5)
    order = torch.argsort(lengths, descending=True, stable=True).tolist()
    wanted = walked(model.core, [x[i, : lengths[i]] for i in order])
    parameters = dict(model.named_parameters())
    parts = 0
    for consumer, (rows, made) in seen.found.items():
        if consumer.part is None:
            continue
        each = wanted[consumer.part.reads, consumer.part.layer, consumer.part.direction]
        steps = [rows[t] for t in range(5) for rows in each if t < len(rows)]
        assert torch.allclose(rows, torch.stack(steps), rtol=1e-10, atol=1e-12)
        bias = parameters[consumer.bias] if consumer.bias else 0.0
        gates = rows @ parameters[consumer.weight].T + bias
        assert torch.allclose(made, gates, rtol=1e-10, atol=1e-12)
        assert consumer.times == (5 if consumer.part.loops else 1)
        parts += 1
    assert parts == len([n for n in parameters if n.startswith("core.weight")])


def test_directions_share_what_they_read() -> None:
    model = sequences("GRU", bidirectional=True, num_layers=2)
    found = [c for c in consumers(excise.trace(model, *inputs(model))) if c.part is not None]
    readings = [c.reading for c in found]
    assert len(found) == 8
    assert len(set(readings)) == 6  # each layer's input once, four states


def test_units_are_columns_of_both_directions() -> None:
    model = sequences("GRU", bidirectional=True, num_layers=2)
    graph = excise.trace(model, *inputs(model))
    (hidden,) = (g for g in graph.groups if "core.weight_hh_l0" in str(g))
    found = {c.weight: c.units(graph.scope, graph.axes[hidden.name]) for c in consumers(graph)}
    assert found["core.weight_ih_l0"] is None
    for name, times in (("core.weight_hh_l0", 1), ("core.weight_ih_l1", 2), ("head.weight", 2)):
        units = found[name]
        assert units is not None
        assert units.tolist() == list(range(8)) * times


@pytest.mark.parametrize("name", KINDS)
def test_a_changed_part_is_a_changed_weight(name: str) -> None:
    model = sequences(**KINDS[name])
    given = inputs(model)
    graph, before = excise.trace(model, *given), model.state_dict()
    before = {name: tensor.clone() for name, tensor in before.items()}
    changes, other = {}, sequences(**KINDS[name], seed=5)
    for consumer in consumers(graph):
        if consumer.part is not None:
            weight = dict(other.named_parameters())[consumer.weight].detach()
            changes[consumer] = Change(weight, torch.randn(len(weight), dtype=torch.float64))
    ends, batch = results(graph), Batch(given, {})
    with torch.no_grad():
        moved = outputs(model, batch, ends, changes)
        assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())
        for consumer, change in changes.items():
            model.get_parameter(consumer.weight).copy_(change.weight)
            if consumer.bias:
                model.get_parameter(consumer.bias).add_(change.shift)
        assert torch.allclose(moved[0], outputs(model, batch, ends)[0], rtol=1e-10, atol=1e-12)


def test_costs_are_those_of_every_step() -> None:
    model = sequences("GRU")
    with torch.no_grad():  # no pairs: what is fitted has a loss
        for tensor in model.parameters():
            tensor.add_(torch.randn_like(tensor) * 0.3)
    (x,) = inputs(model, size=40)
    graph = excise.trace(model, x[:2])
    data = batches(x.split(8), (x[:2],), {})
    (group,) = (g for g in graph.groups if "core.weight_hh_l0" in str(g))
    found = excise.scores.obs(model, graph, data, probes=0, rows=10_000, damping=1e-9)
    alone = excise.scores.obs(model, graph, data, probes=0, rows=10_000, level="second")
    with torch.no_grad():
        read = model.embed(x).tanh()
        after = model.core(read)[0]
        states = torch.cat([torch.zeros_like(after[:, :1]), after[:, :-1]], 1).flatten(0, 1)
        second, fitted = torch.zeros(8).double(), torch.zeros(8).double()
        both = ((states, model.core.weight_hh_l0, 5), (after.flatten(0, 1), model.head.weight, 1))
        for rows, weight, times in both:
            spread = (rows @ weight.T).var(0, correction=0).sum() / times
            second += rows.square().mean(0) * weight.square().sum(0) / spread
            for unit in range(8):
                rest = torch.cat([rows[:, torch.arange(8) != unit], torch.ones(len(rows), 1)], 1)
                lost = rows[:, unit, None] * weight[:, unit]
                left = lost - rest @ torch.linalg.lstsq(rest, lost).solution
                fitted[unit] += left.square().mean(0).sum() / spread
    for curves, wanted in ((alone, second), (found, fitted)):
        curve = curves.values[group.name]
        assert curve.order[0] == int(wanted.argmin())
        assert curve.cost[0] == pytest.approx(float(wanted.min()), rel=1e-3)


def test_what_only_a_recurrent_layer_reads_has_a_cost_in_the_outputs_unit() -> None:
    """The pairs are free; of four numbers that differ, none is."""
    model = sequences("LSTM")
    (x,) = inputs(model, size=40)
    graph = excise.trace(model, x[:2])
    data = batches(x.split(8), (x[:2],), {})
    curve = excise.scores.obs(model, graph, data, damping=1e-9).values["embed"]
    assert {unit % 4 for unit in curve.order[:4]} == set(range(4))
    other = excise.scores.obs(model, graph, data, damping=1e-9, probes=0).values["embed"]
    assert curve.order == other.order
    assert curve.cost[3] < 1e-4
    assert curve.cost[6] > 1e-3
    assert curve.cost[6] != pytest.approx(other.cost[6], rel=1e-3)


class Stepped(nn.Module):
    """A cell that is called once for each step."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.embed, self.cell, self.head = nn.Linear(3, 6), getattr(nn, kind)(6, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102 - the class says it
        state = None
        for now in self.embed(x).unbind(1):
            state = self.cell(now, state)
        out: Tensor = self.head(state[0] if isinstance(state, tuple) else state)
        return out


@pytest.mark.parametrize("kind", ["GRUCell", "LSTMCell", "RNNCell"])
def test_each_call_of_a_cell_counts(kind: str) -> None:
    torch.manual_seed(0)
    model, x = Stepped(kind).eval(), torch.randn(40, 4, 3)
    graph = excise.trace(model, x[:2])
    found = [c for c in consumers(graph) if c.weight.startswith("cell")]
    assert len(found) == 8
    assert all(c.shared and c.part is None for c in found)
    seen = watch(model, graph.trace.ops, found, batches(x.split(8), (x,), {}), rows=99)
    assert {m.count for m in seen.values()} == {40}
    curves = excise.scores.obs(model, graph, batches(x.split(8), (x,), {}))
    assert set(curves.values) == {group.name for group in graph.groups}
    assert all(0 <= cost < 1e6 for curve in curves.values.values() for cost in curve.cost)


def test_a_computed_weight_is_no_consumer() -> None:
    model = sequences("GRU")
    nn.utils.parametrizations.weight_norm(model.core, "weight_hh_l0")
    found = [c.weight for c in consumers(excise.trace(model, *inputs(model)))]
    assert "core.weight_ih_l0" in found
    assert not any("hh" in name for name in found)
