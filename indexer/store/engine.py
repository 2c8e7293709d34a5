"""The door to whoever holds vectors for quick search: our own Chroma child, a Chroma server, another store.

What stands behind it is an accelerator: the catalog keeps every vector itself, so an engine may lose all it
has, refuse to open, or be away for days. It must only not pretend: what `upsert` acknowledged, `all_ids`
lists and `query` finds, until the engine says otherwise by an `EngineError`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import numpy.typing as npt

from indexer.api import Notice

Ids = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.float32]


class EngineError(Exception):
    """The engine died, hung, refused or lost what it had; what it holds is in doubt.

    Attributes:
        notice: What a person should be told, where there is something that they can do.
    """

    def __init__(self, reason: str, notice: Notice | None = None) -> None:
        super().__init__(reason)
        self.notice = notice


class EngineAwayError(EngineError):
    """The engine cannot be reached or does not let us in now; nothing says that it lost anything."""


class Engine(Protocol):
    """One connection to an engine, for one generation of one model's index. Any thread may call it.

    Every method raises `EngineError` when the engine cannot do what is asked within its time.
    """

    def open(self, generation: int, *, create: bool) -> int:
        """Open a generation; how many vectors it has.

        Args:
            generation: Its number.
            create: Whether it is new; what was under that number is then removed.

        Raises:
            EngineError: There is no such generation, or it is damaged.
            EngineAwayError: It cannot be said.
        """

    def upsert(self, ids: list[int], vectors: Vectors) -> None:
        """Store unit vectors (n, dim) under their ids, over what was there; acknowledged when this returns.

        Doing the same again changes nothing. At most `Engines.most` at a time.
        """

    def query(self, vector: Vectors, k: int, timeout: float) -> tuple[Ids, npt.NDArray[np.float32]]:
        """Ids and cosine distances of about the `k` nearest (fewer where there are fewer), nearest first."""

    def all_ids(self) -> Ids:
        """Every id there is, in any order."""

    def vectors(self, ids: Ids) -> tuple[Ids, Vectors]:
        """What is held of these, in any order, with their vectors (n, dim); what is not there is left out.

        At most `Engines.most` at a time.
        """

    def close(self) -> bool:
        """Put everything to rest; False when that could not be done in good order."""

    def abort(self) -> None:
        """End at once; whoever waits for an answer gets an error."""

    def kill(self) -> None:
        """End at once, and leave nothing behind. May be called at any time, and twice."""


class Engines(Protocol):
    """A kind of engine, set up for one model of one library."""

    @property
    def most(self) -> int:
        """Most vectors of one `Engine.upsert`."""

    @property
    def patience_s(self) -> float:
        """How long a search waits for an answer before exact search serves it."""

    def begin(self, on_end: Callable[[], None]) -> Engine:
        """Start or connect; `on_end` is called once the engine has ended by itself, if it can."""

    def sweep(self, keep: set[tuple[str, int]]) -> None:
        """Delete all generations of this library, of any model, but these (model key, generation)."""
