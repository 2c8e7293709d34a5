#!/bin/sh
# Every bench of speed and scale, one after the other; `make bench-speed` prepares .venv first.
# Usage: sh packaging/bench_speed.sh [--quick]
set -eu
cd "$(dirname "$0")/.."
python=.venv/bin/python
beside=.venv/fastembed

# fastembed wants an older huggingface_hub than ours: it gets an environment of its own, with ours behind it.
if [ ! -x "$beside/bin/python" ]; then
    $python -m venv "$beside"
    "$beside/bin/pip" install --quiet fastembed onnx onnxscript || echo "fastembed cannot be installed: left out"
    "$beside/bin/python" - <<'EOF'
import site
from pathlib import Path

ours = next(Path(".venv").resolve().glob("lib/python3.*/site-packages"))
Path(site.getsitepackages()[0], "dragoman.pth").write_text(f"{ours}\n")
EOF
fi

if [ "${1:-}" = --quick ]; then
    encoder=--quick pipeline="--tokens 20000 --turns 1" rescan="--files 20000 --flood 2000 --turns 3"
    store="--sizes 10000,30000 --quick --bulk" stalls="--files 500 --limit 240"
else
    encoder="" pipeline="--tokens 40000 --turns 3" rescan="--files 100000 --flood 20000 --turns 5"
    store="--sizes 10000,100000,300000,1000000 --quick --bulk" stalls="--files 10000"
fi
# shellcheck disable=SC2086  the options are words
{
    echo "== encoder"; "$beside/bin/python" -W ignore -m tests.bench.encoder $encoder
    echo "== pipeline"; $python -m tests.bench.pipeline $pipeline
    echo "== rescan"; $python -m tests.bench.rescan $rescan
    echo "== window"; $python -m tests.bench.stalls $stalls
    echo "== manners"; $python -m tests.bench.manners
    echo "== store"; $python -m tests.bench.store $store
}
