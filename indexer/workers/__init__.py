"""Extraction in child processes that can be killed: a memory limit, a deadline, one file's loss at most.

A file of very many chunks comes in pieces, which the service keeps on disk: see `ChunkFile`.
"""

from indexer.workers.pool import CHILD_ARGUMENT, CrashedError, PoolClosedError, WorkerPool
from indexer.workers.reading import FileChangedError, FileGoneError, not_a_file, unreadable
from indexer.workers.results import LARGE_CHUNKS, PIECE_CHUNKS, ChunkFile, ChunkMemory, Hashed, Prepared

__all__ = [
    "CHILD_ARGUMENT",
    "LARGE_CHUNKS",
    "PIECE_CHUNKS",
    "ChunkFile",
    "ChunkMemory",
    "CrashedError",
    "FileChangedError",
    "FileGoneError",
    "Hashed",
    "PoolClosedError",
    "Prepared",
    "WorkerPool",
    "not_a_file",
    "unreadable",
]
