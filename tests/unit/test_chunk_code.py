"""Source code: symbols in every language with a grammar, and what happens without one."""

from __future__ import annotations

import time

import pytest

from indexer.chunk import chunk
from indexer.document import Block, Chunk, Document
from tests.unit.test_chunk import check, counts


def source(text: str, language: str | None) -> Document:
    return Document(
        media="code",
        text=text,
        blocks=(Block(kind="code", start=0, end=len(text)),),
        code_language=language,
    )


def chunks_of(text: str, language: str | None, *, max_tokens: int = 400, target: int = 12) -> list[Chunk]:
    document = source(text, language)
    chunks = chunk(document, counts=counts, max_tokens=max_tokens, target_tokens=target)
    check(document, chunks, max_tokens)
    assert all(piece.lang == "code" for piece in chunks)
    return chunks


BODY = "x = 1; y = 2; z = 3; w = 4;"

SAMPLES: dict[str, tuple[str, set[str]]] = {
    "bash": (f"# Greets.\ngreet() {{\n  {BODY}\n}}\n\nfunction bye {{\n  {BODY}\n}}\n", {"greet", "bye"}),
    "c": (
        f"#ifndef A_H\n#define A_H\nstatic int *find(const char *s)\n{{\n  {BODY}\n}}\n"
        "struct point {\n  int first, second, third, fourth;\n};\n#endif\n",
        {"find", "point"},
    ),
    "cpp": (
        f"namespace geo {{\nclass Shape {{\npublic:\n  int area() const {{\n    {BODY}\n  }}\n}};\n"
        f"template <typename T> T Vec<T>::dot(int o) {{\n  {BODY}\n}}\n}}\n",
        {"geo.Shape.area", "geo.Vec.dot"},
    ),
    "csharp": (
        f"namespace App\n{{\n  public class Foo : Bar\n  {{\n    public int Run(int a)\n"
        f"    {{\n      {BODY}\n    }}\n"
        "  }\n}\n",
        {"App.Foo.Run"},
    ),
    "go": (
        f"package main\n\n// Move moves.\nfunc (p *Point) Move(d int) {{\n  {BODY}\n}}\n\n"
        f"func main() {{\n  {BODY}\n}}\n",
        {"Point.Move", "main"},
    ),
    "java": (
        f"package x;\n/** Doc. */\npublic class Cat extends Animal {{\n  @Override\n"
        f"  public String say() {{\n    {BODY}\n  }}\n  Cat(int a) {{\n    {BODY}\n  }}\n}}\n",
        {"Cat.say", "Cat.Cat"},
    ),
    "javascript": (
        f"export const mul = (a, b) => {{\n  {BODY}\n}};\nclass Shape {{\n  area() {{\n    {BODY}\n  }}\n}}\n"
        f"Foo.prototype.run = function () {{\n  {BODY}\n}};\n",
        {"mul", "Shape.area", "Foo.prototype.run"},
    ),
    "kotlin": (
        f"class Cat(val age: Int) {{\n    fun say(a: Int): Int {{\n        {BODY}\n    }}\n}}\n\n"
        f"fun String.twice(): Int {{\n    {BODY}\n}}\n",
        {"Cat.say", "twice"},
    ),
    "lua": (
        f"local M = {{}}\nfunction M.go(x)\n  {BODY}\nend\nlocal function helper()\n  {BODY}\nend\n",
        {"M.go", "helper"},
    ),
    "php": (
        "<?php\nnamespace App;\nclass User extends Model\n{\n  public static function make(): self\n  {\n"
        "    $x = 1; $y = 2; $z = 3; $w = 4;\n  }\n}\n",
        {"User.make"},
    ),
    "python": (
        f'class Parser(Base):\n    """Parses."""\n\n    @property\n    def tree(self):\n        {BODY}\n\n'
        f"async def load(path):\n    {BODY}\n",
        {"Parser", "Parser.tree", "load"},
    ),
    "ruby": (
        f"module Geo\n  class Shape\n    def area(a)\n      {BODY}\n    end\n\n"
        f"    def self.make\n      {BODY}\n    end\n"
        "  end\nend\n",
        {"Geo.Shape.area", "Geo.Shape.make"},
    ),
    "rust": (
        f"/// Doc.\nimpl<T> Display for Point<T> {{\n"
        f"    fn fmt(&self) -> i32 {{\n        {BODY}\n    }}\n}}\n\n"
        f"pub async fn run() {{\n    {BODY}\n}}\n",
        {"Point.fmt", "run"},
    ),
    "scala": (
        f"object Main {{\n  def main(args: Array[String]): Unit = {{\n    {BODY}\n  }}\n}}\n",
        {"Main.main"},
    ),
    "swift": (
        f"struct Square: Shape {{\n  func area() -> Double {{\n    {BODY}\n  }}\n"
        f"  init(a: Double) {{\n    {BODY}\n  }}\n}}\n",
        {"Square.area", "Square.init"},
    ),
    "tsx": (
        f"export function App(props: Props) {{\n  {BODY}\n  return <div>{{props.a}}</div>;\n}}\n",
        {"App"},
    ),
    "typescript": (
        f"export abstract class Repo<T> {{\n  save(t: T): void {{\n    {BODY}\n  }}\n}}\n"
        f"const use = (a: number): number => {{\n  {BODY}\n}};\n",
        {"Repo.save", "use"},
    ),
}


