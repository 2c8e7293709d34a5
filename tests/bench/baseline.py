"""The yardstick: sentence-transformers as its documentation shows it, with the same weights."""

from __future__ import annotations

import logging
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from indexer.embed import Vectors


class SentenceTransformers:
    """The same model in sentence-transformers, every option at its default."""

    def __init__(self, model_folder: Path) -> None:
        """Load the product's converted model from its folder in the cache."""
        # By name: the type checker must do without the package, which only the benchmarks install.
        package: Any = import_module("sentence_transformers")
        modules: Any = import_module("sentence_transformers.sentence_transformer.modules")
        # It warns of a pooler, which E5 does not have.
        logging.getLogger("transformers").setLevel(logging.ERROR)
        transformer = modules.Transformer(str(model_folder))
        pooling = modules.Pooling(transformer.get_embedding_dimension(), pooling_mode="mean")
        self._model: Any = package.SentenceTransformer(
            modules=[transformer, pooling, modules.Normalize()], device="cpu"
        )

    def encode_passages(self, texts: list[str]) -> Vectors:
        """Embed passages with the default batch size, float32 (len(texts), dim)."""
        vectors = self._model.encode([f"passage: {text}" for text in texts], show_progress_bar=False)
        return np.asarray(vectors, np.float32)

    def search(self, query: str, matrix: Vectors, limit: int = 10) -> list[int]:
        """The rows of `matrix` nearest to a query, the plainest way there is."""
        vector = self._model.encode(f"query: {query}", show_progress_bar=False)
        return [int(row) for row in np.argsort(-(matrix @ vector))[:limit]]
