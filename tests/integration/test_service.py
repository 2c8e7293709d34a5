"""The whole way through real processes, the real model and real Chroma, as a user's programs go it."""

import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import psutil
import pytest

from indexer import api
from indexer.client import ENDPOINT_FILE, IndexerClient, ensure_service, find_service
from indexer.errors import FatalError, IndexerError

TEXTS = {
    "en/boiler.md": "# Boiler\n\nIf the radiators stay cold, bleed the air out with the small brass key.\n",
    "de/kaffee.txt": "Die Kaffeemaschine muss alle drei Monate mit Zitronensäure entkalkt werden.\n",
    "zh/猫.md": "# 猫\n\n我们的猫每年春天都要去兽医那里打疫苗。\n",
    "fr/train.txt": "Le train de nuit pour Vienne part de Paris à dix-neuf heures douze.\n",
    "code/stats.py": (
        "def standard_deviation(values):\n"
        "    mean = sum(values) / len(values)\n"
        "    return (sum((v - mean) ** 2 for v in values) / len(values)) ** 0.5\n"
    ),
}


def until(client: IndexerClient, wanted: int) -> api.Status:
    """Wait until the library holds `wanted` files and rests."""
    for status in client.watch():
        assert not status.notices, status.notices
        if status.state == "watching" and status.files == wanted:
            return status
    raise AssertionError("the service went away")


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """A data folder with a running service, and the folder it has indexed."""
    base = tmp_path_factory.mktemp("service")
    files = base / "files"
    for name, text in TEXTS.items():
        (files / name).parent.mkdir(parents=True, exist_ok=True)
        (files / name).write_text(text, encoding="utf-8")
    (files / "broken.pdf").write_bytes(b"%PDF-1.7\nthis is no PDF\n")
    data = base / "data"
    with IndexerClient(data) as client:
        client.add_folder(files)
    with IndexerClient(data) as client:
        until(client, len(TEXTS))
    yield data, files
    with IndexerClient(data, start=False) as client:
        client.stop()


@pytest.fixture
def client(library: tuple[Path, Path]) -> Iterator[IndexerClient]:
    with IndexerClient(library[0], start=False) as client:
        yield client


@pytest.mark.parametrize(
    ("question", "name"),
    [
        ("暖气不热怎么办", "en/boiler.md"),
        ("咖啡机多久除一次垢?", "de/kaffee.txt"),
        ("La chaudière chauffe mais les radiateurs restent froids", "en/boiler.md"),
        ("When does the cat get its vaccination?", "zh/猫.md"),
        ("Wann fährt der Nachtzug nach Österreich?", "fr/train.txt"),
        ("function that measures how much numbers spread", "code/stats.py"),
    ],
)
def test_a_question_in_one_language_finds_the_file_in_another(
    library: tuple[Path, Path], client: IndexerClient, question: str, name: str
) -> None:
    result = client.search(question, limit=5)
    assert Path(result.hits[0].path) == library[1] / name
    passage = result.hits[0].passages[0]
    assert 0 < passage.similarity <= 1
    assert passage.why.meaning > 0.1
    assert passage.text in TEXTS[name]
    if passage.lang != "code":
        assert passage.lang == name.split("/")[0]
        assert passage.mark is not None
        assert passage.text[slice(*passage.mark)].strip()


def test_a_search_can_be_kept_below_a_folder(library: tuple[Path, Path], client: IndexerClient) -> None:
    result = client.search("cat", folders=(str(library[1] / "de"),))
    assert [Path(hit.path).name for hit in result.hits] == ["kaffee.txt"]


def test_an_empty_question_has_an_empty_answer(client: IndexerClient) -> None:
    assert client.search("   ").hits == ()


def test_filters_are_completed_from_what_the_library_holds(client: IndexerClient) -> None:
    def offered(text: str) -> dict[str, str]:
        found = client.complete(text)
        return {text[: found.start] + item.insert + text[found.end :]: item.detail for item in found.items}

    assert offered("cat ext:t") == {"cat ext:txt": "2 files"}
    assert offered("type:python") == {"type:python": "1 file"}
    assert list(offered("lang:中")) == ["lang:zh"]
    assert offered("in:de") == {"in:de": "1 file"}
    assert offered("cat") == {}


