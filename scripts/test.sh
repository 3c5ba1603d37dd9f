#!/usr/bin/env bash
# All checks. Installs what the end-to-end tests need (Debian packages); pytest comes last.
set -euo pipefail
cd "$(dirname "$0")/.."
tests/e2e/install.sh
.venv/bin/python scripts/compile_gateway.py
scripts/lint.sh
# Two processes: what waits for real engines in one, the rest in the other.
exec .venv/bin/python -m pytest tests -n "${HEARTH_TEST_PROCESSES:-2}" --no-loadscope-reorder "$@"
