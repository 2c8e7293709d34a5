#!/bin/sh
# Finds a Python of 3.11 or later and hands over to prepare.py, which does the rest of the set-up.
# Usage: sh packaging/setup.sh run|test|bench        PYTHON=/path/to/python chooses one.
set -eu
here=$(dirname "$0")

fits() {
    "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

find_python() {
    for name in ${PYTHON:+"$PYTHON"} python3 python3.13 python3.12 python3.11 python3.14 python; do
        if fits "$name"; then
            echo "$name"
            return
        fi
    done
}

python=$(find_python)
if [ -z "$python" ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "Installing Python with apt-get"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3 python3-venv >/dev/null
    python=$(find_python)
fi
if [ -z "$python" ]; then
    cat >&2 <<'EOF'
Dragoman needs Python 3.11 or later with its venv module, and found none. Install it with
    Debian, Ubuntu     sudo apt-get install python3 python3-venv
    Fedora             sudo dnf install python3
    Arch               sudo pacman -S python
    openSUSE           sudo zypper install python313
    macOS              brew install python@3.13
and run the command again (PYTHON=/path/to/python make ... chooses another Python).
EOF
    exit 1
fi
exec "$python" "$here/prepare.py" "$@"
