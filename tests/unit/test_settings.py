import stat
from pathlib import Path

import pytest

from indexer import settings
from indexer.errors import FatalError
from indexer.settings import Settings


def test_settings_come_back_as_they_were_stored(tmp_path: Path) -> None:
    stored = Settings(ignore=("*.log", "/draft 草稿/"), max_file_mb=5, extraction_deadline_s=2.5, paused=True)
    settings.save(tmp_path / "lib", stored)
    assert settings.load(tmp_path / "lib") == stored


def test_without_a_file_the_defaults_hold(tmp_path: Path) -> None:
    assert settings.load(tmp_path) == Settings()


@pytest.mark.parametrize(
    "text",
    [
        "max_file_mb = ",
        "max_file_mb = 'big'",
        "unknown = 1",
        "\xff",
        "extraction_workers = -3",
        "encoder_threads = -1",
        "context_tokens = -512",
        "max_file_mb = 0",
        "extraction_deadline_s = nan",
        "extraction_deadline_s = -inf",
        "unload_minutes = nan",
        "extraction_memory_mb = 1",
        *(
            f"[[servers]]\nname = 'a'\nurl = 'http://127.0.0.1'\n{wrong}"
            for wrong in ("batch = 0", "batch = -1", "concurrency = 0", "dimensions = -1", "max_tokens = 0")
        ),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "settings.toml").write_bytes(text.encode("latin-1"))
    with pytest.raises(FatalError) as caught:
        settings.load(tmp_path)
    assert "settings.toml" in caught.value.message


def test_the_data_folder_is_for_its_owner_only(tmp_path: Path) -> None:
    settings.save(tmp_path / "lib", Settings())
    assert stat.S_IMODE((tmp_path / "lib").stat().st_mode) == 0o700
