#!/usr/bin/env python
"""Hearth's command line: Django's commands, and `up`, which runs everything on one machine."""

import os
import sys


def main() -> int:
    """Run the command; `up` without loading Django, so that the supervisor stays small."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "controlplane.settings")
    if sys.argv[1:2] == ["up"]:
        from controlplane import up  # noqa: PLC0415 - each command loads only what it needs

        return up.main(sys.argv[2:])
    from django.core.management import execute_from_command_line  # noqa: PLC0415

    execute_from_command_line(sys.argv)
    return 0


if __name__ == "__main__":
    sys.exit(main())
