#!/usr/bin/env bash
# Make .venv from requirements.lock with a CPython 3.12 that really runs. Idempotent; the second run takes well under a second.
# Usage: scripts/setup.sh [ROOT]. Exit code 2: something the person must mend, said in one sentence.
set -euo pipefail
cd "${1:-$(dirname "$0")/..}"
readonly UV_VERSION=0.13.9 LOCK=requirements.lock STAMP=.venv/.lock-sha256
say() { printf 'hearth: %s\n' "$*" >&2; }
fail() { say "$*"; exit 2; }

# A pyenv shim exists for versions that are not selected and then fails: only a candidate that runs counts.
runs() { "$1" -c 'import sys, venv, ensurepip; print("%d.%d" % sys.version_info[:2])' 2>/dev/null; }

# Every place an interpreter may stand: PATH, uv's own, pyenv's installed versions, the usual folders.
candidates() {
  local name
  for name in python3.12 python3.13 python3.14 python3 python; do type -aP "$name" 2>/dev/null || true; done
  ls -d "${PYENV_ROOT:-$HOME/.pyenv}"/versions/*/bin/python \
        "${UV_PYTHON_INSTALL_DIR:-$HOME/.local/share/uv/python}"/*/bin/python3 \
        /usr/local/bin/python3.1? /opt/homebrew/bin/python3.1? /opt/python/*/bin/python3 2>/dev/null || true
}

find_python() { # VERSION-REGEX -> the first candidate whose version matches it
  local path
  while read -r path; do
    [[ "$(runs "$path")" =~ ^$1$ ]] && { "$path" -c 'import sys; print(sys.executable)'; return 0; }
  done < <(candidates)
  return 1
}

sha() { { sha256sum "$LOCK" 2>/dev/null || shasum -a 256 "$LOCK"; } | cut -d' ' -f1; }

[ -w . ] || fail "cannot write to $PWD: give this user write access or clone somewhere else."
if [ -x .venv/bin/python ] && [ "$(cat "$STAMP" 2>/dev/null)" = "$(sha)" ] && .venv/bin/python -c '' 2>/dev/null; then exit 0; fi

start=$SECONDS
if [ ! -x .tools/bin/uv ] || ! .tools/bin/uv --version 2>/dev/null | grep -q " $UV_VERSION"; then
  host=$(find_python '3\.(9|1[0-9])') || fail "no Python found: install CPython 3.12 (for example 'apt-get install python3 python3-venv') and run this again."
  say "installing the package installer (about 5 s)"
  "$host" -m venv --clear .tools
  .tools/bin/python -m pip install --quiet --disable-pip-version-check "uv==$UV_VERSION" 2>&1 | grep -v WARNING >&2 || true
  [ -x .tools/bin/uv ] || fail "could not install uv $UV_VERSION from the package index: check the network or PIP_INDEX_URL."
fi
if python=$(find_python '3\.12'); then say "using CPython 3.12 at $python"
elif say "no CPython 3.12 here: fetching one (about 10 s)" && .tools/bin/uv python install --quiet 3.12 2>/dev/null; then python=$(.tools/bin/uv python find 3.12)
elif python=$(find_python '3\.(1[3-9])'); then say "using $python; its Python has no bundled Redis, so redis-server or valkey-server must be on PATH"
else fail "no Python 3.12 or later that runs was found, and none could be fetched: install one (for example with pyenv or your package manager) and run this again."
fi
say "installing packages into .venv (about 20 s the first time)"
[ -x .venv/bin/python ] && [ "$(runs .venv/bin/python)" = "$(runs "$python")" ] || .tools/bin/uv venv --quiet --clear --python "$python" .venv
UV_LINK_MODE=copy .tools/bin/uv pip sync --quiet --python .venv/bin/python "$LOCK" || fail "could not install the packages of $LOCK: see the lines above."
sha > "$STAMP"
say "ready after $((SECONDS - start)) s"
