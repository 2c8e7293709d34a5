"""What the command line makes of hostile names, passages and question files."""

import io
import json
import sys
from pathlib import Path

import pytest

from indexer import cli
from indexer.api import Hit, Locator, Passage, QueryProblem, SearchResult, Why, encode
from indexer.errors import IndexerError


def result(path: str, text: str, heading: str) -> SearchResult:
    passage = Passage(
        chunk=1,
        text=text,
        start=0,
        locator=Locator(heading=(heading,)),
        lang="en",
        why=Why(cosine=0.5, meaning=0.5),
        similarity=0.5,
        mark=(0, 3),
    )
    hit = Hit(path=path, root="/", media="text", title="", similarity=0.5, passages=(passage,))
    return SearchResult(id=1, hits=(hit,), final=True, took_ms=1.0)


def test_nothing_that_a_file_says_steers_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    nasty = "\x1b]0;owned\x07\x9b31m\x00\u202e"
    cli._print_hits(result(f"/a{nasty}\n 1  99 % /fake", f"text{nasty}[red]markup[/]", f"head{nasty}\n"))
    shown = capsys.readouterr().out
    assert not set("\x1b\x07\x9b\x00\u202e") & set(shown)
    assert "[red]markup[/]" in shown
    assert [line for line in shown.splitlines() if "/fake" in line] == shown.splitlines()[:1]


def test_names_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    cli._console().print(cli._safe("server:m: [bold]x[/bold] :smile:"))
    assert capsys.readouterr().out == "server:m: [bold]x[/bold] :smile:\n"


@pytest.mark.parametrize("source", ["file", "-"])
def test_every_line_of_a_batch_is_one_question(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    content = b"\xef\xbb\xbfcat\r\n\none\xe2\x80\xa8two\x0cthree\n\xff\xfe\nlast"
    file = tmp_path / "questions"
    file.write_bytes(content)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    questions = list(cli._lines(Path("-") if source == "-" else file))
    assert questions == ["cat", "", "one\u2028two\x0cthree", "\ufffd\ufffd", "last"]


def test_questions_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(IndexerError, match="nowhere"):
        list(cli._lines(tmp_path / "nowhere"))


@pytest.mark.parametrize("name", ["plain", "new\nline", "猫", "broken\udcff"])
def test_json_names_the_file_as_it_is_on_the_disk(name: str) -> None:
    """`name` as Python has it; a client gets it as it travels."""
    wire = json.loads(encode(result(f"/{name}", "\x00text\u2028", "head")))["hits"][0]["path"]
    text = cli._json([cli._hit_json(result(wire, "\x00text\u2028", "head").hits[0])])
    assert json.loads(text.encode())[0]["path"] == f"/{name}"
    assert "\n" not in text


def test_what_was_not_understood_is_told_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    query = "x lang:\x1b[31mxx"
    cli._print_problems(query, [QueryProblem(start=7, end=len(query), message="there is no such language")])
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "\ufffd[31mxx: there is no such language\n"
