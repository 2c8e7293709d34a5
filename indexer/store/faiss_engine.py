"""FAISS as an engine: how another store is put behind the door of `indexer.store.engine`.

In a child process, as our own Chroma: FAISS brings an OpenMP runtime of its own, and two of them in one
process may end it (https://github.com/faiss-wheels/faiss-wheels/issues/73), and a damaged index can take
down whoever reads it. The child speaks the same messages; only what holds the vectors differs.
"""

from __future__ import annotations

from collections.abc import Callable

from indexer.store.chroma import Child, OwnChroma


class _FaissChild(Child):
    program = "indexer.store.faiss_child"


class OwnFaiss(OwnChroma):
    """`Engines` of FAISS in a child process of ours, one folder a generation.

    Args:
        folder: Where generations lie, for all models; not that of another kind of engine.
        key: The model's key.
    """

    def begin(self, on_end: Callable[[], None]) -> Child:
        """Start the child."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        return _FaissChild(self._folder / "chroma.log", on_end, lambda n: self._folder / f"{self._key}-{n}")
