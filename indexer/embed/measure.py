"""How fast a model is on this computer: measured once, remembered in the cache."""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import msgspec

from indexer.embed import Encoder
from indexer.embed.thread import CountsTokens
from indexer.settings import cache_dir, private_folder

MEASURES = "measures.json"

# Texts of our own, about as long and as mixed as the passages of a library.
PASSAGES = (
    "The heating in the hall was serviced in October. The engineer found the pump worn, replaced its seal "
    "and wrote down that the pressure should be looked at again before the first frost. The invoice came to "
    "two hundred and forty, of which the insurance pays half. Whoever has the key to the boiler room is "
    "asked to write the reading of the gauge into the notebook beside the door, every Monday, and to call "
    "the number on the cover if it falls below one. Last year's notebook is in the drawer under the stairs.",
    "Die Sitzung begann mit zehn Minuten Verspätung, weil der Schlüssel zum Saal fehlte. Beschlossen wurde, "
    "die Bäume am Bach erst nach der Brutzeit zu schneiden und das Holz an die Schule abzugeben. Frau Aydin "
    "legte den Entwurf für das neue Faltblatt vor; er soll bis Ende des Monats in drei Sprachen vorliegen. "
    "Über den Zuschuss für die Bücherei wird beim nächsten Mal abgestimmt, sobald die Angebote da sind.",
    "上周三我们去山里看了那座老桥。桥面的木板有几块已经松了,护栏也缺了一段,"
    "村里的人说每年春天涨水的时候都要重新加固。我们量了桥的长度和宽度,拍了照片,"
    "回来以后把数据整理成表格,发给了负责修缮的单位。他们答复说预算要等到明年三月才能批下来,"
    "在那之前只能先立一块警示牌,提醒过往的人注意安全,不要同时有太多人站在桥中间。",
    "def merge_intervals(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:\n"
    '    """Join spans that touch or overlap; the result is sorted and has no two that do."""\n'
    "    merged: list[tuple[int, int]] = []\n    for start, end in sorted(spans):\n"
    "        if merged and start <= merged[-1][1]:\n"
    "            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))\n"
    "        else:\n            merged.append((start, end))\n    return merged\n",
)
_WARM_UP = 1
_ENOUGH_S = 1.5
_MOST_ROUNDS = 50
# Where the encoder does not count: bytes of UTF-8 a token, over many languages; as in `thread`.
_BYTES_A_TOKEN = 4


class Measure(msgspec.Struct, frozen=True, kw_only=True):
    """A speed.

    Attributes:
        reference: What the model was chosen by.
        key: Of its vectors; see `EncoderInfo.key`.
        device: Where it ran.
        precision: What it computed in; empty where that is not known (a server).
        tokens_per_s: Of passages.
        at: When, in seconds since 1970.
    """

    reference: str
    key: str
    device: str
    precision: str
    tokens_per_s: float
    at: float


@runtime_checkable
class _HasPrecision(Protocol):
    @property
    def precision(self) -> str: ...


def measure(encoder: Encoder, *, seconds: float = _ENOUGH_S) -> float:
    """Embed fixed texts for about `seconds` after warming up, and say how many tokens a second that was.

    Args:
        encoder: Loaded; this thread must own it.
        seconds: How long to go on; at least one round is made whatever it takes.

    Returns:
        Tokens of passages a second, as the encoder counts them, else estimated from the bytes.
    """
    tokens = sum(_counts(encoder, PASSAGES))
    for _ in range(_WARM_UP):
        encoder.encode_passages(PASSAGES)
    rounds, begun = 0, time.perf_counter()
    while rounds == 0 or (rounds < _MOST_ROUNDS and time.perf_counter() - begun < seconds):
        encoder.encode_passages(PASSAGES)
        rounds += 1
    return rounds * tokens / max(1e-6, time.perf_counter() - begun)


def remember(encoder: Encoder, reference: str, tokens_per_s: float) -> Measure:
    """Note a speed in the cache, in place of an older one of the same key, device and precision."""
    precision = encoder.precision if isinstance(encoder, _HasPrecision) else ""
    measured = Measure(
        reference=reference,
        key=encoder.info.key,
        device=encoder.device,
        precision=precision,
        tokens_per_s=round(tokens_per_s, 1),
        at=time.time(),
    )
    same = (measured.key, measured.device, measured.precision)
    others = [one for one in _read() if (one.key, one.device, one.precision) != same]
    _write([*others, measured])
    return measured


def last_measured(reference: str) -> Measure | None:
    """The newest speed of a model on this computer, by what it is chosen by or by its key."""
    found = [one for one in _read() if reference in (one.reference, one.key)]
    return max(found, key=lambda one: one.at, default=None)


def _counts(encoder: Encoder, texts: Sequence[str]) -> list[int]:
    if isinstance(encoder, CountsTokens):
        return list(encoder.count_tokens(texts))
    return [max(1, len(text.encode()) // _BYTES_A_TOKEN) for text in texts]


def _read() -> list[Measure]:
    try:
        return msgspec.json.decode((cache_dir() / MEASURES).read_bytes(), type=list[Measure])
    except (OSError, msgspec.DecodeError):
        return []


def _write(measures: list[Measure]) -> None:
    folder = cache_dir()
    new = folder / f".{MEASURES}.{os.getpid()}.{secrets.token_hex(4)}"
    with contextlib.suppress(OSError):  # a speed that is not remembered is measured again
        private_folder(folder)
        new.write_bytes(msgspec.json.format(msgspec.json.encode(measures)))
        new.replace(folder / MEASURES)