def test_what_cannot_be_read_is_listed_with_its_reason(client: IndexerClient) -> None:
    problems = client.problems().problems
    assert [Path(problem.path).name for problem in problems] == ["broken.pdf"]
    assert problems[0].title
    assert problems[0].message


def test_changes_are_seen_while_it_runs(library: tuple[Path, Path]) -> None:
    _, files = library
    new = files / "es" / "paella.txt"
    new.parent.mkdir()
    new.write_text("La paella de verdad no lleva chorizo, sino conejo y garrofón.\n", encoding="utf-8")
    with IndexerClient(library[0]) as watching:
        until(watching, len(TEXTS) + 1)
    with IndexerClient(library[0]) as asking:
        hits = asking.search("Which meat belongs in paella?").hits
        assert Path(hits[0].path) == new
    renamed = new.with_name("arroz.txt")
    before = _tokens(library[0])
    new.rename(renamed)
    with IndexerClient(library[0]) as asking:
        paths: list[str] = []
        while str(renamed) not in paths or str(new) in paths:
            paths = [hit.path for hit in asking.search("paella", mark=False).hits]
    assert before[1] == _tokens(library[0])[1], "the same passages, under the new name"
    renamed.unlink()
    with IndexerClient(library[0]) as watching:
        until(watching, len(TEXTS))


def _tokens(data: Path) -> tuple[int, int]:
    with IndexerClient(data) as client:
        status = client.status()
        return status.files, status.chunks


def test_a_preview_holds_the_passage(library: tuple[Path, Path], client: IndexerClient) -> None:
    passage = client.search("radiator").hits[0].passages[0]
    path = str(library[1] / "en/boiler.md")
    preview = client.preview(path, start=passage.start, end=passage.start + len(passage.text))
    assert preview.text[preview.start : preview.end] == passage.text
    assert preview.media == "markdown"


def test_a_preview_of_a_file_outside_the_library_is_refused(client: IndexerClient) -> None:
    with pytest.raises(IndexerError, match="Not in the library"):
        client.preview("/etc/passwd")


def test_a_folder_inside_another_is_refused_with_words(
    library: tuple[Path, Path], client: IndexerClient
) -> None:
    with pytest.raises(IndexerError, match="Already in the library"):
        client.add_folder(library[1] / "de")
    with pytest.raises(IndexerError, match="No such folder"):
        client.add_folder(library[1] / "nowhere")


def test_pausing_is_remembered_in_the_settings(client: IndexerClient) -> None:
    client.set_paused(True)
    assert client.status().state == "paused"
    assert client.settings().paused
    client.set_paused(False)
    assert client.status().state != "paused"


def test_a_newer_search_on_a_channel_supersedes_the_older(library: tuple[Path, Path]) -> None:
    endpoint = ensure_service(library[0])
    with socket.socket(socket.AF_UNIX) as raw:
        raw.settimeout(30)
        raw.connect(endpoint.address)
        hello = api.Hello(key=endpoint.key, version=api.PROTOCOL_VERSION)
        searches = [api.Search(id=n, query=f"question {n}", channel="w") for n in range(1, 21)]
        raw.sendall(api.encode(hello) + b"".join(map(api.encode, searches)))
        answers: list[api.Reply] = []
        with raw.makefile("rb") as lines:
            for line in lines:
                answers.append(api.decode_reply(line))
                last = answers[-1]
                if isinstance(last, api.SearchResult) and last.final and last.id == 20:
                    break
    cancelled = [a for a in answers if isinstance(a, api.Failed)]
    assert cancelled
    assert all(a.title == "Cancelled" for a in cancelled)
    finals = [a.id for a in answers if isinstance(a, api.SearchResult) and a.final]
    assert sorted([*finals, *(a.id for a in cancelled)]) == list(range(1, 21))


