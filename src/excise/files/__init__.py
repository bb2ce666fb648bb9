"""Files: safetensors with the plan in the metadata, no pickle."""

from excise.files.load import load, read_plan
from excise.files.save import save

__all__ = ["load", "read_plan", "save"]
