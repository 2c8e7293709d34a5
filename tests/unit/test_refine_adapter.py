"""The second stage of training the adapter: its texts, what a step learns from, and the arithmetic."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def books(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "packaging"))
    return importlib.import_module("adapter_books")


@pytest.fixture
def refining(books: ModuleType) -> ModuleType:
    return importlib.import_module("refine_adapter")


def test_a_handbook_gives_sections_by_their_ids(books: ModuleType) -> None:
    page = """<?xml version="1.0" ?>
<!DOCTYPE book PUBLIC "-//KDE//DTD DocBook XML V4.5//EN" "dtd/kdedbx45.dtd" [ <!ENTITY % German "INCLUDE"> ]>
<book><chapter id="start"><title>&kate; starten</title><para>Öffnen Sie &kate; über das Menü.</para>
<itemizedlist><listitem><para>Oder mit der Befehlszeile &amp; einer Datei.</para></listitem></itemizedlist>
<screen>kate datei</screen>
<sect1 id="tabs"><title>Unterfenster</title><para>Jedes Dokument hat eins.</para></sect1>
<sect1><title>Ohne Namen</title><para>Findet man in keiner anderen Sprache.</para></sect1></chapter></book>"""
    found = {
        name: (text.title, [p for _, p in text.paragraphs]) for name, text in books.handbook(page.encode())
    }
    assert found == {
        "start": (
            "kate starten",
            ["Öffnen Sie kate über das Menü.", "Oder mit der Befehlszeile & einer Datei."],
        ),
        "tabs": ("Unterfenster", ["Jedes Dokument hat eins."]),
    }


def test_headings_lose_their_numbers(books: ModuleType) -> None:
    page = "<p>Navigation ohne Überschrift</p><h2 class='title'><a id='x'></a>2.1. Ebenen</h2><p>kurz</p>"
    page += "<p>Eine Ebene liegt über der anderen.</p><h3>Kein Titel</h3><h3 class='title'>B.2. Masken</h3>"
    found = [(text.title, text.paragraphs) for text in books.headed(page.encode())]
    assert found == [("Ebenen", (("0", "Eine Ebene liegt über der anderen."),)), ("Masken", ())]


def test_pages_that_differ_in_their_headings_are_not_matched(books: ModuleType, tmp_path: Path) -> None:
    title = "<h2 class='title'>{}</h2><p>{} has something to say.</p>"
    pages = {"en": ["One", "Two"], "de": ["Eins", "Zwei"], "fr": ["Un"], "it": ["One", "Two"]}
    for lang, titles in pages.items():
        folder = tmp_path / "usr/share/gimp/2.0/help" / lang
        folder.mkdir(parents=True)
        (folder / "a.html").write_text("".join(title.format(t, t) for t in titles), encoding="utf-8")
    found = list(books._joined("gimp", tmp_path / "usr/share/gimp/2.0/help", books._gimp_folder))
    headings = [{lang: text.title for lang, text in section.texts.items()} for section in found]
    # French has other headings, and the Italian page was not translated.
    assert headings == [{"en": "One", "de": "Eins"}, {"en": "Two", "de": "Zwei"}]


def _record(package: str, lang: str, title: str, *lines: str) -> str:
    body = "\n".join(f" {line}" for line in lines)
    return f"Package: {package}\nDescription-md5: 1\nDescription-{lang}: {title}\n{body}"


def test_descriptions_are_sections_once_each(books: ModuleType) -> None:
    text = ("It draws stars", "and planets.", ".", "Also the moon, and more.")
    english = [
        _record("stars", "en", "sky chart", *text),
        _record("stars-data", "en", "sky chart", *text),
        _record("debian-reference", "en", "guide to the system", "It is what search is measured on."),
    ]
    german = [
        _record("stars", "de", "Sternkarte", "Zeichnet Sterne", "und Planeten."),
        _record("stars-data", "de", "Sternkarte", "Zeichnet Sterne", "und Planeten."),
        _record("debian-reference", "de", "Handbuch", "Daran wird die Suche gemessen."),
    ]
    japanese = [_record("stars", "ja", "星図", "恒星と惑星を描画", "する天文ソフトウェアです。")]
    (section,) = books.described(
        {"en": "\n\n".join(english), "de": "\n\n".join(german), "ja": "\n\n".join(japanese)}
    )
    assert (section.source, section.page) == ("ddtp", "stars")
    assert {lang: (text.title, text.paragraphs[0][1]) for lang, text in section.texts.items()} == {
        "en": ("sky chart", "It draws stars and planets."),
        "de": ("Sternkarte", "Zeichnet Sterne und Planeten."),
        "ja": ("星図", "恒星と惑星を描画する天文ソフトウェアです。"),
    }


def test_what_overlaps_the_measured_books_is_left_out(books: ModuleType) -> None:
    def section(page: str, **texts: str) -> object:
        return books.Section(
            "kde", page, "", {lang: books._numbered("", [text]) for lang, text in texts.items()}
        )

    told = "the package manager keeps a list of everything that was ever installed on this machine"
    chinese = "软件包管理器保存着这台机器上曾经安装过的所有软件包的列表以及它们的版本"
    found = [
        section("copied", en="Something else entirely.", de=f"And then {told}, it says."),
        section("chinese", zh=f"另外，{chinese}。"),
        section("near", en="the package manager keeps a list of pictures that somebody drew by hand"),
    ]
    measured = books.runs(told, "de") | books.runs(chinese, "zh-cn")
    kept, dropped = books.without(found, measured)
    assert [one.page for one in kept] == ["near"]
    assert dropped == {"kde": 2}


def _sections(books: ModuleType, count: int) -> list[object]:
    return [
        books.Section(
            source,
            f"{source}{number}",
            "",
            {
                lang: books._numbered(
                    f"{lang} title of {number}", [f"{lang} text {number}.{at}. " * 6 for at in range(4)]
                )
                for lang in ("en", "de", "ja", "fr", "xx")
            },
        )
        for source in ("man", "lo", "kde", "ddtp")
        for number in range(count)
    ]


def test_questions_are_answered_and_come_again(books: ModuleType, refining: ModuleType) -> None:
    found = _sections(books, 80)
    options = refining.Options(seed=5, sections=50)
    items = refining.Items(found, options)
    batch = items.batch(0)
    assert len({item.topic for item in batch}) == len(batch) == 50
    for item in batch:
        number = "".join(filter(str.isdigit, item.topic))
        passage, answered = item.passage
        assert f"{answered} text {number}." in passage
        languages = [lang for _, lang in item.questions]
        assert len(set(languages)) == len(languages) <= options.questions
        for question, lang in item.questions:
            assert question.startswith(f"{lang} t")
            assert f" {number}" in question
            assert lang != "xx"
    own = [any(lang == item.passage[1] for _, lang in item.questions) for item in batch]
    assert 0.1 < np.mean(own) < 0.6
    again = refining.Items(found, options)
    assert again.batch(1) != batch
    assert again.batch(0) == batch, "whatever was drawn before"
    assert refining.Items(found, refining.Options(seed=6, sections=50)).batch(0) != batch


def test_joined_adapters_do_what_both_do(refining: ModuleType) -> None:
    draw = np.random.default_rng(1)

    def factors(rank: int) -> tuple[np.ndarray, np.ndarray]:
        return draw.normal(size=(rank, 6)).astype(np.float32), draw.normal(size=(4, rank)).astype(np.float32)

    first, second = {"both": factors(2)}, {"both": factors(3), "new": factors(3)}
    joined = refining.join(first, second, 0.5)
    sums = {name: b @ a for name, (a, b) in joined.items()}
    (a, b), (c, d) = first["both"], second["both"]
    np.testing.assert_allclose(sums["both"], b @ a + 0.5 * d @ c, rtol=1e-5, atol=1e-5)
    a, b = second["new"]
    np.testing.assert_allclose(sums["new"], 0.5 * b @ a, rtol=1e-5, atol=1e-5)


@pytest.fixture
def networks(books: ModuleType) -> ModuleType:
    return importlib.import_module("adapter_network")


@pytest.mark.parametrize("rank", [2, -1])
def test_a_changed_matrix_has_the_gradients_of_its_change(networks: ModuleType, rank: int) -> None:
    import torch

    torch.manual_seed(3)
    changed = networks.changed_matrix()(torch.randn(8, 6), torch.randn(8).bfloat16(), rank)
    with torch.no_grad():
        changed.learnt[-1].normal_()
    changed.merge(True)
    inputs = torch.randn(5, 3, 6).bfloat16().requires_grad_()
    (changed(inputs) ** 2).sum().backward()
    plain = inputs.detach().float().requires_grad_()
    learnt = [one.detach().requires_grad_() for one in changed.learnt]
    change = learnt[0] if rank < 0 else learnt[1] @ learnt[0]
    outputs = torch.nn.functional.linear(plain, changed.first + change, changed._bias.float())
    (outputs**2).sum().backward()  # type: ignore[no-untyped-call]
    for ours, theirs in [(inputs, plain), *zip(changed.learnt, learnt, strict=True)]:
        assert ours.grad is not None
        assert theirs.grad is not None
        error = (ours.grad.float() - theirs.grad).norm() / theirs.grad.norm()
        assert error < 0.02, "no more than what bfloat16 rounds"
    changed.merge(False)
    assert torch.equal(changed.weight, changed.first.bfloat16())


SMALL = {"num_attention_heads": 2, "layer_norm_eps": 1e-12, "num_hidden_layers": 3}


def _weights(draw: np.random.Generator) -> dict[str, np.ndarray]:
    """Of a tiny encoder, under the names and with the parts that transformers' BertModel has."""
    from transformers import BertConfig, BertModel

    model = BertModel(_config(BertConfig), add_pooling_layer=False)
    return {
        name: parameter.detach().numpy() + draw.normal(0, 0.2, parameter.shape).astype(np.float32)
        for name, parameter in model.state_dict().items()
    }