@pytest.mark.parametrize("key", ["", "wrong", "ключ"])
def test_a_wrong_key_is_refused(library: tuple[Path, Path], key: str) -> None:
    endpoint = ensure_service(library[0])
    with socket.socket(socket.AF_UNIX) as raw:
        raw.settimeout(30)
        raw.connect(endpoint.address)
        raw.sendall(api.encode(api.Hello(key=key, version=api.PROTOCOL_VERSION)))
        with raw.makefile("rb") as lines:
            refusal = api.decode_reply(lines.readline())
            assert isinstance(refusal, api.Failed)
            assert lines.readline() == b""


def test_the_endpoint_is_for_its_owner_only(library: tuple[Path, Path]) -> None:
    file = library[0] / ENDPOINT_FILE
    assert file.stat().st_mode & 0o077 == 0
    address = Path(json.loads(file.read_text(encoding="utf-8"))["address"])
    assert address.stat().st_mode & 0o077 == 0
    assert address.parent.stat().st_mode & 0o077 == 0


def dragoman(data: Path, *words: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "indexer.cli", *words, "--data-dir", str(data)]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=120, check=False)


def test_the_command_line_answers_in_json(library: tuple[Path, Path], tmp_path: Path) -> None:
    one = dragoman(library[0], "search", "喝咖啡的机器怎么保养", "--json", "--limit", "2")
    assert one.returncode == 0, one.stderr
    hits = json.loads(one.stdout)
    assert len(hits) == 2
    assert hits[0]["path"] == str(library[1] / "de/kaffee.txt")
    assert {"path", "similarity", "locator", "lang", "text"} <= hits[0].keys()
    questions = tmp_path / "questions.txt"
    questions.write_text("cat\n\nnight train to Austria\n", encoding="utf-8")
    many = dragoman(library[0], "search", "--batch", str(questions), "--json")
    rows = [json.loads(line) for line in many.stdout.splitlines()]
    assert [bool(row) for row in rows] == [True, False, True]
    assert rows[2][0]["path"] == str(library[1] / "fr/train.txt")


def test_the_command_line_finds_what_is_similar(library: tuple[Path, Path]) -> None:
    data, files = library
    like = dragoman(data, "similar", str(files / "zh/猫.md"), "--why", "--limit", "2")
    assert like.returncode == 0, like.stderr
    assert "猫.md" not in like.stdout
    assert like.stdout.count("meaning ") == 2
    narrowed = dragoman(data, "similar", str(files / "zh/猫.md"), "lang:fr", "--json")
    assert [hit["path"] for hit in json.loads(narrowed.stdout)] == [str(files / "fr/train.txt")]
    text = "Our cat has to go to the vet for its vaccination. " * 300
    pasted = dragoman(data, "similar", "-", "--json", "--limit", "1", stdin=text)
    assert [hit["path"] for hit in json.loads(pasted.stdout)] == [str(files / "zh/猫.md")]
    for nothing, told in (("", "The text is empty"), ("x" * 2_000_000, "too long")):
        refused = dragoman(data, "similar", "-", stdin=nothing)
        assert refused.returncode == 1
        assert told in refused.stderr
    assert "not in the index" in dragoman(data, "similar", str(files / "nowhere")).stderr


def test_the_command_line_speaks_to_people(library: tuple[Path, Path]) -> None:
    found = dragoman(library[0], "search", "descale")
    lines = [line for line in found.stdout.splitlines() if str(library[1]) in line]
    assert "kaffee.txt" in lines[0]
    assert re.match(r" *1 +\d+  ", lines[0]), "its place and its similarity of 100"
    assert "broken.pdf" in dragoman(library[0], "problems").stdout
    assert str(library[1]) in dragoman(library[0], "folders").stdout.replace("\n", "")
    assert json.loads(dragoman(library[0], "status", "--json").stdout)["files"] == len(TEXTS)
    missing = dragoman(library[0], "index", str(library[1] / "nowhere"))
    assert missing.returncode == 1
    assert "No such folder" in missing.stderr
    assert dragoman(library[0], "search").returncode == 2


