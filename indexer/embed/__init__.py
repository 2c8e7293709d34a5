"""Texts to vectors. The Encoder protocol is the only thing the rest of the indexer knows of a model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from indexer.api import Task

Vectors = npt.NDArray[np.float32]


class EncoderInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What the rest of the program must know of a model without loading it.

    Attributes:
        key: Names the vector space: equal keys mean vectors that may be compared, such as
            ``multilingual-e5-small-1a2b3c4d``. Letters, digits, dots and hyphens only (it names folders).
        name: What a person is shown, such as ``multilingual-e5-small``.
        dim: Length of a vector.
        max_tokens: Longest passage in tokens, prefix and special tokens already taken off.
        tokenizer: A ``tokenizer.json`` that counts its tokens: the model's own or, where that is not known
            here (a server), the bundled model's. Chunks are cut by the bundled model's, whatever model
            embeds them, so that models can be changed and compared on the same passages.
    """

    key: str
    name: str
    dim: int
    max_tokens: int
    tokenizer: Path


class ModelChoice(msgspec.Struct, frozen=True):
    """Which model, and how long its vectors are.

    Attributes:
        reference: See `indexer.api.Model.reference`; empty for the bundled model.
        dimensions: A Matryoshka length; 0 for the vectors as the model gives them.
    """

    reference: str = ""
    dimensions: int = 0


class Encoder(Protocol):
    """A loaded model. Not thread-safe: one thread owns it."""

    @property
    def info(self) -> EncoderInfo:
        """What the model is."""

    @property
    def device(self) -> str:
        """Where it runs: ``cpu``, ``cuda:0``, ``mps``."""

    def encode_queries(self, texts: Sequence[str], task: Task = "notes") -> Vectors:
        """Embed queries, float32 (len(texts), dim), rows of unit length, in the order of `texts`.

        Raises:
            IndexerError: It cannot be done now (a server is away); trying again later may help.
        """

    def encode_passages(self, texts: Sequence[str]) -> Vectors:
        """Embed passages, float32 (len(texts), dim), rows of unit length, in the order of `texts`.

        A passage longer than the model takes is embedded in parts, whose mean it gets.

        Raises:
            IndexerError: As `encode_queries`.
        """