def _config(config: Callable[..., Any]) -> Any:
    return config(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=20,
        layer_norm_eps=1e-12,
    )


def _factors(draw: np.random.Generator, rank: int = 2) -> tuple[np.ndarray, np.ndarray]:
    return draw.normal(size=(rank, 24)).astype(np.float32), draw.normal(size=(16, rank)).astype(np.float32)


def test_the_network_gives_the_vectors_of_transformers(refining: ModuleType, networks: ModuleType) -> None:
    import torch
    from transformers import BertConfig, BertModel

    from indexer.embed.adapter import Adapter, pack

    draw = np.random.default_rng(4)
    weights, (a, b) = _weights(draw), _factors(draw)
    name = "encoder.layer.2.output.dense.weight"
    adapter = Adapter(pack({name: (a, b)}, {}))
    model = BertModel(_config(BertConfig), add_pooling_layer=False).train(False)
    (a, b) = adapter.factors[name]
    changed = {**weights, name: weights[name] + b @ a}
    model.load_state_dict({key: torch.from_numpy(np.array(value)) for key, value in changed.items()})
    options = networks.Options(rank=2, first=1)
    rounded, exact = (
        networks.Network(refining.weights_of(weights, adapter), SMALL, options, exact=exact)
        for exact in (False, True)
    )
    assert len(rounded.parameters()) == 2 * 2 * 6
    texts = [[0, 5, 6, 7, 2], [0, 9, 2]]
    (part,) = networks.parts_of(texts, "cpu")
    with torch.no_grad():
        for text, ours, same in zip(texts, rounded(part), exact(part), strict=True):
            hidden = model(input_ids=torch.tensor([text])).last_hidden_state[0].mean(0)
            assert torch.cosine_similarity(ours, hidden, dim=0) > 0.998
            torch.testing.assert_close(same, hidden / hidden.norm(), rtol=1e-4, atol=1e-5)
        # A GPU's kernel, and widths that are filled up.
        exact._attend = exact._attend_fused
        wide = networks.Part(np.pad(part.ids, ((0, 0), (0, 3))), part.lengths, part.places)
        torch.testing.assert_close(exact(wide), exact(part), rtol=1e-4, atol=1e-5)


