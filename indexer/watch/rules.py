"""What of a folder belongs in the index: one answer, with its reason, for the sweep and for events alike."""

from __future__ import annotations

import errno
import logging
import os
import re
import stat
from collections.abc import Iterable
from pathlib import Path

from indexer.settings import Settings, cache_dir
from indexer.watch.patterns import Patterns

log = logging.getLogger(__name__)

# A larger ignore file is not one that a person wrote.
_MAX_IGNORE_FILE = 256 << 10
_MAX_FOLDERS = 20_000

_FOLDERS = {
    ".git": "version control",
    ".hg": "version control",
    ".svn": "version control",
    ".bzr": "version control",
    "CVS": "version control",
    "node_modules": "installed packages",
    "bower_components": "installed packages",
    "__pypackages__": "installed packages",
    "site-packages": "installed packages",
    "__pycache__": "cache",
    ".cache": "cache",
    ".mypy_cache": "cache",
    ".pytest_cache": "cache",
    ".ruff_cache": "cache",
    ".gradle": "cache",
    ".tox": "virtual environment",
    ".nox": "virtual environment",
    ".Trash": "waste basket",
    ".Trashes": "waste basket",
    "$RECYCLE.BIN": "waste basket",
    "lost+found": "system folder",
    "System Volume Information": "system folder",
    ".Spotlight-V100": "system folder",
    ".fseventsd": "system folder",
}
# A folder with one of these names is output only beside a file that says which tool wrote it. A
# person's own folder called "build" has no such neighbour and stays.
_OUTPUTS = {
    "target": ("Cargo.toml", "pom.xml"),
    "build": ("pyproject.toml", "setup.py", "package.json", "build.gradle", "build.gradle.kts"),
    "dist": ("pyproject.toml", "setup.py", "package.json"),
}
_NAMES = {".DS_Store": "system file", "Thumbs.db": "system file", "desktop.ini": "system file"}
_LOCK, _UNFINISHED, _COMPILED = (
    "editor's lock or backup file",
    "unfinished or temporary file",
    "compiled file",
)
_PREFIXES = ("~$", ".~lock.", ".#", "#")
_SUFFIXES = {
    "~": _LOCK,
    "#": _LOCK,
    ".swp": _LOCK,
    ".swo": _LOCK,
    ".swx": _LOCK,
    ".part": _UNFINISHED,
    ".crdownload": _UNFINISHED,
    ".partial": _UNFINISHED,
    ".tmp": _UNFINISHED,
    ".pyc": _COMPILED,
    ".pyo": _COMPILED,
}
_SUFFIX_TUPLE = tuple(_SUFFIXES)
# A file whose name has none of these is ignored by patterns only; see `FolderRules.clear`.
ODD_BEGINNINGS = frozenset({*".", *(prefix[0] for prefix in _PREFIXES)})
ODD_LAST = frozenset("~#")
ODD_ENDINGS = frozenset(suffix[-3:] for suffix in _SUFFIXES if len(suffix) > 2)
ODD_NAMES = frozenset(_NAMES)
_TRASH = re.compile(r"\.Trash-\d+")
_CACHE_TAG = b"Signature: 8a477f597d28d172789f06886806bc55"

IGNORE_FILES = (".gitignore", ".ignore")
_INSIDE = (*IGNORE_FILES, ".git", "pyvenv.cfg", "CACHEDIR.TAG", "CMakeCache.txt")
_BESIDE = frozenset(name for names in _OUTPUTS.values() for name in names)
CONTROL = frozenset(_INSIDE) | _BESIDE
"""Names whose coming or going changes what is ignored in their folder."""


