#!/usr/bin/env bash
# All checks. Installs what the end-to-end tests need (Debian packages); pytest comes last.
set -euo pipefail
cd "$(dirname "$0")/.."
tests/e2e/install.sh
scripts/lint.sh
exec .venv/bin/python -m pytest tests "$@"
