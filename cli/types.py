"""Names for the types that go through many hands."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from .results import Results

Path: TypeAlias = str | os.PathLike[str]
# Options by the names of `RunConfig`.
Options: TypeAlias = Mapping[str, Any]
# A JSON object, and what becomes one.
Record: TypeAlias = dict[str, Any]
# What `results.spread` gives: mean, std, standard_error and n.
Spread: TypeAlias = dict[str, Any]
# The results of several folders, each with what it is called.
Labelled: TypeAlias = "Sequence[tuple[str, Results]]"
