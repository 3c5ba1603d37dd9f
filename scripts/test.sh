#!/usr/bin/env bash
# All checks. Installs what the end-to-end tests need (Debian packages); pytest comes last.
set -euo pipefail
cd "$(dirname "$0")/.."
tests/e2e/install.sh
.venv/bin/python scripts/compile_gateway.py
scripts/lint.sh
# HEARTH_TEST_PROCESSES=2: what starts real engines in one, the rest in the other; faster, less tried.
exec .venv/bin/python -m pytest tests -n "${HEARTH_TEST_PROCESSES:-0}" --no-loadscope-reorder "$@"
