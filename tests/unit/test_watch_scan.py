"""The walk and the walk against the catalog."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from indexer.settings import Settings
from indexer.watch import Entry, FileChange, Rules, root_device, root_online, scan, sweep


def rules(root: Path) -> Rules:
    return Rules(root, Settings())


def ordered(catalog: list[Entry], below: Path) -> list[tuple[bytes, int, int]]:
    """What the catalog says of the files at or below a path."""
    inside = (e for e in catalog if e.path == str(below) or e.path.startswith(f"{below}/"))
    return sorted((os.fsencode(entry.path), entry.size, entry.mtime_ns) for entry in inside)


def sweep_of(below: Path, catalog: list[Entry]) -> list[FileChange]:
    """Sweep a part of its parent."""
    return list(sweep(rules(below.parent), ordered(catalog, below), str(below)))


def paths(root: Path) -> set[str]:
    return {str(Path(entry.path).relative_to(root)) for entry in scan(rules(root))}


def test_entries_carry_what_the_catalog_compares(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("hello")
    info = file.stat()
    assert list(scan(rules(tmp_path))) == [Entry(str(file), 5, info.st_mtime_ns, info.st_ino, info.st_dev)]


def test_links_are_not_followed_and_what_is_no_file_is_told_of(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    (root / "sub" / "real").write_text("x")
    (tmp_path / "secret").write_text("x")
    (root / "link").symlink_to(root / "sub" / "real")
    (root / "out").symlink_to(tmp_path)
    (root / "sub" / "loop").symlink_to(root)
    (root / "dangling").symlink_to("nowhere")
    (root / "sub" / "up").symlink_to("../../secret")
    (root / "sub" / "beside").symlink_to("../../root.old")
    (root / ".hidden.swp").symlink_to("/")
    os.mkfifo(root / "fifo")
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(root / "socket"))
        assert paths(root) == {"sub/real", "out", "sub/up", "sub/beside", "fifo", "socket"}
    (entry,) = scan(rules(root), str(root / "out"))
    assert entry.size == os.lstat(root / "out").st_size
    assert [entry.path for entry in scan(rules(root), str(root / "fifo"))] == [str(root / "fifo")]
    assert list(scan(rules(root), str(root / "link"))) == []
    known = [Entry(str(root / name), -1, 0, 0, 0) for name in ("link", "out", "sub/real")]
    changes = {
        (change.kind, str(Path(change.path).relative_to(root)))
        for change in sweep(rules(root), ordered(known, root))
    }
    assert ("remove", "link") in changes
    assert {("upsert", "out"), ("upsert", "fifo"), ("upsert", "sub/real")} < changes


def test_a_folder_that_cannot_be_looked_into_is_told_of_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "a!", "a/b", "c"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.txt").write_text("x")
    real = os.scandir

    def refuse(path: str) -> object:
        if path == str(tmp_path / "a"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return real(path)

    with monkeypatch.context() as patch:
        patch.setattr("indexer.watch.walk.os.scandir", refuse)
        told = {change.path for change in sweep(rules(tmp_path), []) if change.kind == "upsert"}
        assert told == {str(tmp_path / name) for name in ("a", "a!/x.txt", "c/x.txt")}
        known = list(scan(rules(tmp_path)))
        assert list(sweep(rules(tmp_path), ordered(known, tmp_path))) == []
    again = {(c.kind, c.path) for c in sweep(rules(tmp_path), ordered(known, tmp_path))}
    assert again == {("remove", str(tmp_path / "a"))} | {
        ("upsert", str(tmp_path / "a" / name)) for name in ("x.txt", "b/x.txt")
    }


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    with Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\n.txt")).open("wb"):
        pass
    (entry,) = scan(rules(tmp_path))
    assert os.fsencode(entry.path) == os.fsencode(tmp_path) + b"/\xff\n.txt"
    assert Path(entry.path).exists()


def test_a_tree_deeper_than_recursion_goes(tmp_path: Path) -> None:
    depth = 1100  # the kernel takes no longer paths than 4,096 characters
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(os.open("leaf", os.O_CREAT | os.O_WRONLY, dir_fd=here))
    os.close(here)
    try:
        assert [entry.path.count("d/") for entry in scan(rules(tmp_path))] == [depth]
    finally:
        # shutil.rmtree recurses, and pytest uses it.
        subprocess.run(["rm", "-rf", tmp_path / "d"], check=True)


def test_a_folder_that_cannot_be_looked_at_is_told_and_nothing_below_is_forgotten(tmp_path: Path) -> None:
    # Longer than a path may be: a folder that even root cannot open.
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(30):
        os.mkdir("n" * 200, dir_fd=here)
        below = os.open("n" * 200, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    (tmp_path / "a").write_text("")
    entries = list(scan(rules(tmp_path)))
    (failed,) = [entry for entry in entries if entry.error]
    assert "too long" in str(failed.error)
    known = [
        Entry(f"{failed.path}/kept.txt", 1, 1, 0, 0),
        Entry(failed.path, 1, 1, 0, 0),
        Entry(f"{failed.path}x", 1, 1, 0, 0),
        Entry(str(tmp_path / "gone"), 1, 1, 0, 0),
    ]
    removed = {
        change.path for change in sweep(rules(tmp_path), ordered(known, tmp_path)) if change.kind == "remove"
    }
    assert removed == {f"{failed.path}x", str(tmp_path / "gone")}
    shutil.rmtree(tmp_path / ("n" * 200))


def test_what_vanishes_during_the_walk_is_simply_gone(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name / "deep").mkdir(parents=True)
        (tmp_path / name / "file").write_text("")
        (tmp_path / name / "deep" / "file").write_text("")
    walk = scan(rules(tmp_path))
    first = next(walk)
    for name in ("a", "b", "c"):
        shutil.rmtree(tmp_path / name)
    rest = list(walk)
    assert first.error is None
    assert all(entry.error is None for entry in rest)
    assert len(rest) <= 1


def test_sweep_tells_new_changed_and_gone(tmp_path: Path) -> None:
    for name in ("same", "changed", "new", "ignored~"):
        (tmp_path / name).write_text("1")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "new").write_text("1")

    def known(name: str, *, off: int = 0) -> Entry:
        file = tmp_path / name
        info = file.stat() if file.exists() else None
        return Entry(str(file), info.st_size if info else 1, (info.st_mtime_ns if info else 1) + off, 0, 0)

    catalog = [known("same"), known("changed", off=-1), known("gone"), known("sub/gone"), known("ignored~")]
    changes = list(sweep(rules(tmp_path), ordered(catalog, tmp_path)))
    assert {(c.kind, str(Path(c.path).relative_to(tmp_path))) for c in changes} == {
        ("upsert", "changed"),
        ("upsert", "new"),
        ("upsert", "sub/new"),
        ("remove", "gone"),
        ("remove", "sub/gone"),
        ("remove", "ignored~"),
    }
    assert [c.kind for c in changes] == sorted((c.kind for c in changes), reverse=True), "upserts first"
    assert all(c.size == 1 and c.mtime_ns for c in changes if c.kind == "upsert")
    below = {c.path for c in sweep_of(tmp_path / "sub", catalog)}
    assert below == {str(tmp_path / "sub" / "new"), str(tmp_path / "sub" / "gone")}


def test_sweep_of_a_folder_that_became_a_file_or_is_ignored_now(tmp_path: Path) -> None:
    (tmp_path / "thing").write_text("1")
    catalog = [
        Entry(str(tmp_path / "thing" / "old"), 1, 1, 0, 0),
        Entry(str(tmp_path / "thing2"), 1, 1, 0, 0),
    ]
    info = (tmp_path / "thing").stat()
    root = str(tmp_path)
    assert sweep_of(tmp_path / "thing", catalog) == [
        FileChange(kind="upsert", path=f"{root}/thing", root=root, size=1, mtime_ns=info.st_mtime_ns),
        FileChange(kind="remove", path=f"{root}/thing/old", root=root),
    ]
    (tmp_path / ".gitignore").write_text("thing\n")
    catalog.append(Entry(str(tmp_path / "thing"), 1, info.st_mtime_ns, 0, 0))
    gone = {c.path for c in sweep_of(tmp_path / "thing", catalog) if c.kind == "remove"}
    assert gone == {f"{root}/thing", f"{root}/thing/old"}


def test_offline_is_not_empty(tmp_path: Path) -> None:
    root = str(tmp_path / "disk")
    assert root_device(root) is None
    assert not root_online(root, False, None)
    (tmp_path / "disk").write_text("a file")
    assert not root_online(root, False, None)
    (tmp_path / "disk").unlink()
    (tmp_path / "disk").mkdir()
    device = root_device(root)
    assert device is not None
    assert root_online(root, False, None), "a folder that is still empty"
    assert root_online(root, True, device), "the person deleted everything"
    assert not root_online(root, True, device + 1), "the mount point of a disk that is not there"
    (tmp_path / "disk" / "file").write_text("")
    assert root_online(root, True, device + 1), "mounted at another number"


def test_an_empty_folder_where_disks_are_mounted_counts_as_offline(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("indexer.watch.walk._MOUNT_PARENTS", (f"{tmp_path}/",))
    (tmp_path / "stick").mkdir()
    assert not root_online(str(tmp_path / "stick"), True, None)
    assert root_online(str(tmp_path / "stick"), False, None)


def test_the_walk_is_in_the_order_of_the_catalog(tmp_path: Path) -> None:
    """`sweep` reads both side by side: one file out of place would take it, or its neighbours, for gone."""
    names = (
        "a",
        "a.txt",
        "a/b",
        "a-b",
        "a b/c",
        "a/b.c",
        "ab",
        "é/x",
        "é.txt",
        "文/x",
        "𝒳",
        "\udcff",
        "\udce9/y",
    )
    root = tmp_path / "root"
    for number, name in enumerate(names):
        file = root / f"{number % 3}" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            file.write_text("x")
    walked = [os.fsencode(entry.path) for entry in scan(rules(root))]
    assert len(walked) >= 10
    assert walked == sorted(walked)


def test_a_file_that_enters_the_catalog_behind_the_walk_is_not_gone(tmp_path: Path) -> None:
    for name in ("a", "z"):
        (tmp_path / name).write_text(name)

    def known() -> Iterator[tuple[bytes, int, int]]:
        yield from ordered([e for e in scan(rules(tmp_path)) if e.path.endswith("/a")], tmp_path)
        new = tmp_path / "new"
        new.write_text("new")  # the folder was listed before this
        yield os.fsencode(new), 3, new.stat().st_mtime_ns

    assert [(c.kind, Path(c.path).name) for c in sweep(rules(tmp_path), known())] == [("upsert", "z")]
