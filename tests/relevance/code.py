"""Code search: find a function by the first sentence of its docstring, which was taken out of it.

Functions of the standard library and of some installed packages, each a file of its own, so that a hit
needs no judgement and methods of one class do not compete for the passages of one file. The file names
say nothing.
"""

from __future__ import annotations

import ast
import hashlib
import random
import re
import sys
import sysconfig
import textwrap
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from tests.relevance.library import Question

# Part of what Dragoman itself is installed with, so nothing has to be fetched.
PACKAGES = ("numpy", "transformers", "torch", "chromadb", "rich", "pygments", "networkx", "sympy")
# Raise it when other functions would be drawn.
LAYOUT = 1
_A_MODULE = 8  # at most so many functions, or a few modules would be the whole library
_SHORTEST = 4  # lines of code that are left
_LONGEST = 120
_SENTENCE = re.compile(r"(.+?[.!?])(?:\s|$)", re.DOTALL)
_SKIPPED = {
    "test",
    "tests",
    "testing",
    "idlelib",
    "site-packages",
    "lib2to3",
    "turtledemo",
    "conftest.py",
    "_vendor",
}


@dataclass(frozen=True)
class Function:
    """A function without its docstring.

    Attributes:
        name: Package, module and qualified name.
        query: The first sentence of the docstring, on one line.
        source: The rest, not indented.
    """

    name: str
    query: str
    source: str


def versions() -> dict[str, str]:
    """Version of Python and of each package that functions are taken from."""
    return {
        "python": ".".join(map(str, sys.version_info[:3])),
        **{name: version(name) for name in _installed()},
    }


def _installed() -> list[str]:
    return [name for name in PACKAGES if find_spec(name) is not None]


def functions(count: int, seed: int) -> list[Function]:
    """Draw functions; the same ones for the same versions and seed.

    Args:
        count: At most how many.
        seed: Another one draws others.
    """
    roots = {"python": Path(sysconfig.get_path("stdlib"))}
    for name in _installed():
        spec = find_spec(name)
        assert spec is not None
        roots[name] = Path((spec.submodule_search_locations or [""])[0])
    draw = random.Random(seed)
    found: list[Function] = []
    for name, root in roots.items():
        for file in sorted(root.rglob("*.py")):
            module = file.relative_to(root)
            if _SKIPPED.isdisjoint(module.parts):
                there = list(_of_module(f"{name}/{module.as_posix()}", file))
                found += there if len(there) <= _A_MODULE else draw.sample(there, _A_MODULE)
    # Two functions with one description, or with one body, would have no single answer.
    queries = Counter(function.query.casefold() for function in found)
    bodies = Counter(_body(function.source) for function in found)
    good = [f for f in found if queries[f.query.casefold()] == 1 and bodies[_body(f.source)] == 1]
    # As many from each package as there are, so that the largest does not outweigh the others.
    shares: dict[str, list[Function]] = defaultdict(list)
    for function in good:
        shares[function.name.partition("/")[0]].append(function)
    for share in shares.values():
        draw.shuffle(share)
    picked: list[Function] = []
    while len(picked) < count and any(shares.values()):
        picked += [share.pop() for share in shares.values() if share]
    return picked[:count]


def _of_module(name: str, file: Path) -> Iterator[Function]:
    """All functions and methods of a module that are fit to be asked for."""
    try:
        source = file.read_text(encoding="utf-8")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            tree = ast.parse(source)
    except (SyntaxError, UnicodeDecodeError, ValueError):
        return  # templates and tests of the compiler
    lines = source.splitlines()

    def walk(parent: ast.AST, prefix: str) -> Iterator[Function]:
        for node in ast.iter_child_nodes(parent):
            if isinstance(node, ast.ClassDef):
                yield from walk(node, f"{prefix}{node.name}.")
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                query, rest = description(node), without_docstring(node, lines)
                if query and _SHORTEST <= len(rest.splitlines()) <= _LONGEST:
                    yield Function(f"{name}:{prefix}{node.name}", query, rest)

    yield from walk(tree, "")


def description(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    """The first sentence of a docstring, empty when it is no description in words."""
    first = (ast.get_docstring(node) or "").partition("\n\n")[0]
    match = _SENTENCE.match(first)
    sentence = " ".join((match[1] if match else first).split())
    words = re.findall(r"[A-Za-z]{2,}", sentence)
    return sentence if 4 <= len(words) <= 40 and ">>>" not in sentence else ""


def without_docstring(node: ast.FunctionDef | ast.AsyncFunctionDef, lines: Sequence[str]) -> str:
    """The function's lines without those of its docstring, not indented; empty when nothing else is in it."""
    docstring = node.body[0]
    rest = node.body[1:]
    if not rest or all(isinstance(statement, ast.Pass | ast.Raise) for statement in rest):
        return ""
    assert docstring.end_lineno is not None
    assert node.end_lineno is not None
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    kept = [*lines[first - 1 : docstring.lineno - 1], *lines[docstring.end_lineno : node.end_lineno]]
    return textwrap.dedent("\n".join(kept)).strip() + "\n"


def _body(source: str) -> str:
    """The code after the first line, where the name stands, without white space."""
    return "".join(source.partition("\n")[2].split())


def library(picked: Sequence[Function], target: Path) -> list[Question]:
    """Write each function as a file below ``target/library`` to be asked for by its description."""
    questions = []
    for function in picked:
        name = hashlib.sha1(function.name.encode()).hexdigest()[:12] + ".py"
        file = target / "library" / name[0] / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(function.source, encoding="utf-8")
        questions.append(Question(function.query, "en", "code", f"{name[0]}/{name}", "cross"))
    return questions
