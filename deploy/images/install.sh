#!/bin/sh
# Make /engine, a Python environment with vLLM in it. Usage: install.sh PYTHON REQUIREMENT…
# Wheels in /wheels are used and nothing else where that folder holds a pip; the package index otherwise.
set -eu
python=$1; shift
pip=$(ls /wheels/pip-*.whl 2>/dev/null | head -1)
if [ -n "$pip" ]; then
  "$python" -m venv --without-pip /engine
  # A wheel of pip can be run as it is.
  /engine/bin/python "$pip/pip" install --no-cache-dir --no-compile --no-index --find-links /wheels "$@"
else
  "$python" -m venv /engine
  /engine/bin/python -m pip install --no-cache-dir --no-compile --extra-index-url https://download.pytorch.org/whl/cpu "$@"
fi
