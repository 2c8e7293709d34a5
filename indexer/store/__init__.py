"""What is indexed: files, their chunks and vectors, and the search for the nearest of them."""

from indexer.store.chroma_server import check as check_chroma_server
from indexer.store.cipher import Key
from indexer.store.ledger import PendingText
from indexer.store.lexical import Lexical, Scored, TermMatch
from indexer.store.store import ModelChangedError, Store
from indexer.store.types import (
    Candidate,
    Counts,
    FileState,
    FileUpdate,
    ModelKey,
    Outline,
    Pool,
    Role,
    RootState,
    StoredChunk,
    StoredModel,
)
from indexer.store.vectors import VectorIndex

__all__ = [
    "Candidate",
    "Counts",
    "FileState",
    "FileUpdate",
    "Key",
    "Lexical",
    "ModelChangedError",
    "ModelKey",
    "Outline",
    "PendingText",
    "Pool",
    "Role",
    "RootState",
    "Scored",
    "Store",
    "StoredChunk",
    "StoredModel",
    "TermMatch",
    "VectorIndex",
    "check_chroma_server",
]
