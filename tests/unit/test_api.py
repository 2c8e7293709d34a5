"""The codec: what is sent arrives equal, and nothing that arrives can do more than be refused."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer import api
from indexer.settings import Settings

PASSAGE = api.Passage(
    chunk=7,
    text="Die Heizung\nentlüften. 暖气排气。",
    start=120,
    locator=api.Locator(page=3, rects=(api.Rect(x0=1, y0=2.5, x1=3, y1=4),), heading=("A", "B")),
    lang="de",
    why=api.Why(cosine=0.87, meaning=0.87),
    similarity=0.57,
    mark=(0, 11),
)
HIT = api.Hit(path="/a/b.pdf", root="/a", media="pdf", title="T", similarity=0.57, passages=(PASSAGE,))


@pytest.mark.parametrize(
    "message",
    [
        api.SearchResult(id=3, hits=(HIT,), final=True, took_ms=12.5),
        api.Preview(id=4, path="/a", media="pdf", png=bytes(range(256)), page=2, pages=9),
        api.Failed(id=0, title="t", message="m\n\u2028x"),
        api.SettingsReply(id=1, settings=Settings(ignore=("*.log",), paused=True)),
        api.Folders(
            id=1,
            folders=(api.Folder(path="/x", online=False, files=1, chunks=2, bytes=3, waiting=0, problems=0),),
        ),
    ],
)
def test_a_reply_arrives_equal_and_on_one_line(message: api.Reply) -> None:
    line = api.encode(message)
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert api.decode_reply(line) == message


@given(query=st.text(), limit=st.integers(-(2**62), 2**62), folders=st.lists(st.text()))
def test_a_search_arrives_equal_whatever_is_typed(query: str, limit: int, folders: list[str]) -> None:
    request = api.Search(id=1, query=query, limit=limit, folders=tuple(folders))
    received = api.decode_request(api.encode(request))
    if not any(0xD800 <= ord(c) <= 0xDFFF for c in query + "".join(folders)):
        assert received == request


@given(st.binary(min_size=1, max_size=40))
def test_any_file_name_travels(name: bytes) -> None:
    path = "/folder/" + name.decode("utf-8", "surrogateescape")
    reply = api.Preview(id=1, path=path, media="pdf", png=b"\x89PNG")
    received = api.decode_reply(api.encode(reply))
    assert isinstance(received, api.Preview)
    if not any(0xF780 <= ord(c) <= 0xF7FF for c in path):
        assert api.local_path(received.path) == path
    assert received.png == reply.png


@given(st.binary(max_size=300))
def test_garbage_is_refused_with_a_value_error(line: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  (every kind of refusal is one)
        api.decode_request(line)


@pytest.mark.parametrize(
    "line",
    [
        b'{"type":"Search","id":"1","query":"x"}',
        b'{"type":"Search","id":1}',
        b'{"type":"Nonsense","id":1}',
        b'{"type":"Welcome","version":1,"pid":1,"release":"x"}',
        b'{"type":"Search","id":1,"query":"x"} trailing',
    ],
)
def test_messages_of_the_wrong_shape_are_refused(line: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        api.decode_request(line)


def test_a_place_is_described_in_a_few_words() -> None:
    assert api.Locator(page=3, heading=("A", "B")).describe() == "page 3, A › B"
    assert api.Locator(line_start=4, line_end=9, symbol="f").describe() == "lines 4-9, f"
    assert api.Locator(line_start=4, line_end=4).describe() == "line 4"
    assert api.Locator().describe() == ""


def test_importing_the_doors_imports_nothing_heavy() -> None:
    heavy = ("torch", "transformers", "chromadb", "pymupdf", "lxml", "numpy", "PySide6", "tokenizers", "apsw")
    code = (
        "import sys, indexer, indexer.api, indexer.client, indexer.settings, indexer.cli\n"
        f"print([m for m in {heavy} if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
