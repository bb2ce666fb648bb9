"""A fresh process that knows two files: `python -m excise.demo.again MODEL BATCH OUT THREADS`."""

from __future__ import annotations

import sys

import torch
from safetensors.torch import load_file, save_file

from excise import load
from excise.demo.network import Digits


def main(model: str, batch: str, outputs: str, threads: str) -> None:
    """Load a cut model, run it on a batch of images, and write its logits.

    Args:
        model: a file that `excise.save` wrote for the demo's network.
        batch: a safetensors file with `images`, `(n, 1, 8, 8)`.
        outputs: where to write `logits`, `(n, 10)`, as safetensors.
        threads: CPU threads; another number may round differently.
    """
    torch.set_num_threads(int(threads))
    small = load(model, Digits).eval()
    with torch.no_grad():
        logits = small(load_file(batch)["images"])
    save_file({"logits": logits}, outputs)


if __name__ == "__main__":
    main(*sys.argv[1:])
