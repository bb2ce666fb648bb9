"""Model families of transformers from small configurations, by rules that hold for all of them.

Of a default configuration, and of the configurations inside it, every int that has a small value in
`SMALL` takes it. The first head that the family has (causal, masked, sequence to sequence, none)
and the first candidate input that runs are taken. `families.py` writes down which families that
builds, and which not, with the reason.
"""

from __future__ import annotations

import inspect
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import vision
from torch import Tensor, nn

from excise.trace.output import output_leaves

DATA = Path(__file__).parents[1] / "data" / "transformers_families.json"
LARGEST = 12_000_000  # parameters; a family that stays larger has fixed sizes that are not small
SMALL = {
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "dim", "embedding_size", "embed_dim"), 64),
    **dict.fromkeys(("projection_dim", "decoder_hidden_size", "qformer_hidden_size"), 64),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers"), 2),
    **dict.fromkeys(("encoder_layers", "decoder_layers", "num_decoder_layers"), 2),
    **dict.fromkeys(("num_encoder_layers", "decoder_num_hidden_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), 4),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("num_encoder_attention_heads", "num_decoder_attention_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "decoder_num_attention_heads"), 2),
    **dict.fromkeys(("head_dim", "d_kv"), 16),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "d_ff", "encoder_ffn_dim"), 96),
    **dict.fromkeys(("decoder_ffn_dim", "hidden_dim", "n_inner", "decoder_intermediate_size"), 96),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 48),
    **dict.fromkeys(("num_local_experts", "num_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_topk", "moe_k"), 2),
    **dict.fromkeys(("max_position_embeddings", "n_positions"), 64),
    "vocab_size": 199,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "q_lora_rank": 32,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
    "v_head_dim": 16,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "state_size": 8,
    "image_size": 32,
    "patch_size": 8,
    "num_mel_bins": 16,
    "max_source_positions": 32,
    "image_token_id": 7,
    "image_token_index": 7,
    "video_token_id": 8,
    "audio_token_id": 9,
    "audio_token_index": 9,
    "mamba_n_heads": 4,
    "mamba_d_head": 32,
    "mamba_d_state": 8,
    "n_mamba_heads": 2,
}
"""Attribute of a configuration -> small value; only where the default is an int."""
VARIANTS: tuple[dict[str, int | None], ...] = (
    {},
    {"head_dim": None, "d_kv": None},
    {"num_key_value_heads": None},
    {"num_key_value_heads": 4, "head_dim": 8, "rotary_dim": 8, "num_experts_per_tok": 2},
    {"head_dim": None, "num_key_value_heads": None, "n_group": None, "topk_group": None},
    {"head_dim": 32, "num_heads": 4, "rotary_dim": 8, "dim": 128, "n_groups": 2},
    {"patch_size": None, "image_size": None},
    {"num_hidden_layers": None, "num_layers": None, "n_layers": None},
    {"state_size": None, "hidden_size": None, "num_attention_heads": None, "head_dim": None},
    {"max_position_embeddings": None, "n_positions": None, "qk_rope_head_dim": None},
)
"""Changes to `SMALL`, in the order in which they are tried; None leaves the default.

They also replace a default of None, where the configuration has the attribute.
"""


_TRIES = 4  # a number of the configuration may turn out not to fit, and then less can be reached


def prepare() -> None:
    """Import what building takes."""
    heads()


def names() -> list[str]:
    """Every family in `transformers_families.json`."""
    return [f["family"] for f in json.loads(DATA.read_text())["families"]]


def build(name: str) -> tuple[nn.Module, tuple[Any, ...], dict[str, Any]]:
    """The family with its small configuration, as recorded, and an input."""
    found = json.loads(DATA.read_text())["families"]
    row = next(f for f in found if f["family"] == name)
    model = made(name, row["head"], VARIANTS[row["variant"]])
    given = list(candidates(model))[row["input"]]
    return model, (), given


def more(row: dict[str, Any], model: Any, small: Any, kwargs: dict[str, Any]) -> None:
    """Beyond the proof: does the cut model generate with a cache, and does a uniform cut reload?"""
    row["generate"] = _generates(model, small, kwargs)
    if row["generate"].startswith("fails"):
        row["generate_otherwise"] = _otherwise(model, kwargs)
    row["plain"] = _round_trip(small, kwargs)
    try:
        row["uniform"] = _reloads(model, kwargs)
    except Exception as error:  # noqa: BLE001 - the rest of the row is worth having
        told = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}"
        row["uniform"] = f"exception: {told}"


