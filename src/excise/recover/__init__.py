"""Recovery: what a cut model lost, won back by gradients, in excise's loop or in the user's."""

from excise.recover.block import Blocks
from excise.recover.distill import distill_loss
from excise.recover.reconstruct import Reconstruction, reconstruct

__all__ = ["Blocks", "Reconstruction", "distill_loss", "reconstruct"]