class FolderRules:
    """What is ignored directly in one folder. Made by `Rules`; of use to the walk."""

    __slots__ = ("_git", "_ignore", "_names", "_path", "_prefix", "_rules", "clear", "reason")

    def __init__(
        self, rules: Rules, path: str, relative: str, above: FolderRules | None, names: Iterable[str]
    ) -> None:
        self._rules = rules
        self._path = path
        self._names = frozenset(name for name in names if name in CONTROL)
        self._prefix = relative + "/" if relative else ""
        # Innermost first: (length of the prefix to take off a relative path, patterns).
        self._git: tuple[tuple[int, Patterns], ...] = above._git if above else ()
        self._ignore: tuple[tuple[int, Patterns], ...] = above._ignore if above else ()
        self.clear = False
        self.reason = self._look() if above else None
        if self.reason is not None:
            return
        if ".git" in self._names:
            exclude = _read(Path(path) / ".git" / "info" / "exclude")
            # What lies above a repository is another one's business, as for git itself.
            self._git = ((len(self._prefix), exclude),) if exclude else ()
        if ".gitignore" in self._names and (patterns := _read(Path(path) / ".gitignore")):
            self._git = ((len(self._prefix), patterns), *self._git)
        if ".ignore" in self._names and (patterns := _read(Path(path) / ".ignore")):
            self._ignore = ((len(self._prefix), patterns), *self._ignore)
        # Whether no patterns apply to what is in here.
        self.clear = not (self._git or self._ignore or rules.patterned)

    def _look(self) -> str | None:
        """Why the whole folder is out, by what it holds."""
        if not self._names:
            return None
        reason = None
        if "pyvenv.cfg" in self._names:
            reason = "virtual environment"
        elif "CMakeCache.txt" in self._names:
            reason = "build output"
        elif "CACHEDIR.TAG" in self._names and _is_cache_tag(Path(self._path) / "CACHEDIR.TAG"):
            reason = "cache"
        if reason and self._rules.own(self._prefix[:-1], True) is False:
            return None
        return reason

    def ignored(self, name: str, is_dir: bool) -> str | None:
        """Why an entry of this folder is not indexed, or None when it is."""
        relative = self._prefix + name
        rules = self._rules
        if is_dir and rules.excluded and f"{self._path}{os.sep}{name}" in rules.excluded:
            return "kept by the program itself or added on its own"
        mine = rules.own(relative, is_dir)
        if mine is not None:
            return "your ignore patterns" if mine else None
        if is_dir:
            if (reason := _FOLDERS.get(name)) is not None:
                return reason
            beside = _OUTPUTS.get(name)
            if beside is not None and not self._names.isdisjoint(beside):
                return "build output"
            if name[0] == "." and _TRASH.fullmatch(name):
                return "waste basket"
        else:
            # Plain prefixes and suffixes: this is asked for every file of every sweep.
            if name.startswith(_PREFIXES) and (name[0] != "#" or name[-1] == "#"):
                return _LOCK
            if name.endswith(_SUFFIX_TUPLE) and (name[-1] != "#" or name.startswith((".~lock.", "#"))):
                return next(reason for suffix, reason in _SUFFIXES.items() if name.endswith(suffix))
            if (reason := _NAMES.get(name)) is not None:
                return reason
        if name[0] == "." and not rules.hidden:
            return "hidden"
        for kind, layers in ((".ignore", self._ignore), (".gitignore", self._git)):
            for cut, patterns in layers:
                said = patterns.check(relative[cut:], is_dir)
                if said is not None:
                    return kind if said else None
        return None