def test_removing_a_folder_forgets_it_and_leaves_the_files(tmp_path: Path) -> None:
    files = tmp_path / "files"
    files.mkdir()
    (files / "a.txt").write_text("The lighthouse keeper counts ships.\n", encoding="utf-8")
    data = tmp_path / "data"
    try:
        waited = dragoman(data, "index", str(files), "--wait")
        assert waited.returncode == 0, waited.stderr
        assert dragoman(data, "remove", str(files)).returncode == 0
        assert json.loads(dragoman(data, "search", "lighthouse", "--json").stdout) == []
        assert (files / "a.txt").exists()
        assert dragoman(data, "remove", str(files)).returncode == 1
    finally:
        dragoman(data, "stop")
    assert find_service(data) is None


def test_a_killed_service_is_started_again_with_everything_it_had(tmp_path: Path) -> None:
    files = tmp_path / "files"
    files.mkdir()
    (files / "a.txt").write_text("The lighthouse keeper counts ships.\n", encoding="utf-8")
    data = tmp_path / "data"
    with IndexerClient(data) as client:
        client.add_folder(files)
        until(client, 1)
        children = psutil.Process(client.pid).children(recursive=True)
        os.kill(client.pid, signal.SIGKILL)
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive, "children end with their service"
    try:
        with IndexerClient(data) as client:
            assert Path(client.search("ships at sea").hits[0].path) == files / "a.txt"
    finally:
        dragoman(data, "stop")


def test_a_broken_settings_file_is_named_at_start(tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_text("max_file_mb = 'much'", encoding="utf-8")
    with pytest.raises(FatalError) as caught:
        ensure_service(tmp_path)
    assert "settings.toml" in caught.value.message


def test_two_starters_get_one_service(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from indexer.client import IndexerClient\n"
        "print(IndexerClient(pathlib.Path(sys.argv[1])).pid)"
    )
    starters = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    try:
        pids = {starter.communicate(timeout=90)[0].strip() for starter in starters}
        assert len(pids) == 1
        assert pids != {""}
    finally:
        dragoman(tmp_path, "stop")


def test_a_client_that_comes_while_the_service_ends_gets_a_new_one(tmp_path: Path) -> None:
    """The ending service holds the lock and listens no more; the starter must not wait for it in vain."""
    lock = (tmp_path / "service.lock").open("w", encoding="utf-8")
    fcntl.flock(lock, fcntl.LOCK_EX)
    code = (
        "import sys, pathlib; from indexer.client import IndexerClient\n"
        "print(IndexerClient(pathlib.Path(sys.argv[1])).pid)"
    )
    out = log_of(tmp_path)
    starter = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        # The first one it starts has stood back when that is a child no more.
        children: list[psutil.Process] = []
        while not children:
            children = psutil.Process(starter.pid).children()
        psutil.wait_procs(children, timeout=30)
        assert not out.exists(), "one that stands back leaves the logs alone"
        lock.close()
        assert starter.communicate(timeout=60)[0].strip().isdigit()
    finally:
        starter.kill()
        dragoman(tmp_path, "stop")


def log_of(data: Path) -> Path:
    return data / "logs" / "service.log"


def test_files_skipped_for_their_size_are_read_when_the_limit_is_raised(
    library: tuple[Path, Path], client: IndexerClient
) -> None:
    before = client.settings()
    client.put_settings(msgspec.structs.replace(before, max_file_mb=1))
    large = library[1] / "large.txt"
    large.write_text(
        "\n" * (1 << 20) + "The observatory on the hill measures earthquakes.\n", encoding="utf-8"
    )
    try:
        while large.name not in {Path(p.path).name for p in client.problems().problems}:
            pass
        client.put_settings(before)
        with IndexerClient(library[0]) as watching:
            until(watching, len(TEXTS) + 1)
        assert Path(client.search("seismology").hits[0].path) == large
    finally:
        large.unlink()
    with IndexerClient(library[0]) as watching:
        until(watching, len(TEXTS))


def test_the_logs_hold_neither_paths_nor_questions(library: tuple[Path, Path]) -> None:
    text = "".join(file.read_text(encoding="utf-8") for file in log_of(library[0]).parent.iterdir())
    assert "begins" in text
    for secret in (str(library[1]), "kaffee", "radiator", "vaccination", "paella", "咖啡"):
        assert secret not in text
