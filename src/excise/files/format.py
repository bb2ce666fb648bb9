"""The file format: safetensors, with the plan in its metadata. See docs/formats/safetensors.md."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from excise.errors import (
    CorruptFileError,
    ForeignFileError,
    NewerFileError,
    PackedDataError,
    PlanFormatError,
)
from excise.packing import parsed
from excise.plan import VERSION as PLAN_VERSION
from excise.plan import Plan

VERSION = 2
"""Of a file with packed tensors; one without is still written as version 1."""
VERSION_KEY = "excise.format"
PLAN_KEY = "excise.plan"
TIES_KEY = "excise.ties"
PACKED_KEY = "excise.packed"
_LENGTH_BYTES = 8
_LONGEST_HEADER = 100_000_000  # bytes; the limit of safetensors itself


class Header(NamedTuple):
    """What the metadata says.

    Attributes:
        plan: of the cut.
        ties: tied names -> the name they are stored under.
        packed: names of tensors that are stored packed -> their entries, of which every one has
            been checked by itself.
    """

    plan: Plan
    ties: Mapping[str, str]
    packed: Mapping[str, Mapping[str, Any]]


def read_header(path: str | Path) -> Header:
    """Read and check the metadata without reading a tensor.

    Raises:
        CorruptFileError: no such file, truncated, or not safetensors.
        ForeignFileError: safetensors without excise's metadata.
        NewerFileError: written by a later version.
    """
    where = str(path)
    metadata = _metadata(where)
    if VERSION_KEY not in metadata or PLAN_KEY not in metadata:
        raise ForeignFileError(where, "it has no plan; excise.save did not write it")
    try:
        version = int(metadata[VERSION_KEY])
    except ValueError as error:
        raise CorruptFileError(where, "its format version is no number") from error
    if version < 1:
        raise CorruptFileError(where, f"its format version is {version}")
    if version > VERSION:
        raise NewerFileError(where, version, VERSION)
    _check_plan_version(where, metadata[PLAN_KEY])
    try:
        plan = Plan.from_json(metadata[PLAN_KEY])
        ties = json.loads(metadata.get(TIES_KEY, "{}"))
        packed = json.loads(metadata.get(PACKED_KEY, "{}"))
    except (PlanFormatError, ValueError, RecursionError) as error:
        raise CorruptFileError(
            where, f"its plan is damaged ({str(error).splitlines()[0]})"
        ) from error
    good = isinstance(ties, dict) and all(isinstance(v, str) for v in ties.values())
    if not good:
        raise CorruptFileError(where, "its table of ties is damaged")
    return Header(plan, ties, _entries(where, packed))


def _entries(where: str, packed: Any) -> dict[str, Mapping[str, Any]]:
    if not isinstance(packed, dict):
        raise CorruptFileError(where, "its table of packed tensors is damaged")
    found: dict[str, Mapping[str, Any]] = {}
    name = ""
    try:
        for name, text in packed.items():
            found[name] = parsed(text)
    except PackedDataError as error:
        raise CorruptFileError(where, f"{name}: {error.problem}") from error
    return found


def _check_plan_version(where: str, text: str) -> None:
    """A plan of a later version is newer, not damaged."""
    try:
        version = json.loads(text)["version"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return  # damaged in another way, which the plan itself says
    if type(version) is int and version > PLAN_VERSION:
        raise NewerFileError(where, version, PLAN_VERSION)


def _metadata(path: str) -> Mapping[str, str]:
    try:
        with Path(path).open("rb") as file:
            length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
            if not 0 < length <= _LONGEST_HEADER:
                raise CorruptFileError(path, "it does not begin like a safetensors file")
            if length > os.fstat(file.fileno()).st_size - _LENGTH_BYTES:  # before room is made
                raise CorruptFileError(path, "its header is truncated or damaged")
            header = json.loads(file.read(length).decode("utf-8"))
    except OSError as error:
        raise CorruptFileError(path, error.strerror or str(error)) from error
    except (ValueError, RecursionError) as error:
        raise CorruptFileError(path, "its header is truncated or damaged") from error
    if not isinstance(header, dict):
        raise CorruptFileError(path, "its header is no JSON object")
    metadata = header.get("__metadata__", {})
    strings = isinstance(metadata, dict) and all(isinstance(v, str) for v in metadata.values())
    if not strings:
        raise CorruptFileError(path, "its metadata is damaged")
    return dict(metadata)