def test_parts_hold_each_text_once_and_little_else(networks: ModuleType) -> None:
    texts = [[number] * number for number in (3, 40, 1, 41, 9, 12, 8)]
    for device in ("cpu", "cuda"):
        parts = networks.parts_of(texts, device)
        for part in parts:
            for ids, length, place in zip(part.ids, part.lengths, part.places, strict=True):
                assert ids.tolist() == texts[place] + [0] * (part.ids.shape[1] - length)
        assert sorted(place for part in parts for place in part.places) == [*range(7)]
    assert [part.ids.shape for part in parts] == [(2, 48), (3, 16), (2, 8)]


def _items(networks: ModuleType) -> tuple[list[Any], list[Any]]:
    def item(number: int, lang: str, asked: str, title: str = "") -> Any:
        questions = tuple((f"{number} {other}", other) for other in asked.split())
        return networks.Item(
            questions, (f"{number}{number} {lang}", lang), f"page#{number}", title or str(number)
        )

    items = [
        item(1, "en", "en de"),
        item(2, "de", "fr"),
        item(3, "en", "de en fr", "1"),
        item(4, "fr", "fr en"),
    ]
    return items, [networks.Item((("5 en", "en"),), ("55 code", "code"), "f", "5")]


def _tokens(texts: Sequence[str]) -> list[list[int]]:
    return [[0, *(3 + sum(map(ord, word)) % 40 for word in text.split()), 2] for text in texts]


