"""Make this checkout ready: system libraries for the window, the virtual environment, the bundled model.

Started by setup.sh for `make run`, `make test` and `make bench`. What is there already is left as it is:
a second call takes a fraction of a second and needs no network.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
import venv
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = ROOT / ".venv"
STAMP = ENVIRONMENT / "prepared.json"
# What each target installs beside the product itself.
EXTRAS = {"run": set[str](), "test": {"dev"}, "bench": {"dev", "bench"}}
# A change of any of these means another installation.
INPUTS = ("pyproject.toml", "constraints.txt", "packaging/fetch_model.py")
# On Linux PyPI's torch comes with 3 GB of GPU libraries; its makers have a build without. Not the default,
# because pip tries an index that it cannot reach again and again, for every package.
CPU_TORCH = "https://download.pytorch.org/whl/cpu"
FAMILIES = {
    "apt": "sudo apt-get install",
    "dnf": "sudo dnf install",
    "pacman": "sudo pacman -S",
    "zypper": "sudo zypper install",
}


@dataclass(frozen=True)
class Need:
    """Something the system must have, and the package that has it in each family of distributions.

    Attributes:
        what: A shared library's soname, a program's name or a font's folder or file.
        packages: In the order of FAMILIES.
    """

    what: str
    packages: tuple[str, str, str, str]

    def present(self) -> bool:
        """Whether this machine has it."""
        if self.what.startswith("/"):
            return Path(self.what).exists()
        if ".so" not in self.what:
            return shutil.which(self.what) is not None
        try:
            ctypes.CDLL(self.what)
        except OSError:
            return False
        return True


# What the wheels of PySide6 expect of the system, found with `objdump -p` on them.
WINDOW = (
    Need("libglib-2.0.so.0", ("libglib2.0-0", "glib2", "glib2", "libglib-2_0-0")),
    Need("libgthread-2.0.so.0", ("libglib2.0-0", "glib2", "glib2", "libgthread-2_0-0")),
    Need("libdbus-1.so.3", ("libdbus-1-3", "dbus-libs", "dbus", "libdbus-1-3")),
    Need("libfontconfig.so.1", ("libfontconfig1", "fontconfig", "fontconfig", "fontconfig")),
    Need("libfreetype.so.6", ("libfreetype6", "freetype", "freetype2", "libfreetype6")),
    Need("libGL.so.1", ("libgl1", "libglvnd-glx", "libglvnd", "Mesa-libGL1")),
    Need("libEGL.so.1", ("libegl1", "libglvnd-egl", "libglvnd", "Mesa-libEGL1")),
    Need("libX11.so.6", ("libx11-6", "libX11", "libx11", "libX11-6")),
    Need("libxkbcommon.so.0", ("libxkbcommon0", "libxkbcommon", "libxkbcommon", "libxkbcommon0")),
    Need("libgssapi_krb5.so.2", ("libgssapi-krb5-2", "krb5-libs", "krb5", "krb5")),
    Need("libbrotlidec.so.1", ("libbrotli1", "libbrotli", "brotli", "libbrotlidec1")),
    Need("libzstd.so.1", ("libzstd1", "libzstd", "zstd", "libzstd1")),
)
X11 = (
    Need("libX11-xcb.so.1", ("libx11-xcb1", "libX11-xcb", "libx11", "libX11-xcb1")),
    Need("libxcb-cursor.so.0", ("libxcb-cursor0", "xcb-util-cursor", "xcb-util-cursor", "libxcb-cursor0")),
    Need("libxcb-icccm.so.4", ("libxcb-icccm4", "xcb-util-wm", "xcb-util-wm", "libxcb-icccm4")),
    Need("libxcb-image.so.0", ("libxcb-image0", "xcb-util-image", "xcb-util-image", "libxcb-image0")),
    Need(
        "libxcb-keysyms.so.1", ("libxcb-keysyms1", "xcb-util-keysyms", "xcb-util-keysyms", "libxcb-keysyms1")
    ),
    Need("libxcb-randr.so.0", ("libxcb-randr0", "libxcb", "libxcb", "libxcb-randr0")),
    Need(
        "libxcb-render-util.so.0",
        ("libxcb-render-util0", "xcb-util-renderutil", "xcb-util-renderutil", "libxcb-render-util0"),
    ),
    Need("libxcb-shape.so.0", ("libxcb-shape0", "libxcb", "libxcb", "libxcb-shape0")),
    Need("libxcb-sync.so.1", ("libxcb-sync1", "libxcb", "libxcb", "libxcb-sync1")),
    Need("libxcb-util.so.1", ("libxcb-util1", "xcb-util", "xcb-util", "libxcb-util1")),
    Need("libxcb-xfixes.so.0", ("libxcb-xfixes0", "libxcb", "libxcb", "libxcb-xfixes0")),
    Need("libxcb-xkb.so.1", ("libxcb-xkb1", "libxcb", "libxcb", "libxcb-xkb1")),
    Need(
        "libxkbcommon-x11.so.0",
        ("libxkbcommon-x11-0", "libxkbcommon-x11", "libxkbcommon-x11", "libxkbcommon-x11-0"),
    ),
)
# The tests run without these, but check less: no real X server, and boxes where Chinese should be.
TESTS = (
    Need("Xvfb", ("xvfb", "xorg-x11-server-Xvfb", "xorg-server-xvfb", "xorg-x11-server-Xvfb")),
    Need("xauth", ("xauth", "xorg-x11-xauth", "xorg-xauth", "xauth")),
)
DEBIAN_FONTS = (
    Need("/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf", ("fonts-dejavu-core", "", "", "")),
    Need("/usr/share/fonts/opentype/noto/NotoSansCJK-Regular.ttc", ("fonts-noto-cjk", "", "", "")),
)


def say(text: str) -> None:
    """One line for the person, at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def stop(text: str) -> NoReturn:
    """Give up, and say why."""
    sys.stderr.write(text + "\n")
    raise SystemExit(1)


