#!/usr/bin/env bash
# Every check of the repository; `./check.sh --slow` runs the slow tests too.
set -euo pipefail
cd "$(dirname "$0")"

pytest_arguments=()
for argument in "$@"; do
  case "$argument" in
    --slow) pytest_arguments+=(--slow) ;;
    *) echo "error: $argument: unknown argument. Allowed: --slow" >&2; exit 2 ;;
  esac
done

python -m ruff check .
python -m ruff format --check .
python -m mypy
# Whole files go to a worker each: fixtures and compiled programs of a file are made once.
python -m pytest -n "${TEST_WORKERS:-2}" --dist loadfile ${pytest_arguments[@]+"${pytest_arguments[@]}"}
