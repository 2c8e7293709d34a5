"""Folding events: by example, and against a model of a tree that changes in every order."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexer.settings import Settings
from indexer.watch import FileChange, Rules, scan, sweep
from indexer.watch.changes import Coalescer, Event, merge, settle


def event(kind: str, path: str, dest: str = "", *, is_dir: bool = False) -> Event:
    return Event(kind, path, is_dir, dest)  # type: ignore[arg-type]


def follow(root: Path, events: list[Event]) -> list[tuple[str, ...]]:
    rules = Rules(root, Settings())
    full = [e._replace(path=f"{root}/{e.path}", dest=f"{root}/{e.dest}" if e.dest else "") for e in events]
    found = settle(merge(full), lambda path: rules if path.startswith(str(root)) else None)
    cut = len(str(root)) + 1
    return [
        (c.kind + ("/" if c.is_dir else ""), *([c.old[cut:]] if c.old else []), c.path[cut:]) for c in found
    ]


def make(root: Path, *files: str) -> None:
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        if not name.endswith("/"):
            (root / name).write_text("x")
        else:
            (root / name).mkdir()


@pytest.mark.parametrize(
    ("files", "events", "expected"),
    [
        (["a"], [event("created", "a"), event("modified", "a"), event("modified", "a")], [("upsert", "a")]),
        ([], [event("deleted", "a")], [("remove", "a")]),
        (["a"], [event("deleted", "a"), event("created", "a")], [("upsert", "a")]),
        (["b"], [event("moved", "a", "b")], [("move", "a", "b")]),
        (["b"], [event("moved", "a", "b"), event("modified", "b")], [("move", "a", "b")]),
        (
            ["doc"],
            [event("created", "tmp"), event("modified", "tmp"), event("moved", "tmp", "doc")],
            [("upsert", "doc"), ("remove", "tmp")],
        ),
        (
            ["c"],
            [event("moved", "a", "b"), event("moved", "b", "c")],
            [("upsert", "c"), ("remove", "a"), ("remove", "b")],
        ),
        (
            ["new/x"],
            [event("moved", "old", "new", is_dir=True), event("moved", "old/x", "new/x")],
            [("move/", "old", "new"), ("rescan/", "new")],
        ),
        (
            ["new/x"],
            [event("modified", "new/x"), event("moved", "old", "new", is_dir=True)],
            [("move/", "old", "new"), ("rescan/", "new")],
        ),
        ([], [event("deleted", "d", is_dir=True), event("deleted", "d/x")], [("remove/", "d")]),
        (["d/x"], [event("created", "d", is_dir=True), event("created", "d/x")], [("rescan/", "d")]),
        (["d"], [event("deleted", "d", is_dir=True), event("created", "d")], [("rescan", "d")]),
        (["d/x"], [event("deleted", "d"), event("created", "d", is_dir=True)], [("rescan/", "d")]),
        (
            ["a", "b"],
            [event("moved", "a", "t"), event("moved", "b", "a"), event("moved", "t", "b")],
            [("upsert", "a"), ("upsert", "b"), ("remove", "t")],
        ),
        (["old", "new"], [event("moved", "old", "new")], [("upsert", "old"), ("upsert", "new")]),
        ([], [event("moved", "old", "new", is_dir=True)], [("remove/", "old"), ("remove/", "new")]),
    ],
)  # fmt: skip
def test_by_example(
    tmp_path: Path, files: list[str], events: list[Event], expected: list[tuple[str, ...]]
) -> None:
    make(tmp_path, *files)
    found = follow(tmp_path, events)
    assert sorted(found) == sorted(expected)
    rank = {"move": 0, "upsert": 1, "rescan": 2, "remove": 3}
    if not any(kind == "move/" for kind, *_ in found):
        assert [rank[kind.rstrip("/")] for kind, *_ in found] == sorted(
            rank[k.rstrip("/")] for k, *_ in found
        )


class Index:
    """The least that a consumer must do: path -> (size, mtime_ns), kept by changes alone."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.files: dict[str, tuple[int, int]] = {entry.path: entry[1:3] for entry in scan(rules)}

    def apply(self, change: FileChange) -> None:
        path, old = change.path, change.old
        if change.kind == "upsert":
            assert change.size is not None
            assert change.mtime_ns is not None
            self.files[path] = (change.size, change.mtime_ns)
        elif change.kind == "remove":
            self.files.pop(path, None)
            if change.is_dir:
                for below in [p for p in self.files if p.startswith(path + "/")]:
                    del self.files[below]
        elif change.kind == "move":
            assert old is not None
            moved = {p: v for p, v in self.files.items() if p == old or p.startswith(old + "/")}
            for source in moved:
                del self.files[source]
            self.files.update({path + p[len(old) :]: v for p, v in moved.items()})
            if not change.is_dir:
                assert change.size is not None
                assert change.mtime_ns is not None
                self.files[path] = (change.size, change.mtime_ns)
        else:
            known = sorted(
                (p.encode(), *of) for p, of in self.files.items() if p == path or p.startswith(path + "/")
            )
            for found in sweep(self.rules, known, path):
                self.apply(found)


