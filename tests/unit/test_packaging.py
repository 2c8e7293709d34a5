"""Set-up and pinned versions: what goes wrong on machines that are not the developers'."""

import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def prepare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """packaging/prepare.py, at work in an empty checkout."""
    spec = importlib.util.spec_from_file_location("prepare_under_test", ROOT / "packaging" / "prepare.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "ENVIRONMENT", tmp_path / ".venv")
    monkeypatch.setattr(module, "STAMP", tmp_path / ".venv" / "prepared.json")
    return module


class Commands:
    """Stands in for subprocess.run: notes the commands and lets one of them fail."""

    def __init__(self, failing: str = "nothing") -> None:
        self.seen: list[str] = []
        self.failing = failing

    def __call__(self, command: list[Any], **_: object) -> "subprocess.CompletedProcess[bytes]":
        line = " ".join(map(str, command))
        self.seen.append(line)
        return subprocess.CompletedProcess(command, int(self.failing in line))


def installs(commands: Commands) -> list[str]:
    return [line for line in commands.seen if " install " in line]


@pytest.fixture
def commands(prepare: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Commands:
    """No command is really run, no environment really made."""
    noted = Commands()
    monkeypatch.setattr(prepare.subprocess, "run", noted)
    monkeypatch.setattr(prepare.venv, "create", lambda folder, **_: folder.mkdir(exist_ok=True))
    (prepare.ROOT / "constraints.txt").write_text("a==1\n")
    (prepare.ROOT / ".venv").mkdir()
    return noted


def test_only_a_change_or_a_new_extra_installs_again(prepare: ModuleType, commands: Commands) -> None:
    prepare.environment("run")
    prepare.environment("run")
    assert len(installs(commands)) == 1
    prepare.environment("test")
    prepare.environment("run")
    assert [line.split()[-1] for line in installs(commands)] == [".", ".[dev]"]
    (prepare.ROOT / "constraints.txt").write_text("a==2\n")
    prepare.environment("run")
    assert installs(commands)[-1].endswith(".[dev]")
    assert len(installs(commands)) == 3


def test_a_failed_installation_is_tried_again(prepare: ModuleType, commands: Commands) -> None:
    commands.failing = " install "
    with pytest.raises(SystemExit):
        prepare.environment("run")
    commands.failing = "nothing"
    prepare.environment("run")
    assert len(installs(commands)) == 2


@pytest.mark.parametrize(
    ("family", "expected"), [("dnf", "sudo dnf install libglvnd-egl"), ("pacman", "sudo pacman -S libglvnd")]
)
def test_a_missing_library_is_named_with_its_package(
    prepare: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    family: str,
    expected: str,
) -> None:
    missing = prepare.Need("libnowhere.so.1", ("libegl1", "libglvnd-egl", "libglvnd", "Mesa-libEGL1"))
    monkeypatch.setattr(prepare, "WINDOW", (missing,))
    monkeypatch.setattr(prepare, "family", lambda: family)
    monkeypatch.setattr(prepare.platform, "system", lambda: "Linux")
    with pytest.raises(SystemExit):
        prepare.system_libraries("run")
    said = capsys.readouterr().err
    assert expected in said
    assert "libnowhere.so.1" in said


def test_every_requirement_is_pinned_for_every_platform() -> None:
    pins = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", pin) for pin in pins)
    names = {pin.partition("==")[0] for pin in pins}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    wanted = {
        re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", line, maxsplit=1)[0]).lower()
        for line in [*project["dependencies"], *(line for extra in extras for line in extra)]
    }
    assert wanted <= names


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="None is immortal since Python 3.12")
def test_qt_leaves_the_references_of_none_alone() -> None:
    """PySide6 6.12.0 does not: a window that is used for a while ends in "none_dealloc"."""
    from PySide6.QtCore import QObject

    orphan = QObject()
    before = sys.getrefcount(None)
    for _ in range(500):
        orphan.parent()
    assert sys.getrefcount(None) > before - 250
