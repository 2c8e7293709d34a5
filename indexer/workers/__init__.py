"""Extraction in child processes that can be killed: a memory limit, a deadline, one file's loss at most.

A file of very many chunks comes in pieces, which the service keeps on disk: see `ChunkFile`.
"""

from indexer.workers.patience import NoAnswerError, lstat
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
    "NoAnswerError",
    "PoolClosedError",
    "Prepared",
    "WorkerPool",
    "lstat",
    "not_a_file",
    "unreadable",
]
