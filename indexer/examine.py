"""The check of a whole library: what the store compares, then the files; what was damaged is made again."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

import msgspec
import numpy as np

from indexer import api
from indexer.embed.thread import EncoderThread
from indexer.errors import IndexerError, TextError
from indexer.pipeline import Pipeline
from indexer.store import PendingText, Store, VectorIndex
from indexer.store.check import CancelledError
from indexer.watch import Rules, root_online, sweep

log = logging.getLogger(__name__)

_BATCH = 64
_TOLD = 500

Tell = Callable[[str, int, int], None]


def examine(
    store: Store,
    pipeline: Pipeline,
    rules: Callable[[str], Rules],
    *,
    repair: bool,
    refill: tuple[EncoderThread, VectorIndex] | None,
    tell: Tell,
    stop: Callable[[], bool],
) -> api.Checked:
    """Compare files, catalog, words, vectors and search index, and mend what differs.

    Args:
        store: Everything that is kept.
        pipeline: Whom files are handed to that have to be read.
        rules: Makes the ignore rules of a folder, which nobody else uses.
        repair: Whether to mend what is found.
        refill: The active model, to embed what lacks a vector; None where somebody else does.
        tell: Told what is done, and how much of it is done, of how much.
        stop: Asked now and then whether to leave off.

    Returns:
        What was found; the request's id is left 0.

    Raises:
        IndexerError: It was stopped, or the disk is full or failing.
    """
    began = time.monotonic()
    outcome = store.examine(repair=repair, tell=tell, stop=stop)
    found = list(outcome.differences)
    embedded = 0
    if not outcome.salvage:
        found += _compare_files(store, pipeline, rules, repair=repair, tell=tell, stop=stop)
        if repair:
            pipeline.retry_all(outcome.reread)
        if repair and refill is not None:
            try:
                embedded = _embed(*refill, tell, stop)
            except CancelledError:
                raise
            except IndexerError as error:
                log.warning("damaged vectors were not embedded yet: %s", error.title)
                found = [_unmended(difference, error) for difference in found]
    return api.Checked(
        id=0,
        differences=tuple(found),
        files=store.counts().files if not outcome.salvage else 0,
        texts=outcome.texts,
        embedded=embedded,
        salvage=outcome.salvage,
        index=outcome.compared,
        took_s=round(time.monotonic() - began, 2),
    )


def _unmended(difference: api.Difference, error: IndexerError) -> api.Difference:
    if difference.part != "vectors" or difference.harmless:
        return difference
    advice = f"{difference.advice} Not yet: {error.title}. {error.message}"
    return msgspec.structs.replace(difference, mended=0, advice=advice)


def _compare_files(
    store: Store,
    pipeline: Pipeline,
    rules: Callable[[str], Rules],
    *,
    repair: bool,
    tell: Tell,
    stop: Callable[[], bool],
) -> list[api.Difference]:
    """Whether the catalog knows the files as they are; those that wait for their turn are no difference."""
    counts = {"new": 0, "changed": 0, "gone": 0}
    offline = seen = waiting = 0
    for root in store.roots():
        if not root_online(root.path, root.files > 0, root.device):
            offline += 1
            continue
        differs = False
        # What is on a disk inside the folder that is not there now.
        lost = tuple(f"{place}/" for place, online in store.volumes(root.path).items() if not online)
        for change in sweep(rules(root.path), store.known(root.path, root.path)):
            seen += 1
            if seen % _TOLD == 0:
                tell("the files", 0, 0)
            if stop():
                raise CancelledError
            if pipeline.awaits(change.path):
                waiting += 1
                continue
            if change.kind == "remove" and change.path.startswith(lost):
                continue
            state = store.file(change.path)
            # Somebody may have been quicker than we.
            if change.kind == "remove" and state is not None:
                kind = "gone"
            elif state is None:
                kind = "new"
            elif (state.size, state.mtime_ns) != (change.size, change.mtime_ns):
                kind = "changed"
            else:
                continue
            counts[kind] += 1
            differs = True
        if differs and repair:
            pipeline.rescan(root.path)
    words = {
        "new": "files that are not in the catalog",
        "changed": "files that have changed since they were read",
        "gone": "files in the catalog that are gone or ignored now",
    }
    found = [
        api.Difference(
            part="files",
            what=words[kind],
            count=count,
            mended=count if repair else 0,
            advice="They are looked at again in the background." if repair else "",
        )
        for kind, count in counts.items()
        if count
    ]
    if waiting:
        what = "files that wait to be read, and were not compared"
        found.append(api.Difference(part="files", what=what, count=waiting, harmless=True))
    if offline:
        what = "folders that are not there now, and were not compared"
        found.append(api.Difference(part="files", what=what, count=offline, harmless=True))
    return found


def _embed(encoder: EncoderThread, index: VectorIndex, tell: Tell, stop: Callable[[], bool]) -> int:
    """Embed the texts in use that have no vector; how many there were.

    Raises:
        CancelledError: It was stopped.
        IndexerError: The model cannot be used, or gives no vector for some of them.
    """
    ledger = index.ledger
    after, done = 0, 0
    trouble: IndexerError | None = None
    while texts := ledger.pending(after, _BATCH):
        after = texts[-1].id
        tell("embedding what was damaged", done, done + len(texts))
        stored, refused = _embed_some(encoder, index, texts, stop)
        done += stored
        if refused is not None:
            trouble = refused
    if trouble is not None:
        raise trouble
    return done


def _embed_some(
    encoder: EncoderThread, index: VectorIndex, texts: Sequence[PendingText], stop: Callable[[], bool]
) -> tuple[int, IndexerError | None]:
    future = encoder.passages([text.text for text in texts])
    while True:
        if stop():
            future.cancel()
            raise CancelledError
        try:
            vectors = future.result(timeout=0.5)
            break
        except TimeoutError:
            if future.done():
                raise
        except TextError as error:
            if len(texts) == 1:
                return 0, error
            half = len(texts) // 2
            first, one = _embed_some(encoder, index, texts[:half], stop)
            second, other = _embed_some(encoder, index, texts[half:], stop)
            return first + second, one or other
    usable = np.isfinite(vectors).all(axis=1) & (vectors != 0).any(axis=1)
    good = [texts[at] for at in np.flatnonzero(usable).tolist()]
    refused = None
    if len(good) < len(texts):
        refused = IndexerError("The model gives no usable vector", "Another precision may help.")
    return index.ledger.fill(good, vectors[usable]), refused
