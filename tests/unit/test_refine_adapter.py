"""The second stage of training the adapter: its texts, what a step learns from, and the arithmetic."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

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
    options = refining.Options(seed=5)
    items = refining.Items(found, options)
    batch = items.batch(50)
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
    assert refining.Items(found, options).batch(50) == batch
    assert refining.Items(found, refining.Options(seed=6)).batch(50) != batch


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


def test_a_changed_matrix_has_the_gradients_of_its_factors(refining: ModuleType) -> None:
    import torch

    torch.manual_seed(3)
    changed = refining._changed()(torch.randn(8, 6), torch.randn(8), 2)
    with torch.no_grad():
        changed.b.normal_()
    changed.merge(True)
    inputs = torch.randn(5, 3, 6).bfloat16().requires_grad_()
    (changed(inputs) ** 2).sum().backward()
    plain, a, b = (one.detach().float().requires_grad_() for one in (inputs, changed.a, changed.b))
    outputs = torch.nn.functional.linear(plain, changed.first + b @ a, changed._bias.float())
    (outputs**2).sum().backward()  # type: ignore[no-untyped-call]
    for ours, theirs in ((inputs, plain), (changed.a, a), (changed.b, b)):
        assert ours.grad is not None
        assert theirs.grad is not None
        error = (ours.grad.float() - theirs.grad).norm() / theirs.grad.norm()
        assert error < 0.02, "no more than what bfloat16 rounds"
    changed.merge(False)
    assert torch.equal(changed.weight, changed.first.bfloat16())


def test_the_network_gives_the_vectors_of_transformers(refining: ModuleType, tmp_path: Path) -> None:
    import torch
    from safetensors.numpy import save_file
    from transformers import BertConfig, BertModel

    from indexer.embed.adapter import Adapter, pack

    torch.manual_seed(2)
    config = BertConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=20,
        layer_norm_eps=1e-12,
    )
    model = BertModel(config, add_pooling_layer=False).train(False)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    save_file({name: p.numpy() for name, p in model.state_dict().items()}, tmp_path / "model.safetensors")
    draw = np.random.default_rng(4)
    name = "encoder.layer.2.output.dense.weight"
    a, b = draw.normal(size=(2, 24)).astype(np.float32), draw.normal(size=(16, 2)).astype(np.float32)
    network = refining.Network(tmp_path, Adapter(pack({name: (a, b)}, {})), rank=2, first=1)
    assert len(network.parameters()) == 2 * 2 * 6
    with torch.no_grad():
        model.state_dict()[name].add_(torch.from_numpy(b @ a))
        texts = [[0, 5, 6, 7, 2], [0, 9, 2]]
        for text, ours in zip(texts, network(texts), strict=True):
            hidden = model(input_ids=torch.tensor([text])).last_hidden_state[0].mean(0)
            assert torch.cosine_similarity(ours, hidden, dim=0) > 0.998
