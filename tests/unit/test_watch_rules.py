"""Ignore rules: git is the judge of the syntax, people's folders are the judge of the built-in list."""

from __future__ import annotations

import random
import subprocess
import time
from pathlib import Path

import pytest

from indexer.settings import Settings
from indexer.watch import Rules, scan
from indexer.watch.patterns import Patterns

SIGNATURE = "Signature: 8a477f597d28d172789f06886806bc55\n"


def make(root: Path, *files: str) -> None:
    for name in files:
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("x")


def names(root: Path, rules: Rules) -> set[str]:
    return {str(Path(entry.path).relative_to(root)) for entry in scan(rules)}


def random_pattern(rng: random.Random) -> str:
    words = ["a", "b", "*", "**", "?", "[ab]", "[!a]", "a*", "*.c", "ab", "c", "*a*b", "***", "\\a", "[a-b]?"]
    text = "/".join(rng.choice(words) for _ in range(rng.choice([1, 1, 1, 2, 3])))
    text = ("/" if rng.random() < 0.25 else "") + text + ("/" if rng.random() < 0.3 else "")
    text = ("!" if rng.random() < 0.35 else "") + text
    return text + rng.choice(["", "", "", " ", "\r", "\\ "])


@pytest.mark.parametrize("seed", range(5))
def test_agrees_with_git(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    ignored_somewhere = 0
    for number in range(15):
        root = tmp_path / f"tree{number}"
        subprocess.run(["git", "init", "-q", root], check=True)
        folders, paths = [root], []
        for _ in range(20):
            path = rng.choice(folders) / rng.choice(["a", "b", "ab", "a.c", "b.c", "c", "ba"])
            if path.exists():
                continue
            if rng.random() < 0.5 and len(path.relative_to(root).parts) < 4:
                path.mkdir()
                folders.append(path)
            else:
                path.write_text("")
            paths.append(path)
        for folder in rng.sample(folders, min(len(folders), 3)):
            lines = [random_pattern(rng) for _ in range(rng.randint(1, 5))]
            (folder / ".gitignore").write_bytes("\n".join([*lines, "# a comment", ""]).encode())
        (root / ".git" / "info" / "exclude").write_text(random_pattern(rng) + "\n")
        told = subprocess.run(
            ["git", "-C", root, "check-ignore", "--no-index", "-z", "--stdin"],
            input="\0".join(str(path) for path in paths) + "\0",
            text=True,
            capture_output=True,
            check=False,
        ).stdout.split("\0")
        rules = Rules(root, Settings())
        mine = {str(path) for path in paths if rules.ignored(str(path), path.is_dir()) is not None}
        assert mine == set(told) - {""}
        ignored_somewhere += len(mine)
        # The walk that prunes gives the same answer as asking path by path.
        files = {str(path) for path in paths if path.is_file()}
        assert {entry.path for entry in scan(rules)} == files - mine
    assert ignored_somewhere > 20


@pytest.mark.parametrize(
    ("pattern", "path", "is_dir", "expected"),
    [
        ("foo/**", "foo", True, None),
        ("foo/**", "foo/x", False, True),
        ("[[:digit:]]x", "7x", False, True),
        ("[[:nonsense:]]x", "7x", False, None),
        ("[ab", "a", False, None),
        ("a[]]b", "a]b", False, True),
        ("a[^b]c", "a/c", False, None),
        (r"\!x", "!x", False, True),
        (r"\#x", "#x", False, True),
        ("x\\", "x", False, None),
        ("x.y", "xzy", False, None),
        ("文*", "文书.txt", False, True),
    ],
)
def test_syntax(pattern: str, path: str, is_dir: bool, expected: bool | None) -> None:
    assert Patterns([pattern]).check(path, is_dir) is expected


def test_a_hostile_pattern_cannot_hang() -> None:
    start = time.monotonic()
    for pattern, path in [
        ("*a" * 60 + "b", "a" * 250),
        ("**/a/" * 60 + "b", "/".join("a" * 1500)),
        ("/" + "*a*/**/" * 30 + "x", "/".join(["aaaa"] * 300)),
    ]:
        assert Patterns([pattern]).check(path, False) is None
    assert time.monotonic() - start < 5


def test_what_is_left_out_by_itself(tmp_path: Path) -> None:
    out = [
        "node_modules/a.js", "x/__pycache__/a.pyc", "env/pyvenv.cfg", "env/lib/a.py", ".hidden", ".dot/a",
        "~$report.docx", "report.txt~", ".a.txt.swp", "film.part", "a.crdownload", ".Trash-1000/files/a",
        "lost+found/a", "rust/target/debug/a", "web/dist/a.js", "cmake/out/a.o", "cmake/out/CMakeCache.txt",
        ".git/config", "sub/.hg/a",
    ]  # fmt: skip
    kept = [
        "a.txt",
        "rust/Cargo.toml",
        "web/package.json",
        "build/photos.txt",
        "dist/notes.md",
        "target/plan.md",
        "swp",
    ]
    make(tmp_path, *out, *kept)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "CACHEDIR.TAG").write_text(SIGNATURE)
    make(tmp_path, "cache/a", "fake/CACHEDIR.TAG", "fake/a")
    assert names(tmp_path, Rules(tmp_path, Settings())) == {*kept, "fake/CACHEDIR.TAG", "fake/a"}


