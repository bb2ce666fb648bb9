"""A batch in parts: what is proved to keep samples apart does, and what mixes them is refused."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional

from excise.sparse.engine import backend, divided, excise, program
from excise.sparse.engine.choice import ways
from excise.sparse.engine.divided import Divided
from excise.sparse.engine.divided import divided as in_parts
from excise.sparse.kernels import Library, library
from tests.sparse.network import NETWORKS, zeroed

N = 4  # as many samples as other things there are: what is told apart by size alone would be wrong


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No cache at all, so that everything is divided that may be."""
    torch.manual_seed(0)
    torch._dynamo.reset()
    monkeypatch.setattr(divided, "_NEAR", 2)
    yield
    torch._dynamo.reset()


class Noted(fx.Interpreter):
    """Leaves every value at its node, as a compiler's graph has them."""

    def run_node(self, node: fx.Node) -> Any:
        """Run it."""
        node.meta["val"] = out = super().run_node(node)
        return out


def graph_of(function: Callable[..., Any], *args: Tensor, pure: bool = True) -> fx.GraphModule:
    """A function of tensors as a graph of ATen operators."""

    def several(*given: Tensor) -> tuple[Any, ...]:
        made = function(*given)
        return made if isinstance(made, tuple) else (made,)

    with torch.no_grad():
        graph = make_fx(torch.func.functionalize(several) if pure else several)(*args)
        graph.graph.eliminate_dead_code()
        Noted(graph).run(*args)
    return graph


def split(function: Callable[..., Any], *args: Tensor) -> Divided | None:
    """The same in parts, if that is sure."""
    return in_parts(graph_of(function, *args), args, set())


def images(*sizes: int) -> Tensor:
    return torch.randn(N, *sizes)


W, TABLE = torch.randn(6, 6), torch.randn(9, 6)
CLASS, MASK = torch.randn(1, 1, 6), torch.randn(1, 1, N, N)


def qkv(x: Tensor) -> Tensor:
    """Self-attention as vision transformers write it: samples lie behind the three."""
    q, k, v = x.view(N, 4, 3, 2, 2).permute(2, 0, 3, 1, 4).unbind(0)
    mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=MASK)
    return mixed.transpose(1, 2).reshape(N, 4, 4)


def tokens_first(x: Tensor) -> Tensor:
    """Rows of a product that are not those of one sample side by side."""
    flat = x.transpose(0, 1).contiguous().view(-1, 6)
    return torch.mm(flat, W).view(-1, N, 6).transpose(0, 1)


APART: dict[str, tuple[Callable[..., Any], Tensor]] = {
    "pointwise": (lambda x: (x * W + 1).relu() / x.exp(), images(6, 6)),
    "rows": (lambda x: torch.addmm(W[0], x.view(-1, 6), W).view(N, 4, 6), images(4, 6)),
    "rows of tokens": (tokens_first, images(4, 6)),
    "attention": (qkv, images(4, 12)),
    "matrices": (lambda x: torch.bmm(x, x.transpose(1, 2)).softmax(-1), images(4, 6)),
    "layer norm": (lambda x: functional.layer_norm(x, (6,), W[0], W[1]), images(4, 6)),
    "group norm": (lambda x: functional.group_norm(x, 2), images(4, 5, 5)),
    "batch norm": (
        lambda x: torch.ops.aten._native_batch_norm_legit_no_training(
            x, W[2], W[3], W[0], W[1].square(), 0.1, 1e-5)[0], images(6, 5)),
    "convolution": (lambda x: functional.conv2d(x, W[:, :4, None, None], W[0]), images(4, 5, 5)),
    "pools": (lambda x: functional.avg_pool2d(functional.max_pool2d(x, 2), 2), images(4, 9, 8)),
    "nearest": (lambda x: functional.interpolate(x, scale_factor=2.0), images(4, 3, 3)),
    "class token": (lambda x: torch.cat([CLASS.expand(N, -1, -1), x], 1)[:, 0], images(4, 6)),
    "means": (lambda x: (x.mean((2, 3)) - x.amax(3).var(-1), x.argmax(2)), images(6, 4, 4)),
    "shifted": (lambda x: functional.pad(x.roll((1, 2), (1, 2)), (1, 2, 0, 1)), images(4, 4)),
    "halves": (lambda x: torch.cat([p.squeeze(1) for p in x.split(1, 1)][::-1], -1), images(4, 4)),
    "embedding": (lambda x: functional.embedding(x.abs().long(), TABLE), images(4)),
    "zeros": (lambda x: x + x.new_zeros(4, 1) + torch.full((N, 1, 1), 2.0), images(4, 4)),
    "mean of an image": (lambda x: x.mean((2, 3), keepdim=True).flatten(1) @ W, images(6, 4, 4)),
}  # fmt: skip


