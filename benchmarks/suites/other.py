"""What others wrote: diffusers, segmentation-models-pytorch, x-transformers, open_clip, MONAI.

Small configurations of each library's own classes; nothing else is said about any model.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
import vision
from torch import Tensor, nn

Made = tuple[Any, tuple[Any, ...], dict[str, Any]]


def noise(*shape: int) -> Tensor:
    """Numbers from a normal distribution, the same each time."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def words(length: int = 12, high: int = 90) -> Tensor:
    """Token numbers."""
    return torch.randint(3, high, (1, length), generator=torch.Generator().manual_seed(0))


def prepare() -> None:
    """Import what several models take."""
    vision.prepare()
    if "diffusers" not in sys.modules:  # it checks the version of a download client first
        unchecked = ModuleType("diffusers.dependency_versions_check")
        vars(unchecked)["dep_version_check"] = lambda *_: None
        sys.modules["diffusers.dependency_versions_check"] = unchecked


def _diffusers(name: str, inputs: dict[str, Any], **options: Any) -> Made:
    return getattr(importlib.import_module("diffusers"), name)(**options), (), inputs


def _segmentation(name: str, encoder: str = "resnet18", size: int = 64) -> Made:
    smp = importlib.import_module("segmentation_models_pytorch")
    model = getattr(smp, name)(encoder_name=encoder, encoder_weights=None, classes=3)
    return model, (noise(1, 3, size, size),), {}


def _x_transformer(outer: dict[str, Any] | None = None, **options: Any) -> Made:
    x = importlib.import_module("x_transformers")
    layers = x.Decoder(**{"dim": 64, "depth": 2, "heads": 4, "attn_dim_head": 16} | options)
    model = x.TransformerWrapper(
        num_tokens=100, max_seq_len=32, attn_layers=layers, **(outer or {})
    )
    return model, (words(),), {}


def _x_encoder() -> Made:
    x = importlib.import_module("x_transformers")
    layers = x.Encoder(dim=64, depth=2, heads=4, attn_dim_head=16)
    return x.ViTransformerWrapper(
        image_size=32, patch_size=8, num_classes=10, attn_layers=layers
    ), (noise(1, 3, 32, 32),), {}  # fmt: skip


def _x_both() -> Made:
    x = importlib.import_module("x_transformers")
    model = x.XTransformer(
        dim=64, enc_num_tokens=100, enc_depth=2, enc_heads=4, enc_max_seq_len=32,
        dec_num_tokens=100, dec_depth=2, dec_heads=4, dec_max_seq_len=32,
    )  # fmt: skip
    return model, (words(), words(8)), {}


def _open_clip(name: str) -> Made:
    clip = importlib.import_module("open_clip")
    model = clip.create_model(name, pretrained=None)
    size = model.visual.image_size
    size = size if isinstance(size, int) else size[0]
    return model, (noise(1, 3, size, size), words(model.context_length, 300)), {}


def _clip(vision_part: dict[str, Any]) -> Made:
    model = importlib.import_module("open_clip.model")
    text = model.CLIPTextCfg(context_length=16, vocab_size=100, width=64, heads=4, layers=2)
    made = model.CLIP(embed_dim=48, vision_cfg=model.CLIPVisionCfg(**vision_part), text_cfg=text)
    return made, (noise(1, 3, 32, 32), words(16)), {}


def _monai(name: str, *shape: int, **options: Any) -> Made:
    nets = importlib.import_module("monai.networks.nets")
    return getattr(nets, name)(**options), (noise(*shape),), {}


