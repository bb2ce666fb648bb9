"""What a model's configuration says of its axes, asked of the model's own constructor."""

from excise.configuration.constructor import built, matches
from excise.configuration.step import Number, in_step

__all__ = ["Number", "built", "in_step", "matches"]