class Tree:
    """A real tree whose operations report themselves as inotify would."""

    def __init__(self, root: Path, rng: random.Random) -> None:
        self.root, self.rng, self.events = root, rng, list[Event]()
        self.clock = 1_000_000_000

    def name(self) -> Path:
        folders = [p for p in self.root.rglob("*") if p.is_dir()] + [self.root] * 3
        return self.rng.choice(folders) / self.rng.choice("abcd")

    def write(self, path: Path) -> None:
        if path.is_dir():
            return
        new = not path.exists()
        path.write_text("x" * self.rng.randint(0, 5))
        self.clock += 1_000_000_000
        os.utime(path, ns=(self.clock, self.clock))
        self.events += [event("created", str(path))] * new + [event("modified", str(path))]

    def mkdir(self, path: Path) -> None:
        if not path.exists():
            path.mkdir()
            self.events.append(event("created", str(path), is_dir=True))

    def delete(self, path: Path) -> None:
        if path.is_dir():
            for child in path.iterdir():
                self.delete(child)
            path.rmdir()
            self.events.append(event("deleted", str(path), is_dir=True))
        elif path.exists():
            path.unlink()
            self.events.append(event("deleted", str(path)))

    def move(self, path: Path, dest: Path) -> None:
        inside = dest == path or path in dest.parents
        if not path.exists() or inside or (dest.exists() and (dest.is_dir() or path.is_dir())):
            return
        is_dir = path.is_dir()
        path.rename(dest)
        self.events.append(event("moved", str(path), str(dest), is_dir=is_dir))

    def leave(self, path: Path, elsewhere: Path) -> None:
        if path.exists():
            is_dir = path.is_dir()
            path.rename(elsewhere)
            self.events.append(event("deleted", str(path), is_dir=is_dir))

    def step(self) -> None:
        choice = self.rng.random()
        if choice < 0.35:
            self.write(self.name())
        elif choice < 0.55:
            self.mkdir(self.name())
        elif choice < 0.65:
            self.delete(self.name())
        elif choice < 0.95:
            self.move(self.name(), self.name())
        else:
            with tempfile.TemporaryDirectory(dir=self.root.parent) as outside:
                self.leave(self.name(), Path(outside) / "x")


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    before=st.integers(0, 15),
    steps=st.integers(1, 12),
    shuffled=st.booleans(),
    doubled=st.booleans(),
    batches=st.integers(1, 3),
)
def test_any_history_ends_in_the_true_state(
    seed: int, before: int, steps: int, shuffled: bool, doubled: bool, batches: int
) -> None:
    rng = random.Random(seed)
    outer = Path(tempfile.mkdtemp())
    try:
        root = outer / "root"
        root.mkdir()
        tree = Tree(root, rng)
        for _ in range(before):
            tree.step()
        rules = Rules(root, Settings())
        index = Index(rules)
        for _ in range(batches):
            tree.events.clear()
            for _ in range(steps):
                tree.step()
            events = list(tree.events)
            if doubled and events:
                events += rng.choices(events, k=len(events))
            if shuffled:
                rng.shuffle(events)
            changes = settle(merge(events), lambda _: rules)
            places = [c.path for c in changes if c.kind != "rescan"]
            assert len(places) == len(set(places)), "one change a path"
            for change in changes:
                index.apply(change)
            assert index.files == {entry.path: entry[1:3] for entry in scan(rules)}
    finally:
        shutil.rmtree(outer)