def _generates(model: Any, small: Any, kwargs: dict[str, Any]) -> str:
    """`generate()` with a cache; what the uncut model cannot do is not asked of the cut one."""
    if not getattr(model, "can_generate", lambda: False)():
        return "not a generator"
    given = {k: v for k, v in kwargs.items() if k not in {"use_cache", "decoder_input_ids"}}
    options = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False, "use_cache": True}
    if getattr(model.config, "is_encoder_decoder", False):
        options["decoder_start_token_id"] = 1  # the default may lie beyond a small vocabulary
    try:
        wanted = model.generate(**given, **options)
    except Exception as error:  # noqa: BLE001 - whatever stops the uncut model
        told = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:120]}"
        return f"the uncut model does not: {told}"
    try:
        found = small.generate(**given, **options)
    except Exception as error:  # noqa: BLE001 - this is what is looked for
        return f"fails: {type(error).__name__}: {str(error).partition(chr(10))[0][:200]}"
    same = _tokens(found).shape == _tokens(wanted).shape
    return "runs" if same else "fails: another shape"


def _tokens(found: Any) -> Tensor:
    """The tokens that `generate()` returned, alone or with more."""
    tokens: Tensor = found if isinstance(found, Tensor) else found.sequences
    return tokens


def _otherwise(model: Any, kwargs: dict[str, Any]) -> str:
    """How to cut so that `generate()` runs: uniformly, or with the cache in the example."""
    known = inspect.signature(model.forward).parameters
    caches = {name: True for name in known if name.startswith("use_") and name.endswith("cache")}
    for way, given, uniform in (("uniform=True", kwargs, True), ("cache", kwargs | caches, False)):
        try:
            small = _cut(model, given, uniform=uniform)
        except Exception:  # noqa: BLE001, S112 - not that way
            continue
        if isinstance(small, nn.Module) and _generates(model, small, kwargs) == "runs":
            return way if way != "cache" else ", ".join(f"{name}=True" for name in caches)
    return "not"


def _reloads(model: Any, kwargs: dict[str, Any]) -> str:
    """A uniform cut, saved and read back by transformers alone."""
    small = _cut(model, kwargs, uniform=True)
    if small is None:
        return "nothing that its configuration could say"
    if isinstance(small, str):
        return small
    said = _round_trip(small, kwargs)
    if said == "reloads" or _round_trip(model, kwargs) == "reloads":
        return said
    return f"the uncut model does not: {said}"


def _cut(model: Any, kwargs: dict[str, Any], *, uniform: bool) -> Any:
    """A model cut to 80 % of its parameters, or as near as it goes; None if that is nothing.

    A cut that is not proved is its verdict, in words.
    """
    import excise  # noqa: PLC0415 - the rest of the suite knows nothing of it

    graph = excise.trace(model, **kwargs)
    scores = excise.scores.magnitude(model, graph)
    keep, plan = 0.8, None
    for _ in range(_TRIES):
        try:
            plan = excise.plan(graph, scores, keep_params=keep, uniform=uniform)
            break
        except excise.errors.UnreachableTargetError as error:
            if error.reachable > 0.97:  # noqa: PLR2004 - nothing to speak of
                return None
            keep = error.nearest[0] if error.nearest else error.reachable + 0.01
    if plan is None:
        return None
    small = excise.remove(model, plan)
    return small if excise.verify(model, small, plan, **kwargs).passed else "not proved"


def _round_trip(model: Any, kwargs: dict[str, Any]) -> str:
    """Save a model by transformers, read it back elsewhere, and compare."""
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        try:
            model.save_pretrained(folder)
            torch.manual_seed(0)
            wanted = [tensor for _, tensor in output_leaves(model(**kwargs))]
            torch.save(wanted, f"{folder}/wanted.pt")
            return _elsewhere(lambda: _reload(type(model), folder, kwargs))
        except Exception as error:  # noqa: BLE001 - this is what is looked for
            return f"fails: {type(error).__name__}: {str(error).partition(chr(10))[0][:200]}"


def _reload(made_by: Any, folder: str, kwargs: dict[str, Any]) -> str:
    """What transformers alone makes of a saved model."""
    again = made_by.from_pretrained(folder).eval()
    torch.manual_seed(0)
    wanted = torch.load(f"{folder}/wanted.pt")
    found = [tensor for _, tensor in output_leaves(again(**kwargs))]
    same = all(
        torch.equal(a, b) or torch.allclose(a, b, atol=1e-6)
        for a, b in zip(wanted, found, strict=True)
    )
    return "reloads" if same else "reloads to another output"


