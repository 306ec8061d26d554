#!/usr/bin/env bash
# From nothing to a trained latent action model and a report, on the demo videos that come with the package.
#   bash scripts/quickstart.sh [--cpu] [options of `understudy quickstart`]
set -euo pipefail
repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$repository"
source scripts/setup.sh
build=auto
[ "${1:-}" = --cpu ] && { build=cpu; shift; }
setup_environment "$build" sim,serve
exec understudy quickstart "$@"
