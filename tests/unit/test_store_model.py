"""Random sequences of the store's operations against a few dictionaries."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from indexer.errors import FileError
from indexer.store import Store
from tests.unit.test_store import MODEL, chunk, put, texts_of, update, vector

ROOTS = ("/r", "/s")
PATHS = [f"{root}/{rest}" for root in ROOTS for rest in ("a", "a/b", "a/b/c", "a-b", "ab", "b")]
TEXTS = st.lists(st.sampled_from([f"text {i}" for i in range(12)]), max_size=5)


class Library(RuleBasedStateMachine):
    """`files` maps path to (content, texts), `bad` holds the paths of problems."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.files: dict[str, tuple[bytes, list[str]]] = {}
        self.bad: set[str] = set()
        self.serial = itertools.count()
        self.store = self.open()

    def open(self) -> Store:
        store = Store(Path(self.folder.name))
        store._use_chroma = False
        store.use_model(MODEL)
        for root in ROOTS:
            store.add_root(root)
        return store

    @initialize()
    def first(self) -> None:
        self.replace("/r/a", ["text 0"])

    @rule(path=st.sampled_from(PATHS), texts=TEXTS)
    def replace(self, path: str, texts: list[str]) -> None:
        content = b"%016d" % next(self.serial)
        before = texts_of(self.store, path)
        put(self.store, update(path, *texts, root=path[:2], content=content))
        after = texts_of(self.store, path)
        for text in {text for _, text in before} & set(texts):  # as many as can keep their ids do
            old, new = ({number for number, t in rows if t == text} for rows in (before, after))
            assert len(old & new) == min(len(old), len(new))
        self.files[path] = (content, texts)
        self.bad.discard(path)

    @precondition(lambda self: self.files)
    @rule(data=st.data(), path=st.sampled_from(PATHS))
    def adopt(self, data: st.DataObject, path: str) -> None:
        content, texts = self.files[data.draw(st.sampled_from(sorted(self.files)))]
        assert self.store.adopt(path, path[:2], 1, 1, content)
        self.files[path] = (content, texts)
        self.bad.discard(path)

    @rule(old=st.sampled_from(PATHS), new=st.sampled_from(PATHS))
    def move(self, old: str, new: str) -> None:
        known = {*self.files, *self.bad}
        moving = {p: new + p[len(old) :] for p in known if p == old or p.startswith(old + "/")}
        if len(max(moving.values(), key=len, default="")) > 40:
            return
        assert self.store.move(old, new, new[:2]) == len(moving)
        if not moving:
            return
        gone = {p for p in known - set(moving) if p == new or p.startswith(new + "/")}
        files = {p: f for p, f in self.files.items() if p not in gone and p not in moving}
        files |= {moving[p]: f for p, f in self.files.items() if p in moving}
        self.bad = {moving.get(p, p) for p in self.bad - gone}
        self.files = files

    @rule(paths=st.lists(st.sampled_from(PATHS), max_size=3))
    def remove(self, paths: list[str]) -> None:
        self.store.remove(paths)
        for path in paths:
            self.files.pop(path, None)
            self.bad.discard(path)

    @rule(folder=st.sampled_from(PATHS))
    def remove_below(self, folder: str) -> None:
        gone = {p for p in {*self.files, *self.bad} if p == folder or p.startswith(folder + "/")}
        assert self.store.remove_below(folder) == len(gone)
        self.files = {p: f for p, f in self.files.items() if p not in gone}
        self.bad -= gone

    @rule(path=st.sampled_from(PATHS))
    def fail(self, path: str) -> None:
        self.store.fail(path, path[:2], 1, 1, FileError(Path(path), "Broken", "It is broken."))
        self.files.pop(path, None)
        self.bad.add(path)

    @rule()
    def collect(self) -> None:
        self.store._catalog.collect(older_than_s=0)

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.store = self.open()

    @rule(query=st.sampled_from([f"text {i}" for i in range(12)]), k=st.integers(1, 40))
    def search(self, query: str, k: int) -> None:
        found = self.store.nearest(vector(query), k)
        stored = self.store.chunks([c.chunk for c in found])
        cosines = sorted(
            (float(vector(query) @ vector(t)) for _, texts in self.files.values() for t in texts),
            reverse=True,
        )
        assert np.allclose([c.cosine for c in found], cosines[:k], atol=2e-3)
        for candidate in found:
            hit = stored[candidate.chunk]
            assert hit.text in self.files[hit.path][1]
            assert np.isclose(candidate.cosine, vector(query) @ vector(hit.text), atol=2e-3)

    @invariant()
    def same_files(self) -> None:
        states = [state for root in ROOTS for state in self.store.files(root)]
        assert {s.path for s in states if s.status == "indexed"} == set(self.files)
        assert {s.path for s in states if s.status == "failed"} == self.bad
        assert all(s.root == s.path[:2] for s in states)
        assert self.store.counts().chunks == sum(len(texts) for _, texts in self.files.values())

    def teardown(self) -> None:
        for path, (_, texts) in self.files.items():
            assert [text for _, text in texts_of(self.store, path)] == texts
        assert self.store.check() == []
        hashes = [chunk(text).text_hash for _, texts in self.files.values() for text in texts]
        assert self.store.missing(hashes) == set()
        self.store.close()
        self.folder.cleanup()


TestLibrary = Library.TestCase
TestLibrary.settings = settings(
    max_examples=15, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