def _elsewhere(run: Callable[[], str]) -> str:
    """Run in a process in which there is no excise; nothing of it can be imported there."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            for name in [n for n in sys.modules if n.partition(".")[0] == "excise"]:
                sys.modules[name] = None  # type: ignore[assignment]
            said = run()
        except BaseException as error:  # noqa: BLE001 - told, whatever it is
            said = f"fails: {type(error).__name__}: {str(error).partition(chr(10))[0][:200]}"
        os.write(write, said.encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    return said


def quiet() -> None:
    """Import transformers without its log."""
    vision.prepare()
    import transformers  # noqa: PLC0415 - after vision.prepare()

    transformers.logging.set_verbosity_error()


def configuration(cls: Any, change: dict[str, int | None]) -> Any:
    """A small configuration of a class."""
    return cls(**_small(cls(), change))


def _small(config: Any, change: dict[str, int | None]) -> dict[str, Any]:
    """The overrides for a configuration, those of the configurations inside it included."""
    found: dict[str, Any] = {}
    for key, value in (SMALL | change).items():
        present = vars(config).get(key, getattr(type(config), key, None))
        stated = key in change and _has(config, key)
        if value is not None and (type(present) is int or stated):
            found[key] = value
    attributes = vars(config)
    if "use_cache" in attributes:
        found["use_cache"] = False  # else the cache is an output, and its axes are the caller's
    for key in getattr(type(config), "sub_configs", {}):
        inner = attributes.get(key)
        if hasattr(inner, "to_dict"):
            plain = inner.to_dict()
            found[key] = {**_restated(plain, inner, change)}
    return found


def _has(config: Any, key: str) -> bool:
    """Whether a configuration has an attribute of its own; one that each layer has is no such."""
    try:
        return hasattr(config, key)
    except RuntimeError:  # its layers differ in it
        return False


def _restated(plain: dict[str, Any], inner: Any, change: dict[str, int | None]) -> dict[str, Any]:
    """What an inner configuration says of itself, without what follows from the old sizes."""
    derived = {"transformers_version", "layer_types", "rope_parameters", "mlp_layer_types"}
    return {k: v for k, v in plain.items() if k not in derived} | _small(inner, change)


def heads() -> dict[str, Any]:
    """Head name -> auto class, in the order in which they are tried."""
    quiet()
    import transformers  # noqa: PLC0415

    return {
        "speech": transformers.AutoModelForSpeechSeq2Seq,
        "seq2seq": transformers.AutoModelForSeq2SeqLM,
        "image-text": transformers.AutoModelForImageTextToText,
        "causal": transformers.AutoModelForCausalLM,
        "masked": transformers.AutoModelForMaskedLM,
        "ctc": transformers.AutoModelForCTC,
        "image": transformers.AutoModelForImageClassification,
        "base": transformers.AutoModel,
    }


def made(name: str, head: str, change: dict[str, int | None]) -> nn.Module:
    """One family with one head, seeded, in eval mode."""
    auto = heads()[head]
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING  # noqa: PLC0415

    torch.manual_seed(0)
    model: nn.Module = auto.from_config(configuration(CONFIG_MAPPING[name], change)).eval()
    return model


def tokens(length: int = 12) -> Tensor:
    """Token numbers that are no special ones."""
    return torch.randint(20, 150, (1, length), generator=torch.Generator().manual_seed(2))


def candidates(model: Any) -> Iterator[dict[str, Any]]:
    """Inputs that a model of this signature may take, simplest first."""
    known = set(inspect.signature(model.forward).parameters)
    config = model.config
    more: dict[str, Any] = {"use_cache": False} if "use_cache" in known else {}
    if "decoder_input_ids" in known:
        more["decoder_input_ids"] = tokens(7)
    main = str(model.main_input_name)
    if main == "input_ids" and "input_ids" in known:
        yield {"input_ids": tokens(), **more}
    if "pixel_values" in known:
        yield from _images(known, config, more)
    if "input_values" in known:
        for shape in ((1, 4000), (1, 1, 4000), (1, 1024, 128)):
            yield {"input_values": _noise(*shape), **more}
    if "input_features" in known:
        bins = int(_find(config, "num_mel_bins") or _find(config, "feature_size") or 80)
        frames = 2 * int(_find(config, "max_source_positions") or 32)
        for shape in ((1, bins, frames), (1, frames, bins), (1, frames, 160)):
            yield {"input_features": _noise(*shape), **more}


def _images(known: set[str], config: Any, more: dict[str, Any]) -> Iterator[dict[str, Any]]:
    size = _find(config, "image_size") or 32
    high, wide = size if isinstance(size, (list, tuple)) else (size, size)
    channels = int(_find(config, "num_channels") or 3)
    frames = int(_find(config, "num_frames") or 2)
    patch = _find(config, "patch_size") or 8
    patch = int(patch[0] if isinstance(patch, (list, tuple)) else patch)
    image = _noise(1, channels, int(high), int(wide))
    if "input_ids" not in known:
        yield {"pixel_values": image, **more}
        yield {"pixel_values": _noise(1, channels, 224, 224), **more}
        yield {"pixel_values": _noise(1, frames, channels, int(high), int(wide)), **more}
        return
    yield {"input_ids": tokens(), "pixel_values": image, **more}
    place = _find(config, "image_token_id") or _find(config, "image_token_index")
    if place is not None:
        count = (int(high) // patch) * (int(wide) // patch)
        for n in (count, count + 1, count // 4):
            words = torch.cat([tokens(4), torch.full((1, n), int(place)), tokens(4)], 1)
            yield {"input_ids": words, "pixel_values": image, **more}


def _noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(3))


def _find(config: Any, name: str) -> Any:
    """An attribute of a configuration or of one inside it."""
    if vars(config).get(name) is not None:
        return vars(config)[name]
    for key in getattr(type(config), "sub_configs", {}):
        inner = vars(config).get(key)
        found = _find(inner, name) if hasattr(inner, "to_dict") else None
        if found is not None:
            return found
    return None
