#!/usr/bin/env bash
# Builds and runs the coverage preset, then prints line coverage per file.
set -euo pipefail
cd "$(dirname "$0")/.."
cmake --workflow --preset coverage
gcovr --root . --object-directory build-coverage --exclude 'tests/.*' --exclude 'build.*' \
    --print-summary "$@"