def test_reasons_are_told(tmp_path: Path) -> None:
    make(tmp_path, "env/pyvenv.cfg", "a/node_modules/b/c.js", ".x", "skip.log")
    (tmp_path / ".gitignore").write_text("*.log\n")
    rules = Rules(tmp_path, Settings(ignore=("mine*",)))
    told = {
        "env": True, "env/lib/a.py": False, "a/node_modules/b/c.js": False, ".x": False, "skip.log": False,
        "mine.txt": False, "fine.txt": False,
    }  # fmt: skip
    assert [rules.ignored(str(tmp_path / name), is_dir) for name, is_dir in told.items()] == [
        "virtual environment",
        "virtual environment",
        "installed packages",
        "hidden",
        ".gitignore",
        "your ignore patterns",
        None,
    ]
    assert rules.ignored(str(tmp_path), True) is None
    assert rules.ignored(str(tmp_path) + "2", True) == "outside the folder"


def test_own_patterns_have_the_last_word(tmp_path: Path) -> None:
    make(
        tmp_path,
        ".config/app.toml",
        "node_modules/mine.md",
        "env/pyvenv.cfg",
        "a.txt",
        "b.txt",
        "c/a.txt",
        "x~",
    )
    (tmp_path / ".gitignore").write_text("b.txt\n")
    own = ("!.config", "!node_modules", "!env/", "!b.txt", "/a.txt", "!*~")
    assert names(tmp_path, Rules(tmp_path, Settings(ignore=own))) == {
        ".config/app.toml", "node_modules/mine.md", "env/pyvenv.cfg", "b.txt", "c/a.txt", "x~",
    }  # fmt: skip


def test_hidden_files_on_request(tmp_path: Path) -> None:
    make(tmp_path, ".notes/a.md", ".b", ".git/config", ".cache/x", "c")
    assert names(tmp_path, Rules(tmp_path, Settings(index_hidden=True))) == {".notes/a.md", ".b", "c"}


def test_ignore_file_beats_gitignore_and_a_repository_is_on_its_own(tmp_path: Path) -> None:
    make(tmp_path, "a.md", "b.md", "repo/a.md", "repo/b.md", "repo/.git/config")
    (tmp_path / ".gitignore").write_text("a.md\n")
    (tmp_path / ".ignore").write_text("!/a.md\nb.md\n")
    assert names(tmp_path, Rules(tmp_path, Settings())) == {"a.md", "repo/a.md"}


def test_rules_change_with_their_files(tmp_path: Path) -> None:
    make(tmp_path, "a.md")
    rules = Rules(tmp_path, Settings())
    assert rules.ignored(str(tmp_path / "a.md"), False) is None
    (tmp_path / ".gitignore").write_text("a.md")
    assert rules.ignored(str(tmp_path / "a.md"), False) is None, "remembered"
    rules.forget()
    assert rules.ignored(str(tmp_path / "a.md"), False) == ".gitignore"


def test_an_ignore_file_that_is_a_link_or_not_text_does_no_harm(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("*\n")
    root = tmp_path / "root"
    make(root, "a.md", "b/b.md")
    (root / ".gitignore").symlink_to(outside)
    (root / "b" / ".gitignore").write_bytes(b"\xff\xfe\n[\x80-\x81]\n\0")
    assert names(root, Rules(root, Settings())) == {"a.md", "b/b.md"}


def test_excluded_folders_are_never_indexed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRAGOMAN_CACHE", str(tmp_path / "models"))
    make(tmp_path, "data/catalog.db", "inner/a", "models/weights", "b")
    rules = Rules(
        tmp_path, Settings(ignore=("!data", "!models")), excluded=[tmp_path / "data", tmp_path / "inner"]
    )
    assert names(tmp_path, rules) == {"b"}