def family() -> str | None:
    """The package manager of this machine, None for one that is not known."""
    programs = {"apt": "apt-get", "dnf": "dnf", "pacman": "pacman", "zypper": "zypper"}
    return next((name for name, program in programs.items() if shutil.which(program)), None)


def packages(needs: list[Need], of: str) -> str:
    """The packages that have `needs`, each named once, in order."""
    column = list(FAMILIES).index(of)
    return " ".join(dict.fromkeys(need.packages[column] for need in needs if need.packages[column]))


def system_libraries(target: str) -> None:
    """Install, or ask for, what the window needs of a Linux system.

    Raises:
        SystemExit: Something without which nothing works is missing and cannot be installed from here.
    """
    if platform.system() != "Linux":
        return
    tests = target != "run"
    on_x11 = bool(os.environ.get("DISPLAY")) and not os.environ.get("WAYLAND_DISPLAY")
    manager = family()
    required = [need for need in (*WINDOW, *(X11 if on_x11 else ())) if not need.present()]
    wanted = [need for need in (*X11, *TESTS, *DEBIAN_FONTS) if not need.present()] if tests else []
    if manager == "apt" and os.geteuid() == 0 and (required or wanted):
        names = packages([*required, *wanted], "apt")
        say(f"Installing with apt-get: {names}")
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *names.split()]
        if subprocess.run(["apt-get", "update", "-qq"], env=environment, check=False).returncode == 0:
            subprocess.run(install, env=environment, check=False, stdout=subprocess.DEVNULL)
        required = [need for need in required if not need.present()]
        wanted = [need for need in wanted if not need.present()]
    if required:
        how = [
            f"    {FAMILIES[name]} {packages(required, name)}"
            for name in ([manager] if manager else FAMILIES)
        ]
        missing = ", ".join(need.what for need in required)
        stop(
            f"The window needs libraries that this system does not have: {missing}\nInstall them with\n"
            + "\n".join(how)
        )
    if wanted and manager:
        names = packages(wanted, manager)
        say(
            f"For more thorough tests (a real X server, all scripts): {FAMILIES[manager]} {names}"
            if names
            else ""
        )


def python_of(environment: Path) -> Path:
    """The interpreter of a virtual environment."""
    return environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def works(python: Path) -> bool:
    """Whether the environment's interpreter still starts (an upgrade of the system's Python breaks it)."""
    try:
        check = "import sys, pip; sys.exit(sys.version_info < (3, 11))"
        return subprocess.run([python, "-c", check], check=False, capture_output=True).returncode == 0
    except OSError:
        return False


def environment(target: str) -> None:
    """Make .venv and install what `target` needs, unless that was done already.

    Raises:
        SystemExit: pip failed; it has said why.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name in INPUTS:
        file = ROOT / name
        digest.update(name.encode() + (file.read_bytes() if file.exists() else b""))
    python = python_of(ENVIRONMENT)
    inputs, done = digest.hexdigest(), set[str]()
    usable = works(python)
    if usable and STAMP.exists():
        stamp = json.loads(STAMP.read_text(encoding="utf-8"))
        done = set(stamp["extras"])
        if stamp["inputs"] == inputs and EXTRAS[target] <= done:
            return
    begun = time.monotonic()
    if not usable:
        say(f"Making .venv with Python {platform.python_version()}")
        venv.create(ENVIRONMENT, clear=True, with_pip=True)
    extras = ",".join(sorted(EXTRAS[target] | done))
    product = f".[{extras}]" if extras else "."
    say(f"Installing dragoman ({product}) and what it needs; the first time that is much to fetch")
    STAMP.unlink(missing_ok=True)
    quiet = [] if sys.stdout.isatty() else ["-qq"]
    pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install", *quiet]
    if os.environ.get("TORCH") == "cpu":
        pip += ["--extra-index-url", CPU_TORCH]
    if subprocess.run([*pip, "-c", "constraints.txt", "-e", product], cwd=ROOT, check=False).returncode:
        stop("pip could not install what dragoman needs; its messages are above.")
    check = subprocess.run(
        [python, "-c", "import PySide6.QtWidgets, PySide6.QtNetwork, PySide6.QtSvg"], check=False
    )
    if check.returncode:
        stop("Qt cannot be loaded: the message above names the library that this system does not have.")
    if subprocess.run([python, "packaging/fetch_model.py"], cwd=ROOT, check=False).returncode:
        stop("The bundled model could not be fetched; the message above says why.")
    STAMP.write_text(
        json.dumps({"inputs": inputs, "extras": sorted(EXTRAS[target] | done)}), encoding="utf-8"
    )
    say(f"Ready after {time.monotonic() - begun:.0f} s")


def main() -> None:
    """Prepare for the target named on the command line."""
    if len(sys.argv) != 2 or sys.argv[1] not in EXTRAS:
        stop(f"usage: prepare.py {'|'.join(EXTRAS)}")
    system_libraries(sys.argv[1])
    environment(sys.argv[1])


if __name__ == "__main__":
    main()