def test_nothing_is_reached_through_a_link_that_took_the_place_of_a_folder(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    make(root, "a/f", "b/f")
    make(outside, "f", "new")
    shutil.rmtree(root / "a")
    (root / "a").symlink_to(outside)
    assert follow(root, [event("modified", "a/f"), event("created", "a/new")]) == [
        ("remove", "a/f"),
        ("remove", "a/new"),
    ]
    assert follow(root, [event("moved", "b/old", "a/f")]) == [("remove", "b/old"), ("remove", "a/f")]
    rules = Rules(root, Settings())
    assert list(sweep(rules, [], f"{root}/a/f")) == []
    known = [(os.fsencode(f"{root}/{name}"), 1, 1) for name in ("a/f", "b/f")]
    removed = [change.path for change in sweep(rules, known) if change.kind == "remove"]
    assert removed == [f"{root}/a/f"]


def test_a_path_is_reported_when_it_has_been_quiet() -> None:
    held = Coalescer(1.0, 10.0, 100)
    held.add(event("modified", "/r/a"), "/r", 0.0)
    held.add(event("modified", "/r/a"), "/r", 0.9)
    held.add(event("modified", "/r/b"), "/r", 0.0)
    assert held.due(1.0) == [event("modified", "/r/b")]
    assert held.due(1.8) == []
    assert held.due(2.0) == [event("modified", "/r/a")]
    assert not held


def test_a_path_that_never_rests_is_reported_every_ten_seconds() -> None:
    held = Coalescer(1.0, 10.0, 100)
    reported = []
    for tenth in range(300):
        held.add(event("modified", "/r/log"), "/r", tenth / 10)
        if held.due(tenth / 10):
            reported.append(tenth / 10)
    assert len(reported) in (2, 3)


def test_a_move_waits_for_both_of_its_paths() -> None:
    held = Coalescer(1.0, 10.0, 100)
    held.add(event("moved", "/r/a", "/r/b"), "/r", 0.0)
    held.add(event("modified", "/r/b"), "/r", 0.8)
    assert held.due(1.1) == []
    assert len(held.due(1.8)) == 2


def test_a_flood_becomes_one_rescan_and_takes_no_memory() -> None:
    held = Coalescer(1.0, 10.0, 100)
    for number in range(20_000):
        held.add(event("created", f"/r/{number}"), "/r", 0.0)
    held.add(event("moved", "/r/5", "/other/5"), "/r", 0.5, "/other")
    held.add(event("created", "/other/x"), "/other", 0.0)
    assert len(held) <= 3
    assert held.due(1.0) == [event("created", "/other/x")]
    assert held.due(1.5) == [event("rescan", "/r", is_dir=True), event("created", "/other/5")]
    held.add(event("created", "/r/1"), "/r", 2.0)
    assert held.due(3.0) == [event("created", "/r/1")], "back to single events"


def test_a_move_between_roots_survives_the_flood_of_one() -> None:
    held = Coalescer(1.0, 10.0, 10)
    held.add(event("moved", "/r/x", "/other/x"), "/r", 0.0, "/other")
    for number in range(20):
        held.add(event("created", f"/r/{number}"), "/r", 0.0)
    due = held.due(1.0)
    assert event("rescan", "/r", is_dir=True) in due
    assert [e.path for e in due if e.kind == "created"] == ["/other/x"]


def test_what_lies_in_a_root_within_a_root_is_looked_at_with_that_root() -> None:
    events = [event("rescan", "/r", is_dir=True), event("created", "/r/in/a"), event("deleted", "/r/b")]
    assert merge(events, ["/r", "/r/in"]) == ([], ["/r/in/a"], ["/r"])
    events.append(event("rescan", "/r/in", is_dir=True))
    assert sorted(merge(events, ["/r", "/r/in"]).folders) == ["/r", "/r/in"]
    assert merge(events) == ([], [], ["/r"])


def test_a_move_to_a_root_within_a_root_survives_the_flood_of_the_outer() -> None:
    held = Coalescer(1.0, 10.0, 10)
    held.add(event("moved", "/r/x", "/r/in/x"), "/r", 0.0, "/r/in")
    for number in range(20):
        held.add(event("created", f"/r/{number}"), "/r", 0.0)
    held.add(event("moved", "/r/y", "/r/in/y"), "/r", 0.0, "/r/in")
    assert sorted(e.path for e in held.due(1.0)) == ["/r", "/r/in/x", "/r/in/y"]
    assert not held


def test_what_moved_out_of_a_root_is_not_forgotten_with_it() -> None:
    held = Coalescer(1.0, 10.0, 10)
    held.add(event("moved", "/r/x", "/other/x"), "/r", 0.0, "/other")
    held.add(event("deleted", "/r/y"), "/r", 0.0)
    held.forget("/r")
    assert held.due(1.0) == [event("created", "/other/x", is_dir=True)]
    assert not held


def test_forgetting_a_root_leaves_the_others() -> None:
    held = Coalescer(1.0, 10.0, 100)
    held.add(event("created", "/r/x"), "/r", 0.0)
    held.add(event("created", "/other/x"), "/other", 0.0)
    held.forget("/r")
    assert held.due(1.0) == [event("created", "/other/x")]
