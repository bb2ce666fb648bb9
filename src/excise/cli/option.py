"""The arguments that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="torchvision:NAME, timm:NAME, transformers:DIR or :CONFIG.json, "
        "package.module:FACTORY, or file.py:FACTORY. Nothing is downloaded.",
    ),
]
Small = Annotated[
    Path, typer.Argument(metavar="SMALL.safetensors", help="A file that `excise prune` wrote.")
]
Inputs = Annotated[
    Optional[list[str]],  # noqa: UP045 - typer reads this at run time on every Python
    typer.Option(
        "--input",
        "-i",
        metavar="[NAME=][long:]1x3x224x224",
        help="An example input, repeatable: a shape, with long: for token ids; or a .npy or .pt "
        "file. NAME= passes it as a keyword.",
    ),
]
Weights = Annotated[
    Optional[Path],  # noqa: UP045 - as above
    typer.Option(
        "--weights",
        "-w",
        help="A .safetensors or .pt state dict of MODEL. Without one: its own, or random from a "
        "fixed seed.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, and nothing else.")]
Atol = Annotated[float, typer.Option(help="Weights of at most this size count as zero.")]
Timed = Annotated[bool, typer.Option("--latency/--no-latency", help="Measure milliseconds.")]
