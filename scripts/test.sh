#!/usr/bin/env bash
# Everything a change must pass: ruff, pyright (basic) and the tests. Makes its own environment on a fresh machine.
#   bash scripts/test.sh [--cpu] [pytest arguments]      e.g. -m slow, -k resume
set -euo pipefail
repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$repository"
source scripts/setup.sh
build=auto
[ "${1:-}" = --cpu ] && { build=cpu; shift; }
setup_environment "$build" dev,sim,hdf5,serve
ruff check .
ruff format --check .
basedpyright
exec pytest "$@"
