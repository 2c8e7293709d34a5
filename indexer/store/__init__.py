"""What is indexed: files, their chunks and vectors, and the search for the nearest of them."""

from indexer.store.lexical import Lexical, Scored, TermMatch
from indexer.store.store import Store
from indexer.store.types import (
    Candidate,
    Counts,
    FileState,
    FileUpdate,
    ModelKey,
    Outline,
    Pool,
    RootState,
    StoredChunk,
)

__all__ = [
    "Candidate",
    "Counts",
    "FileState",
    "FileUpdate",
    "Lexical",
    "ModelKey",
    "Outline",
    "Pool",
    "RootState",
    "Scored",
    "Store",
    "StoredChunk",
    "TermMatch",
]
