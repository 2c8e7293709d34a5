"""Libraries in mixed languages, and what is asked of them.

Every section of a book stands in the library once, in one language drawn at random, as plain text without its
title under a name that says nothing. It is asked for by its title, in the file's language and in another one.
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from tests.relevance.books import Section

Mode = Literal["same", "cross"]
QUESTIONS = "queries.jsonl"


@dataclass(frozen=True)
class Question:
    """What is asked, and the one file that answers it.

    Attributes:
        lang: Language of the query.
        file_lang: Language of the file.
        path: The file, relative to the library.
    """

    query: str
    lang: str
    file_lang: str
    path: str
    mode: Mode


def prepare(target: Path, content: str, make: Callable[[Path], list[Question]]) -> list[Question]:
    """Make a library, or leave the one that an earlier run made.

    Args:
        target: Its folder.
        content: Names what `make` would write; when it is another than before, the library is made anew.
        make: Writes the files below ``target/library``.

    Returns:
        What is asked.
    """
    stamp, questions = target / "content.txt", target / QUESTIONS
    if not (stamp.exists() and stamp.read_text(encoding="utf-8") == content):
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        made = make(target)
        lines = [json.dumps(asdict(question), ensure_ascii=False) + "\n" for question in made]
        questions.write_text("".join(lines), encoding="utf-8")
        stamp.write_text(content, encoding="utf-8")
    # Not by str.splitlines: a title may hold a character that it takes for the end of a line.
    with questions.open(encoding="utf-8", newline="\n") as found:
        return [Question(**json.loads(line)) for line in found]


def mixed(sections: Iterable[Section], target: Path, seed: int, limit: int = 0) -> list[Question]:
    """Write a library of mixed languages below ``target/library`` and its questions beside it.

    Args:
        sections: All sections of a book, in all languages.
        target: A folder; it is made.
        seed: Another seed draws another language for each section, and other questions.
        limit: At most this many sections; 0 for all.

    Returns:
        The questions, the one in the file's own language before the one in another.
    """
    versions: dict[str, dict[str, Section]] = defaultdict(dict)
    for section in sections:
        versions[section.id][section.lang] = section
    draw = random.Random(seed)
    ids = sorted(versions)
    draw.shuffle(ids)
    questions = []
    for name in ids[: limit or None]:
        # The order of these draws is the protocol: the same seed has to make the same library everywhere.
        lang = draw.choice(sorted(versions[name]))
        path = _write(target, f"{seed}:{name}", versions[name][lang])
        questions.append(Question(versions[name][lang].title, lang, lang, path, "same"))
        others = sorted(set(versions[name]) - {lang})
        if others:
            other = draw.choice(others)
            questions.append(Question(versions[name][other].title, other, lang, path, "cross"))
    return questions


def single(sections: Iterable[Section], target: Path, lang: str, limit: int = 0) -> list[Question]:
    """Write a library of one language only, to be asked in that language."""
    return [
        Question(section.title, lang, lang, _write(target, f"{lang}:{section.id}", section), "same")
        for section in sorted(
            (section for section in sections if section.lang == lang), key=lambda section: section.id
        )[: limit or None]
    ]


def _write(target: Path, key: str, section: Section) -> str:
    name = hashlib.sha1(key.encode()).hexdigest()[:12] + ".txt"
    path = f"{name[0]}/{name}"
    file = target / "library" / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(section.body + "\n", encoding="utf-8")
    return path