class Rules:
    """What is left out of one folder of the library.

    From strongest to weakest: folders the program must not index; the person's own patterns (a negated
    one brings back what the rest would leave out); names known to hold nothing a person wrote; hidden
    names; .ignore and .gitignore files, nested ones included, and .git/info/exclude. As in git, nothing
    below an ignored folder can be brought back. Ignore files above the root do not count: the person
    chose the root itself, and the root is never ignored. A .gitignore counts outside a repository too.
    The person's global git excludes are not read. Files' sizes are the pipeline's business.
    """

    def __init__(self, root: Path | str, settings: Settings, *, excluded: Iterable[Path | str] = ()) -> None:
        """Rules for one root.

        Args:
            root: Absolute path of the root.
            settings: For `ignore` and `index_hidden`.
            excluded: Folders never indexed: the library's data folder, and roots inside this root
                (a file belongs to the innermost root). The cache folder is always one of them.
        """
        self.root = os.fspath(root)
        self.hidden = settings.index_hidden
        self.excluded = frozenset(os.fspath(folder) for folder in (*excluded, cache_dir()))
        self._own = Patterns(settings.ignore) if settings.ignore else None
        self.patterned = self._own is not None
        self._folders: dict[str, FolderRules] = {}

    def own(self, relative: str, is_dir: bool) -> bool | None:
        """What the person's own patterns say: ignore (True), take in (False), nothing (None)."""
        return None if self._own is None else self._own.check(relative, is_dir)

    def top(self, names: Iterable[str]) -> FolderRules:
        """The rules of the root, whose entries are called `names`."""
        return FolderRules(self, self.root, "", None, names)

    def below(self, above: FolderRules, name: str, names: Iterable[str]) -> FolderRules:
        """The rules of folder `name` of `above`; with a `reason` when the folder is out as a whole."""
        return FolderRules(
            self, f"{above._path.rstrip(os.sep)}{os.sep}{name}", above._prefix + name, above, names
        )

    def ignored(self, path: str, is_dir: bool) -> str | None:
        """Why a path is not indexed.

        Args:
            path: Absolute path at or below the root; it need not exist any more.
            is_dir: Whether it is (or was) a folder.

        Returns:
            The reason in a few words, or None when the path is indexed.
        """
        if path == self.root:
            return None
        prefix = self.root.rstrip(os.sep) + os.sep
        if not path.startswith(prefix):
            return "outside the folder"
        head, _, name = path[len(prefix) :].rpartition(os.sep)
        folder = self._folder(head)
        if isinstance(folder, str):
            return folder
        reason = folder.ignored(name, is_dir)
        if reason is None and is_dir:
            inside = self._folder(f"{head}{os.sep}{name}" if head else name)
            return inside if isinstance(inside, str) else None
        return reason

    def look(self, path: str) -> os.stat_result:
        """`os.lstat`, to which nothing is there that is reached through a link below the root.

        Where a folder gave way to a link, its files may be found below the link's name as before; but they
        lie elsewhere, perhaps outside the library.

        Args:
            path: Absolute path at or below the root.

        Raises:
            FileNotFoundError: It is not there, or not in this root.
            OSError: It cannot be looked at.
        """
        info = os.lstat(path)
        above = os.path.dirname(path)  # noqa: PTH120
        while len(above) > len(self.root):
            if stat.S_ISLNK(os.lstat(above).st_mode):
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
            above = os.path.dirname(above)  # noqa: PTH120
        return info

    def told(self, path: str, mode: int) -> bool:
        """Whether the list of files has something that is no folder: a file, or what is told to be none.

        A link to what is in this root too is not told of: that is found where it is. It is not followed to
        see what is there, so that a link to a link that leads out is not told of either, but the second is.

        Args:
            path: Absolute path at or below the root.
            mode: Of `os.lstat`.
        """
        if not stat.S_ISLNK(mode):
            return not stat.S_ISDIR(mode)
        try:
            goal = os.readlink(path)  # noqa: PTH115
        except OSError:
            return False
        there = os.path.normpath(os.path.join(os.path.dirname(path), goal))  # noqa: PTH118, PTH120
        return not f"{there}{os.sep}".startswith(self.root.rstrip(os.sep) + os.sep)

    def folder(self, path: str) -> FolderRules | None:
        """The rules of a folder at or below the root; None when it is ignored."""
        relative = path[len(self.root) :].strip(os.sep)
        found = self._folder(relative)
        return found if isinstance(found, FolderRules) else None

    def _folder(self, relative: str) -> FolderRules | str:
        """The rules of a folder, or why it is ignored."""
        known = self._folders.get(relative)
        if known is None:
            path = f"{self.root.rstrip(os.sep)}{os.sep}{relative}" if relative else self.root
            if relative:
                head, _, name = relative.rpartition(os.sep)
                above = self._folder(head)
                if isinstance(above, str):
                    return above
                reason = above.ignored(name, True)
                if reason is not None:
                    return reason
                known = self.below(above, name, _present(path))
            else:
                known = self.top(_present(path))
            if len(self._folders) >= _MAX_FOLDERS:
                self._folders = {}
            self._folders[relative] = known
        return known if known.reason is None else known.reason

    def forget(self) -> None:
        """Read ignore files again when they are next needed."""
        self._folders = {}


def _present(folder: str) -> list[str]:
    names = sorted(CONTROL)
    return [name for name in names if os.path.lexists(f"{folder}{os.sep}{name}")]


def _read(file: Path) -> Patterns | None:
    # A link is not read: it could lead out of the root.
    try:
        if file.is_symlink() or not file.is_file() or file.stat().st_size > _MAX_IGNORE_FILE:
            return None
        return Patterns.parse(file.read_bytes().decode("utf-8", "surrogateescape"))
    except OSError as error:
        log.warning("an ignore file cannot be read (%s)", type(error).__name__)
        log.debug("%s: %s", file, error)
        return None
    except re.error as error:
        log.warning("an ignore file is left out (%s)", type(error).__name__)
        log.debug("%s: %s", file, error)
        return None


def _is_cache_tag(file: Path) -> bool:
    try:
        if file.is_symlink() or not file.is_file():
            return False
        with file.open("rb") as stream:
            return stream.read(len(_CACHE_TAG)) == _CACHE_TAG
    except OSError:
        return False
