"""A library of 100,000 passages to measure the time of a search in.

Embedding that many would take hours, and the time does not depend on what the vectors mean. So the texts are
real (every manual in all of its languages, a passage beginning at each sentence) and the vectors are made up,
with the structure that real ones have: what language a text is in, what section, and the rest. They go into
the catalog through the store's own door; words, filters and Chroma see nothing unusual.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from indexer.api import Locator
from indexer.document import Chunk
from indexer.embed import EncoderInfo
from indexer.embed.space import space_of
from indexer.segment import sentences
from indexer.store import FileUpdate, ModelKey, Store
from tests.relevance.books import Section

PASSAGES = 100_000
# Raise it when the library would be another.
LAYOUT = 1
_SENTENCES = 4
_LONGEST = 1500  # characters
_FILES_AT_ONCE = 200
# How much of a vector comes from its language, its section and itself. Cosines of E5 lie between 0.7 and 1.
_LANGUAGE, _SECTION, _OWN = 1.0, 0.45, 0.3
_CHROMA_DEADLINE_S = 1800.0


def fill(data_dir: Path, folder: Path, sections: Iterable[Section], info: EncoderInfo, count: int) -> int:
    """Make the library.

    Args:
        data_dir: An empty folder for the library.
        folder: Where to put the files.
        sections: What to make files of, one each.
        info: The model whose vectors these are said to be.
        count: At most how many passages.

    Returns:
        How many passages there are.

    Raises:
        RuntimeError: Chroma did not take them.
    """
    made = _Vectors(info.dim)
    store = Store(data_dir)
    try:
        store.add_root(str(folder))
        store.use_model(ModelKey(key=info.key, dim=info.dim), space_of(info.key))
        total = 0
        updates: list[FileUpdate] = []
        vectors: dict[bytes, npt.NDArray[np.float32]] = {}
        for section in sections:
            chunks = tuple(_passages(section))[: count - total]
            if not chunks:
                continue
            total += len(chunks)
            updates.append(_file(folder, section, chunks))
            vectors.update(made.of(section, chunks))
            if len(updates) == _FILES_AT_ONCE or total == count:
                store.replace(updates, vectors)
                updates, vectors = [], {}
            if total == count:
                break
        store.replace(updates, vectors)
        # An index that has just come up to date is reported a moment later.
        deadline = time.monotonic() + _CHROMA_DEADLINE_S
        if not store.wait_accelerator(deadline - time.monotonic()):
            raise RuntimeError("Chroma did not take the passages in half an hour.")
        return store.counts().chunks
    finally:
        store.close()


def _passages(section: Section) -> Iterator[Chunk]:
    """A passage from each sentence on."""
    spans = sentences(section.body)
    for at, (start, _) in enumerate(spans):
        end = min(spans[min(at + _SENTENCES, len(spans)) - 1][1], start + _LONGEST)
        yield Chunk(
            start=start,
            end=end,
            text=section.body[start:end],
            locator=Locator(line_start=1, line_end=1),
            lang=section.lang.partition("-")[0],
            tokens=max(1, (end - start) // 4),
        )


def _file(folder: Path, section: Section, chunks: tuple[Chunk, ...]) -> FileUpdate:
    """Write the file, so that the service finds it as the catalog says, and say so."""
    content = (section.body + "\n").encode()
    name = hashlib.sha1(f"{section.lang}:{section.id}".encode()).hexdigest()[:16]
    file = folder / section.lang / name[:2] / f"{name}.txt"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    stat = file.stat()
    return FileUpdate(
        path=str(file),
        root=str(folder),
        size=stat.st_size,
        mtime_ns=stat.st_mtime_ns,
        content=hashlib.blake2b(content, digest_size=16).digest(),
        media="text",
        code_language=None,
        title="",
        chunks=chunks,
    )


class _Vectors:
    """Made-up unit vectors, the same in every run."""

    def __init__(self, dim: int) -> None:
        self._dim = dim

    def _direction(self, name: str) -> npt.NDArray[np.float64]:
        seed = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")
        direction = np.random.default_rng(seed).standard_normal(self._dim)
        return direction / float(np.linalg.norm(direction))

    def of(self, section: Section, chunks: Iterable[Chunk]) -> dict[bytes, npt.NDArray[np.float32]]:
        """A vector for each passage, by the hash of its text."""
        base = _LANGUAGE * (self._direction("all") + 0.3 * self._direction(section.lang))
        base = base + _SECTION * self._direction(section.id)
        found = {}
        for chunk in chunks:
            vector = base + _OWN * self._direction(chunk.text_hash.hex())
            found[chunk.text_hash] = (vector / np.linalg.norm(vector)).astype(np.float32)
        return found