UNET = {
    "sample_size": 16, "in_channels": 4, "out_channels": 4, "layers_per_block": 1,
    "block_out_channels": (32, 64), "norm_num_groups": 8,
}  # fmt: skip
TIME = {"timestep": torch.tensor(5), "return_dict": False}
KL = {
    "in_channels": 3, "out_channels": 3, "latent_channels": 4, "block_out_channels": (32, 64),
    "down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2,
    "norm_num_groups": 8,
}  # fmt: skip
DIFFUSERS: dict[str, Callable[[], Made]] = {
    "unet-2d": lambda: _diffusers(
        "UNet2DModel", {"sample": noise(1, 4, 16, 16), **TIME}, **UNET,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    ),
    "unet-2d-condition": lambda: _diffusers(
        "UNet2DConditionModel",
        {"sample": noise(1, 4, 16, 16), "encoder_hidden_states": noise(1, 7, 24), **TIME}, **UNET,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=24, attention_head_dim=8,
    ),
    "dit": lambda: _diffusers(
        "DiTTransformer2DModel",
        {"hidden_states": noise(1, 4, 16, 16), "timestep": torch.tensor([5]),
         "class_labels": torch.tensor([3]), "return_dict": False},
        num_attention_heads=4, attention_head_dim=16, in_channels=4, num_layers=2, sample_size=16,
        norm_num_groups=8, num_embeds_ada_norm=1000,
    ),
    "sd3": lambda: _diffusers(
        "SD3Transformer2DModel",
        {"hidden_states": noise(1, 4, 16, 16), "encoder_hidden_states": noise(1, 7, 32),
         "pooled_projections": noise(1, 24), "timestep": torch.tensor([5]), "return_dict": False},
        sample_size=16, patch_size=2, in_channels=4, num_layers=2, attention_head_dim=16,
        num_attention_heads=4, joint_attention_dim=32, caption_projection_dim=64,
        pooled_projection_dim=24, out_channels=4,
    ),
    "pixart": lambda: _diffusers(
        "PixArtTransformer2DModel",
        {"hidden_states": noise(1, 4, 16, 16), "encoder_hidden_states": noise(1, 7, 32),
         "timestep": torch.tensor([5]), "return_dict": False},
        num_attention_heads=4, attention_head_dim=16, in_channels=4, out_channels=8, num_layers=2,
        cross_attention_dim=64, sample_size=16, caption_channels=32,
        use_additional_conditions=False,
    ),
    "vae": lambda: _diffusers(
        "AutoencoderKL", {"sample": noise(1, 3, 32, 32), "return_dict": False}, **KL
    ),
    "vq": lambda: _diffusers(
        "VQModel", {"sample": noise(1, 3, 32, 32), "return_dict": False}, **KL, num_vq_embeddings=32
    ),
    "vae-tiny": lambda: _diffusers(
        "AutoencoderTiny", {"sample": noise(1, 3, 32, 32), "return_dict": False}
    ),
}  # fmt: skip
PLAIN = (
    "Unet", "UnetPlusPlus", "FPN", "Linknet", "MAnet", "DeepLabV3", "DeepLabV3Plus", "UPerNet",
)  # fmt: skip
SEGMENTATION: dict[str, Callable[[], Made]] = {
    **{f"smp-{name.lower()}": functools.partial(_segmentation, name) for name in PLAIN},
    "smp-pspnet": lambda: _segmentation("PSPNet", size=96),
    "smp-pan": lambda: _segmentation("PAN", size=128),
    "smp-segformer": lambda: _segmentation("Segformer", "mit_b0"),
    "smp-unet-mobilenet": lambda: _segmentation("Unet", "mobilenet_v2"),
    "smp-unet-efficientnet": lambda: _segmentation("Unet", "efficientnet-b0"),
    "smp-fpn-densenet": lambda: _segmentation("FPN", "densenet121"),
}  # fmt: skip
X_TRANSFORMERS: dict[str, Callable[[], Made]] = {
    "x-decoder": _x_transformer,
    "x-rotary": lambda: _x_transformer(rotary_pos_emb=True),
    "x-alibi": lambda: _x_transformer({"use_abs_pos_emb": False}, alibi_pos_bias=True),
    "x-t5-bias": lambda: _x_transformer({"use_abs_pos_emb": False}, rel_pos_bias=True),
    "x-gqa": lambda: _x_transformer(attn_kv_heads=2),
    "x-mqa": lambda: _x_transformer(attn_one_kv_head=True),
    "x-glu-rms": lambda: _x_transformer(ff_glu=True, ff_swish=True, use_rmsnorm=True),
    "x-sandwich": lambda: _x_transformer(sandwich_norm=True, ff_relu_squared=True),
    "x-qk-norm": lambda: _x_transformer(attn_qk_norm=True),
    "x-parallel-gate": lambda: _x_transformer(attn_gate_values=True, shift_tokens=1),
    "x-memory": lambda: _x_transformer({"num_memory_tokens": 4}),
    "x-talking": lambda: _x_transformer(attn_pre_talking_heads=True),
    "x-tied": lambda: _x_transformer({"tie_embedding": True}),
    "x-vit": _x_encoder,
    "x-encoder-decoder": _x_both,
}
OPEN_CLIP: dict[str, Callable[[], Made]] = {
    "clip-vit": lambda: _clip(
        {"layers": 2, "width": 64, "head_width": 16, "patch_size": 8, "image_size": 32}
    ),
    "clip-resnet": lambda: _clip(
        {"layers": (1, 1, 1, 1), "width": 16, "head_width": 16, "image_size": 32}
    ),
    "clip-coca-like": lambda: _clip(
        {"layers": 2, "width": 64, "head_width": 16, "patch_size": 8, "image_size": 32,
         "attentional_pool": True, "attn_pooler_queries": 4, "attn_pooler_heads": 4}
    ),
    "clip-mobile": lambda: _open_clip("MobileCLIP-S1"),
}  # fmt: skip
VOLUME = {"spatial_dims": 3, "in_channels": 1, "out_channels": 2}
MONAI: dict[str, Callable[[], Made]] = {
    "monai-unet": lambda: _monai(
        "UNet", 1, 1, 32, 32, 32, **VOLUME, channels=(8, 16, 32), strides=(2, 2), num_res_units=2
    ),
    "monai-attention-unet": lambda: _monai(
        "AttentionUnet", 1, 1, 32, 32, 32, **VOLUME, channels=(8, 16, 32), strides=(2, 2)
    ),
    "monai-basic-unet": lambda: _monai(
        "BasicUNet", 1, 1, 32, 32, 32, **VOLUME, features=(8, 8, 16, 32, 64, 8)
    ),
    "monai-dynunet": lambda: _monai(
        "DynUNet", 1, 1, 32, 32, 32, **VOLUME, kernel_size=[3, 3, 3], strides=[1, 2, 2],
        upsample_kernel_size=[2, 2], filters=[8, 16, 32],
    ),
    "monai-segresnet": lambda: _monai("SegResNet", 1, 1, 32, 32, 32, **VOLUME, init_filters=8),
    "monai-vnet": lambda: _monai("VNet", 1, 1, 32, 32, 32, **VOLUME),
    "monai-unetr": lambda: _monai(
        "UNETR", 1, 1, 32, 32, 32, in_channels=1, out_channels=2, img_size=(32, 32, 32),
        feature_size=8, hidden_size=48, mlp_dim=96, num_heads=4,
    ),
    "monai-swin-unetr": lambda: _monai(
        "SwinUNETR", 1, 1, 64, 64, 64, in_channels=1, out_channels=2, feature_size=12,
    ),
    "monai-vit": lambda: _monai(
        "ViT", 1, 1, 32, 32, in_channels=1, img_size=(32, 32), patch_size=(8, 8), hidden_size=48,
        mlp_dim=96, num_layers=2, num_heads=4, classification=True, spatial_dims=2,
    ),
    "monai-densenet": lambda: _monai(
        "DenseNet121", 1, 1, 32, 32, spatial_dims=2, in_channels=1, out_channels=3
    ),
    "monai-resnet": lambda: _monai(
        "resnet18", 1, 1, 32, 32, spatial_dims=2, n_input_channels=1, num_classes=3
    ),
    "monai-senet": lambda: _monai(
        "SEResNet50", 1, 3, 64, 64, spatial_dims=2, in_channels=3, num_classes=3
    ),
    "monai-efficientnet": lambda: _monai(
        "EfficientNetBN", 1, 3, 64, 64, model_name="efficientnet-b0", pretrained=False
    ),
    "monai-highresnet": lambda: _monai(
        "HighResNet", 1, 1, 16, 16, 16, **VOLUME
    ),
    "monai-autoencoder": lambda: _monai(
        "AutoEncoder", 1, 1, 32, 32, spatial_dims=2, in_channels=1, out_channels=1,
        channels=(8, 16), strides=(2, 2),
    ),
}  # fmt: skip
ALL = {**DIFFUSERS, **SEGMENTATION, **X_TRANSFORMERS, **OPEN_CLIP, **MONAI}


def names() -> list[str]:
    """Every model above."""
    return list(ALL)


def build(name: str) -> tuple[nn.Module, tuple[Any, ...], dict[str, Any]]:
    """One of them, seeded, in eval mode, with its input."""
    prepare()
    torch.manual_seed(0)
    model, args, kwargs = ALL[name]()
    return model.eval(), args, kwargs
