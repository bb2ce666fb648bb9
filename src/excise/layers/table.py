"""Which attribute of a known layer repeats which dimension of its tensors.

A row is a function from a layer, the new shapes of its tensors and the attributes whose new values
are known from elsewhere to `attribute path -> value`.
Everything that is not here is found by provenance, if the model's own code uses the attribute.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

from torch import nn
from torch.nn.utils import parametrize

from excise.trace.skeleton import read

Shapes: TypeAlias = "Mapping[str, tuple[int, ...]]"
Known: TypeAlias = "Mapping[str, int]"
Row: TypeAlias = "Callable[[Any, Shapes, Known], dict[str, int]]"


def _linear(_: Any, shapes: Shapes, _known: Known) -> dict[str, int]:
    return {"out_features": shapes["weight"][0], "in_features": shapes["weight"][1]}


def _bilinear(_: Any, shapes: Shapes, _known: Known) -> dict[str, int]:
    out, one, two = shapes["weight"]
    return {"out_features": out, "in1_features": one, "in2_features": two}


def _convolution(layer: Any, shapes: Shapes, known: Known) -> dict[str, int]:
    """`groups` where it is not known shrinks with the channels if it is them (depthwise)."""
    weight = shapes["weight"]
    transposed = bool(layer.transposed)
    lead, per_group = weight[0], weight[1]
    groups = int(known.get("groups", layer.groups))
    if groups > 1 and "groups" not in known:
        old = layer.weight.shape
        block = old[0] // groups  # leading channels of one group
        depthwise = old[1] == 1 and block >= 1
        if depthwise and lead % block == 0:
            groups = lead // block
    across = per_group * groups
    return (
        {"in_channels": lead, "out_channels": across}
        if transposed
        else {"out_channels": lead, "in_channels": across}
    )


def _norm_features(_: Any, shapes: Shapes, _known: Known) -> dict[str, int]:
    known = shapes.get("weight") or shapes.get("running_mean")
    return {"num_features": known[0]} if known else {}


def _layer_norm(_: Any, shapes: Shapes, _known: Known) -> dict[str, int]:
    known = shapes.get("weight")
    return {f"normalized_shape[{i}]": n for i, n in enumerate(known)} if known else {}


def _group_norm(_: Any, shapes: Shapes, _known: Known) -> dict[str, int]:
    return {"num_channels": shapes["weight"][0]} if "weight" in shapes else {}


def _embedding(_: Any, shapes: Shapes, _known: Known) -> dict[str, int]:
    return {"num_embeddings": shapes["weight"][0], "embedding_dim": shapes["weight"][1]}


def _attention(layer: Any, shapes: Shapes, known: Known) -> dict[str, int]:
    found: dict[str, int] = {}
    if "in_proj_weight" in shapes:
        width = shapes["in_proj_weight"][1]
        found |= {"embed_dim": width, "kdim": width, "vdim": width}
    else:
        found |= {"kdim": shapes["k_proj_weight"][1], "vdim": shapes["v_proj_weight"][1]}
        found["embed_dim"] = shapes["q_proj_weight"][1]
    heads = int(known.get("num_heads", layer.num_heads))
    own = layer.embed_dim // layer.num_heads == int(layer.head_dim)
    if own and found["embed_dim"] % heads == 0:
        found["head_dim"] = found["embed_dim"] // heads
    return found


def _recurrent(layer: Any, shapes: Shapes, _known: Known) -> dict[str, int]:
    gates = {"LSTM": 4, "GRU": 3}.get(layer.mode, 1)
    found = {
        "input_size": shapes["weight_ih_l0"][1],
        "hidden_size": shapes["weight_ih_l0"][0] // gates,
    }
    if layer.proj_size:
        found["proj_size"] = shapes["weight_hr_l0"][0]
    return found


def _cell(layer: Any, shapes: Shapes, _known: Known) -> dict[str, int]:
    gates = shapes["weight_ih"][0] // shapes["weight_hh"][1]
    del layer
    return {"input_size": shapes["weight_ih"][1], "hidden_size": shapes["weight_ih"][0] // gates}


def _prelu(layer: Any, shapes: Shapes, _known: Known) -> dict[str, int]:
    return {"num_parameters": shapes["weight"][0]} if layer.num_parameters > 1 else {}


_conv = nn.modules.conv._ConvNd  # noqa: SLF001 - the common class of all convolutions
TABLE: dict[type[nn.Module], Row] = {
    nn.Linear: _linear,
    nn.Bilinear: _bilinear,
    _conv: _convolution,
    nn.modules.batchnorm._NormBase: _norm_features,  # noqa: SLF001
    nn.LayerNorm: _layer_norm,
    nn.RMSNorm: _layer_norm,
    nn.GroupNorm: _group_norm,
    nn.Embedding: _embedding,
    nn.EmbeddingBag: _embedding,
    nn.MultiheadAttention: _attention,
    nn.RNNBase: _recurrent,
    nn.RNNCellBase: _cell,
    nn.PReLU: _prelu,
}


def table_attributes(
    model: nn.Module,
    shapes: Mapping[str, tuple[int, ...]],
    known: Mapping[tuple[str, str], int],
) -> Iterator[tuple[str, str, int, int]]:
    """Every attribute of a known layer that repeats a length.

    Args:
        model: before the cut. Not touched.
        shapes: qualified tensor name -> shape after the cut.
        known: (module path, attribute path) -> value after the cut, as far as the model's own code
            tells it (`groups`, `num_heads`).

    Yields:
        Module path, attribute path, value before, value after.
    """
    for path, layer in model.named_modules():
        row = next((r for kind, r in TABLE.items() if isinstance(layer, kind)), None)
        if row is None:
            continue
        prefix = f"{path}." if path else ""
        own = {n.removeprefix(prefix): s for n, s in shapes.items() if n.startswith(prefix)}
        own |= _parametrized(layer, own)
        try:
            found = row(layer, own, {a: n for (owner, a), n in known.items() if owner == path})
        except (KeyError, AttributeError):  # a parametrized or unusual layer keeps no such tensor
            continue
        for attribute, new in found.items():
            old = read(layer, attribute)
            if isinstance(old, int):
                yield path, attribute, old, new


def _parametrized(layer: nn.Module, own: Shapes) -> dict[str, tuple[int, ...]]:
    """Shapes of tensors that are computed from others: those of their largest source."""
    found: dict[str, tuple[int, ...]] = {}
    if not parametrize.is_parametrized(layer):
        return found
    for name, sources in layer.parametrizations.items():  # type: ignore[operator, union-attr]
        largest = max(sources.named_parameters(recurse=False), key=lambda item: item[1].numel())[0]
        found[name] = own[f"parametrizations.{name}.{largest}"]
    return found