def _logsumexp(values: list[float]) -> float:
    return float(np.log(np.sum(np.exp(values))))


def test_the_loss_is_what_the_documentation_says(networks: ModuleType) -> None:
    import torch

    draw = np.random.default_rng(5)
    options = networks.Options(earlier=3, held=3)
    centres, directions = draw.normal(0, 0.1, (2, 16)).astype(np.float32), np.eye(16, dtype=np.float32)[:2]
    loss = networks.Loss(centres, directions, options)
    items, code = _items(networks)
    batch = networks.batch_of(items, code, (_tokens, _tokens), options.held, "cpu")
    every = [*items, *code]
    of = [0, 0, 1, 2, 2, 2, 3, 3, 4]
    assert batch.of.tolist() == of
    assert batch.own.tolist() == [4, 6, 8], "the last three in the passage's own language, or of code"
    assert batch.alike.tolist() == [[True, False, True], [False, True, True], [True, False, True]]

    def unit(vectors: np.ndarray, side: int) -> np.ndarray:
        moved = vectors - centres[side]
        moved = moved - (moved @ directions.T) @ directions
        return np.asarray(moved / np.linalg.norm(moved, axis=1, keepdims=True))

    def vectors(count: int) -> np.ndarray:
        return draw.normal(size=(count, 16)).astype(np.float32)

    old: list[tuple[np.ndarray, str]] = []
    for _ in range(2):
        sides, before = (vectors(9), vectors(5)), (vectors(3), vectors(3))
        total, terms = loss(batch, [*map(torch.from_numpy, sides)], [*map(torch.from_numpy, before)])
        q, p = unit(sides[0], 0), unit(sides[1], 1)
        s = q @ p.T / options.temperature
        wrong = [
            [j for j in range(5) if j != of[i] and every[j].title != every[of[i]].title] for i in range(9)
        ]
        weights = np.array([1 / of.count(one) for one in of]) / 5
        forwards = backwards = 0.0
        for i, one in enumerate(of):
            others = [float(q[i] @ v) / options.temperature for v, topic in old if topic != every[one].topic]
            forwards += weights[i] * (_logsumexp([s[i, one], *s[i, wrong[i]], *others]) - s[i, one])
            asked = [s[k, one] for k in range(9) if one in wrong[k]]
            backwards += weights[i] * (_logsumexp([s[i, one], *asked]) - s[i, one])
        among = q @ q.T / options.temperature
        pairs = [
            _logsumexp([among[i, j], *(among[i, k] for k in range(9) if of[k] in wrong[i])]) - among[i, j]
            for i in range(9)
            for j in range(9)
            if i != j and of[i] == of[j]
        ]
        then = unit(before[0], 0) @ unit(before[1], 1).T / options.temperature
        now = np.array([[s[i, of[j]] for j in batch.own] for i in batch.own])
        drift = ((now - then) ** 2)[batch.alike].mean()
        expected = [forwards, backwards, np.mean(pairs), drift]
        np.testing.assert_allclose(terms[:4].numpy(), expected, rtol=2e-3)
        sum_of = np.dot(expected, [1, options.backwards, options.align, options.distill])
        assert float(total) == pytest.approx(sum_of, rel=2e-3)
        old = [*((p[at], items[at].topic) for at in range(4)), *old][:3]


def _refiner(networks: ModuleType, options: Any, device: str = "cpu") -> Any:
    import torch

    torch.manual_seed(1)
    network = networks.Network(_weights(np.random.default_rng(6)), SMALL, options, exact=True)
    centres = np.zeros((2, 16), np.float32)
    return networks.Refiner(network, networks.Loss(centres, centres[:0], options), options)


