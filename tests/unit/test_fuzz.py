"""A short run of each fuzzer, and what longer ones have found."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from indexer import api, settings
from indexer.errors import FatalError
from tests.fuzz import grammar, messages, readers


def test_messages() -> None:
    figures = asyncio.run(messages.run(12_000, 7, 10, tell=lambda _: None))
    assert figures.findings == []
    assert figures.by_socket > 50
    for name in figures.thrown:
        assert figures.understood[name] > 50, name  # not all is noise


def test_a_decoder_that_lets_something_through_is_found() -> None:
    def careless(data: bytes) -> object:
        return api.decode_request(data) if data.isascii() else data.decode().index("never there")

    def broken(data: bytes) -> object:
        raise KeyError(data)

    figures = messages.Figures()
    target = next(target for target in messages.targets() if target.name == "request")
    target.decode = broken
    messages.throw(target, b"{}", figures)
    target.decode = careless
    messages.throw(target, b'{"type":"GetStatus","id":1}', figures)
    assert [finding.split(":")[1] for finding in figures.findings] == [" KeyError"]


def test_queries() -> None:
    figures = grammar.run(1_500, 7)
    assert figures.findings == []
    assert figures.with_problems > 100


def test_readers() -> None:
    figures = readers.run(100, 7)
    assert figures.findings == []
    assert all(figures.read.values())


@pytest.mark.parametrize("deep", ['{"type":"GetStatus","id":1,"x":' + "[" * 50_000, "[" * 50_000])
def test_what_is_nested_too_deeply_is_no_message(deep: str) -> None:
    for decode in (api.decode_request, api.decode_reply):
        with pytest.raises(ValueError):  # noqa: PT011
            decode(deep.encode())
    assert api.request_id(deep.encode()) == 0


def test_settings_nested_too_deeply_are_told(tmp_path: Path) -> None:
    (tmp_path / settings.SETTINGS_FILE).write_text("ignore = " + "[" * 3_000, encoding="utf-8")
    with pytest.raises(FatalError, match="cannot be read"):
        settings.load(tmp_path)
