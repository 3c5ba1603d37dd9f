#!/usr/bin/env bash
# Style, types, import rules, migrations. Stops at the first that fails.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=.venv/bin
export HEARTH_DATA_DIR="${HEARTH_DATA_DIR:-$(mktemp -d)}"
"$bin/ruff" check .
"$bin/ruff" format --check --quiet .
"$bin/mypy"
"$bin/lint-imports"
"$bin/python" manage.py makemigrations --check --dry-run
"$bin/python" manage.py spectacular --validate --fail-on-warn --file /dev/null
