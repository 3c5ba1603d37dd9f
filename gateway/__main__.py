"""`python -m gateway`: chooses the form of the modules, then starts the program."""

import sys
from importlib import import_module

from gateway import forms

CANNOT_START = 2


def main() -> int:
    """Return the exit code."""
    try:
        forms.activate()
    except forms.FormError as error:
        sys.stderr.write(f"gateway: {error}\n")
        return CANNOT_START
    code: int = import_module("gateway.start").main(sys.argv[1:])
    return code


if __name__ == "__main__":
    sys.exit(main())