@pytest.mark.parametrize("language", SAMPLES)
def test_symbols(language: str) -> None:
    text, wanted = SAMPLES[language]
    assert wanted <= {piece.locator.symbol for piece in chunks_of(text, language)}


PYTHON = '''import os
import sys

LIMIT = 10


class Parser(Base):
    """Reads a stream of words and builds a tree of them."""

    # Two lines
    # about parse.
    @cached
    def parse(self, text):
        """Parse it."""
        return self.tree(text) + self.tree(text) + self.tree(text)

    def one(self):
        return 1

    def two(self):
        return 2


def main():
    print(Parser().parse(sys.stdin.read()), file=sys.stderr, flush=True)
'''


def test_methods_come_with_comment_decorator_and_class() -> None:
    chunks = {piece.locator.symbol: piece for piece in chunks_of(PYTHON, "python", target=30)}
    method = chunks["Parser.parse"]
    assert method.text.startswith("    # Two lines\n    # about parse.\n    @cached\n    def parse")
    assert method.text.endswith("self.tree(text)")
    assert method.context == "class Parser(Base):"
    assert (method.locator.line_start, method.locator.line_end) == (10, 15)
    assert chunks["main"].context == ""


def test_small_neighbours_are_packed() -> None:
    chunks = chunks_of(PYTHON, "python", target=30)
    assert "Parser.one, Parser.two" in {piece.locator.symbol for piece in chunks}
    assert chunks[0].text == "import os\nimport sys\n\nLIMIT = 10"


def test_a_file_that_fits_is_not_cut_inside_a_class() -> None:
    chunks = chunks_of(PYTHON, "python", target=192)
    assert [piece.locator.symbol for piece in chunks][-2:] == ["Parser", "main"]


def test_a_long_function_is_cut_between_statements_below_its_signature() -> None:
    body = "".join(f"    if a > {n}:\n        call({n}, a)\n        other({n}, a)\n" for n in range(60))
    chunks = chunks_of(f"def long(\n    a,\n    b,\n):\n{body}", "python", max_tokens=200, target=60)
    assert len(chunks) > 5
    for piece in chunks[1:]:
        assert piece.context == "def long( a, b, ):"
        assert piece.locator.symbol == "long"
        assert piece.text.startswith("    if a > ")
        assert piece.text.rstrip().endswith(", a)")


@pytest.mark.parametrize("language", ["python", "cpp", "javascript", "rust", None])
def test_broken_code_keeps_all_its_lines(language: str | None) -> None:
    text = "class A {{{ ((( def f( x = [\n  fn g() -> {\n" * 40
    assert chunks_of(text, language, target=40)
    good = SAMPLES["javascript"][0]
    assert "Shape.area" in {p.locator.symbol for p in chunks_of("let = ((;\n\n" + good, "javascript")}


def test_languages_without_grammar_are_cut_at_blank_lines() -> None:
    part = "defmodule A{} do\n  def a(x) do\n    x + 1\n  end\nend\n"
    chunks = chunks_of("\n".join(part.format(n) for n in range(20)), "elixir", target=60)
    assert all(piece.text.startswith("defmodule") for piece in chunks)
    assert all(piece.locator.symbol is None for piece in chunks)


@pytest.mark.parametrize(
    ("language", "line", "times"),
    [
        ("python", "def f(a):\n    return [a, 1]\n\n\n", 6000),
        ("python", "    (1, 'two', 3.0),\n", 12000),
        ("javascript", "{\n", 60000),
        ("cpp", "class A {{{ ((( def f( x = [\n", 4000),
        ("json", '{"a": [1, 2, 3]},', 12000),
    ],
)
def test_large_files_take_linear_time(language: str, line: str, times: int) -> None:
    started = time.process_time()
    chunks_of(line * times, language, target=192)
    assert time.process_time() - started < 20