@pytest.mark.parametrize("name", APART)
@pytest.mark.parametrize("near", [2, 10**4])
def test_parts_give_what_the_whole_gives(
    name: str, near: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    function, x = APART[name]
    if near > 2:  # room for two samples
        largest = max(t.numel() * t.element_size() for t in values(function, x))
        monkeypatch.setattr(divided, "_NEAR", largest)
    made = split(function, x)
    assert made is not None
    assert made.samples == (2 if near > 2 else 1)
    wanted = function(x)
    wanted = wanted if isinstance(wanted, tuple) else (wanted,)
    for one, two in zip(made((x,)), wanted, strict=True):
        torch.testing.assert_close(one, two)


def values(function: Callable[..., Any], x: Tensor) -> list[Tensor]:
    """What a function computes on its way."""
    nodes = graph_of(function, x).graph.nodes
    made = [n.meta["val"] for n in nodes if n.op == "call_function"]
    return [value for value in made if isinstance(value, Tensor)]


MIXED: dict[str, tuple[Callable[..., Any], Tensor]] = {
    "mean over samples": (lambda x: x - x.mean(0), images(6)),
    "mean over all": (lambda x: x - x.mean(), images(6)),
    "square": (lambda x: x @ x, images(N)),
    "product with itself": (lambda x: x @ x.T, images(6)),
    "contracted": (lambda x: W[:, :N] @ x, images(6)),
    "sums so far": (lambda x: x.cumsum(0), images(6)),
    "sorted": (lambda x: x.sort(0)[0], images(6)),
    "shifted": (lambda x: x.roll(1, 0), images(6)),
    "turned round": (lambda x: x.flip(0), images(6)),
    "softmax": (lambda x: x.softmax(0), images(6)),
    "batch norm": (lambda x: functional.batch_norm(x, None, None, training=True), images(6)),
    "one for each": (lambda x: x + W[:N, :1], images(6)),
    "one for each, expanded": (lambda x: x + W[:N, :1].expand(N, 6), images(6)),
    "the first": (lambda x: x + x[0], images(6)),
    "half": (lambda x: x[:2], images(6)),
    "one behind the other": (lambda x: torch.cat([x, x], 0), images(6)),
    "all tokens": (lambda x: functional.layer_norm(x.reshape(-1), (N * 6,)), images(6)),
    "in pairs": (lambda x: x.view(2, 2, 6).mean(1), images(6)),
    "attention": (
        lambda x: functional.scaled_dot_product_attention(x[None], x[None], x[None]), images(3, 6)),
    "masked for each": (
        lambda x: functional.scaled_dot_product_attention(x, x, x, attn_mask=W[:N, :3, None]
        .expand(N, 3, 3)[:, None]), images(2, 3, 6)),
    "one image": (lambda x: functional.conv2d(x, W[:, :N, None, None]), images(5, 5)),
    "random": (functional.dropout, images(6)),
    "the same at random": (lambda x: x + torch.rand(1, 6), images(6)),
    "tokens first": (lambda x: x.transpose(0, 1).contiguous().view(-1, 6), images(4, 6)),
}  # fmt: skip


@pytest.mark.parametrize("name", MIXED)
def test_what_mixes_samples_is_refused(name: str) -> None:
    function, x = MIXED[name]
    assert split(function, x) is None


def test_what_is_written_to_is_refused() -> None:
    def counting(x: Tensor, count: Tensor) -> Tensor:
        return x * count.add_(1)

    x, count = images(6), torch.zeros(())
    assert in_parts(graph_of(counting, x, count, pure=False), (x, count), {1}) is None


def test_a_batch_that_fits_is_left_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(divided, "_NEAR", 2**21)
    assert split(torch.relu, images(6)) is None
    assert split(torch.relu, torch.randn(1, 10**6)) is None


def test_large_weights_do_not_divide_a_small_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.randn(60, 60)
    monkeypatch.setattr(divided, "_NEAR", 2 * 4 * N * 60)  # as much as the results take, twice
    assert split(lambda x: x @ weight.t(), images(60)) is None


STEPS: tuple[Callable[[Tensor], Tensor], ...] = (
    torch.relu,
    lambda x: x + x.mean(-1, keepdim=True),
    lambda x: x - x.amax(0, keepdim=True),
    lambda x: x.transpose(0, 1),
    lambda x: x.transpose(-1, -2).contiguous(),
    lambda x: x.reshape(4, -1),
    lambda x: x.reshape(-1, 4),
    lambda x: x.reshape(4, 4, -1),
    lambda x: x.reshape(-1, 4, 4),
    lambda x: x.reshape(1, 16, -1),
    lambda x: x.roll(1, -1),
    lambda x: x + torch.arange(x.shape[0]).view(-1, *[1] * (x.dim() - 1)),
    lambda x: x + torch.arange(x.shape[-1]),
    lambda x: x.softmax(-1),
    lambda x: x.flatten(0, 1) @ torch.ones(x.shape[-1], 4) if x.dim() == 3 else x,
    lambda x: torch.bmm(x, x.transpose(1, 2)) if x.dim() == 3 else x,
    lambda x: x.unsqueeze(1).squeeze(1) + x.select(-1, 0).unsqueeze(-1),
    lambda x: torch.cat([x, x * 2], -1),
    lambda x: x.sum(1, keepdim=True).expand(*x.shape) + x,
    lambda x: x[..., :4] if x.shape[-1] > 4 else x,
)


@pytest.mark.parametrize("seed", range(40))
def test_whatever_is_not_refused_is_right(seed: int) -> None:
    source = random.Random(seed)  # noqa: S311
    steps = [source.choice(STEPS) for _ in range(source.randint(1, 4))]

    def function(x: Tensor) -> Tensor:
        for step in steps:
            x = step(x)
        return x

    x = images(4, 4)
    made = split(function, x)
    if made is not None:
        torch.testing.assert_close(made((x,))[0], function(x))


def test_some_are_not_refused() -> None:
    assert sum(split(step, images(4, 4)) is not None for step in STEPS) == 16


@pytest.mark.skipif(not isinstance(library(), Library), reason="the kernels were not compiled here")
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_run_in_parts(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Divided] = []

    def kept(self: Divided, *_: Any) -> bool:
        made.append(self)
        return True

    monkeypatch.setattr(Divided, "faster", kept)
    monkeypatch.setattr(backend.Faster, "_wins", lambda *_: True)
    monkeypatch.setattr(program, "chosen", lambda *given: next(iter(ways(*given))))
    build, give = NETWORKS[name]
    model = zeroed(build())
    fast = torch.compile(model, backend=excise)
    with torch.no_grad():
        for n in (3, 3, 6):
            x = give(n)
            torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-4)
        next(model.parameters()).mul_(0.5)
        for _ in range(3):
            torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-4)
    assert {parts.samples for parts in made} == {1}


def test_the_faster_one_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    made, (x,) = split(torch.relu, images(6)), (images(6),)
    assert made is not None
    clock = iter([0.0, 1.0, 1.0, 3.0] * 6)  # seconds: one, then two
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    assert made.faster(lambda args: (args[0].relu(),), (x,))
    assert not made.faster(lambda args: (args[0].relu() + 0.1,), (x,))  # it gives something else
    made.run = lambda _: None  # another thread has its memory
    assert made((x,)) is None
    assert not made.faster(lambda args: (args[0].relu(),), (x,))
    clock = iter([0.0, 2.0, 2.0, 3.0] * 6)
    made.run = lambda args: (args[0].relu(),)
    assert not made.faster(lambda args: (args[0].relu(),), (x,))