@pytest.mark.parametrize("full", [False, True])
def test_steps_learn_and_go_on_where_they_were(networks: ModuleType, full: bool) -> None:
    import torch

    options = networks.Options(steps=8, rank=2, full=full, first=1, warm_up=1, rate=0.02, earlier=0)
    batch = networks.batch_of(*_items(networks), (_tokens, _tokens), options.held, "cpu")
    refiner = _refiner(networks, options)
    terms = [refiner.step(batch) for _ in range(4)]
    assert terms[0][3] < 1e-8, "nothing has moved yet"
    assert terms[3][0] < terms[0][0]
    again = _refiner(networks, options)
    again.resume(refiner.state())
    torch.testing.assert_close(again.step(batch), refiner.step(batch))
    assert refiner.done == again.done == 5 / 8
    # What was learnt alone is enough for the same vectors.
    light = _refiner(networks, options)
    light.network.take(refiner.network.factors(24))
    for mine, theirs in zip(light.network.parameters(), refiner.network.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def _numbered_batch(number: int) -> int:
    return number * number


def test_batches_that_others_draw_come_in_order(networks: ModuleType) -> None:
    from itertools import islice

    for processes in (0, 2):
        drawn = networks.rounds(_numbered_batch, 3, processes)
        assert [*islice(drawn, 5)] == [9, 16, 25, 36, 49]
        drawn.close()


def test_a_pack_gives_back_what_was_packed(books: ModuleType, tmp_path: Path) -> None:
    from indexer.embed.e5s1 import E5S1
    from tests.unit.test_embed_e5s1 import make

    packing = importlib.import_module("adapter_pack")
    data, _, _ = make()
    whole, small = E5S1(data), E5S1(packing.restricted(data, [0, 1, 2, 3, 6]))
    assert small.vocabulary.pieces == [whole.vocabulary.pieces[at] for at in (0, 1, 2, 3, 6)]
    assert (small.vocabulary.bos, small.vocabulary.unk) == (whole.vocabulary.bos, whole.vocabulary.unk)
    for name in whole.tensors:
        before, after = (np.concatenate([*model.rows(name)]) for model in (whole, small))
        kept = before[[0, 1, 2, 3, 6]] if name.startswith("embeddings.word") else before
        np.testing.assert_array_equal(after, kept)
    found = [packing.shortened(section) for section in _sections(books, 3)]
    packing._store(tmp_path, "sections", [(s.source, s.page, s.id) for s in found])
    for lang in ("en", "de", "ja", "fr"):
        packing._store(tmp_path, f"text-{lang}", packing.rows_of(lang, found))
    again = packing.Pack([tmp_path]).sections()
    for before, after in zip(found, again, strict=True):
        assert (after.source, after.page, after.id) == (before.source, before.page, before.id)
        assert "xx" not in after.texts
        for lang, text in after.texts.items():
            assert text.title == before.texts[lang].title
            assert text.paragraphs == before.texts[lang].paragraphs
        assert len({text.shape for text in after.texts.values()}) == 1


def test_figures_are_those_of_files_and_of_the_frontier(books: ModuleType) -> None:
    measuring = importlib.import_module("adapter_measure")
    passages = [("a", "en", 0), ("b", "en", 0), ("c", "de", 1)]
    task = measuring.Task(passages, [("q", "de", 0), ("r", "de", 1)])
    asked, answers = np.eye(2, dtype=np.float32), np.array([[0.1, 0], [0.6, 0.3], [0.5, 0.2]], np.float32)
    assert measuring.ranks(task, asked, answers, 0).tolist() == [0, 1]
    assert measuring.ranks(task, asked, answers, 0.2).tolist() == [1, 0]
    assert measuring.figures(np.array([0, 1, 12])) == [0.3333, 0.5, 0.6667]
    frontier = {"0.0": [[0.5, 0.6, 0.9], [0.7, 0.8, 0.9]], "0.1": [[0.3, 0.4, 0.8], [0.8, 0.9, 1.0]]}
    assert measuring.across_at(frontier, 0.75, 0) == 0.4
    draw = np.random.default_rng(7)
    a, b = _factors(draw, 4)
    whole, kept = measuring.reduced({"w": (a, b)}, 4)
    np.testing.assert_allclose(whole["w"][1] @ whole["w"][0], b @ a, rtol=1e-4, atol=1e-4)
    assert kept == pytest.approx(1)
    (c, d), kept = measuring.reduced({"w": (a, b)}, 2)[0]["w"], measuring.reduced({"w": (a, b)}, 2)[1]
    lost = ((d @ c - b @ a) ** 2).sum() / ((b @ a) ** 2).sum()
    assert kept == pytest.approx(1 - lost, abs=1e-4)


def test_options_are_changed_by_name(refining: ModuleType) -> None:
    found = refining.chosen(refining.LARGE, ["rate=0.001", "full=true", "languages=[4, 6]"])
    assert (found.rate, found.full, found.languages, found.rank) == (0.001, True, (4, 6), 64)
    with pytest.raises(ValueError, match="no option speed"):
        refining.chosen(refining.LARGE, ["speed=9"])
