#!/usr/bin/env bash
# Runs the stages named on the command line one after the other, and ends with what each took.
# A failed stage does not hide the next ones; the exit status says whether all passed.
set -uo pipefail
cd "$(dirname "$0")/.."
# Paths of the checks themselves; the tests never touch a person's own library or display.
bin=$PWD/.venv/bin
export QT_QPA_PLATFORM=${QT_QPA_PLATFORM:-offscreen}

stage() {
    case $1 in
    lint) "$bin/ruff" check . ;;
    format) "$bin/ruff" format --check . ;;
    types) "$bin/mypy" ;;
    layers) "$bin/lint-imports" ;;
    unit) "$bin/python" -m pytest -q -n 2 --dist loadfile tests/unit ;;
    # Two at a time: these tests wait for processes and servers half of the time. A file stays together, for
    # what its tests share.
    integration) "$bin/python" -m pytest -q -n 2 --dist loadfile --durations=10 tests/integration ;;
    end2end) "$bin/python" -m pytest -q --timeout=1800 tests/end2end ;;
    *)
        echo "no stage '$1'"
        false
        ;;
    esac
}

failed=0
summary=
for name in "$@"; do
    printf '\n== %s\n' "$name"
    begun=$SECONDS
    if stage "$name"; then verdict=passed; else verdict=FAILED failed=1; fi
    summary+=$(printf '%-12s %-7s %4d s' "$name" "$verdict" $((SECONDS - begun)))$'\n'
done
printf '\n%s%-20s %4d s\n' "$summary" total "$SECONDS"
exit "$failed"
