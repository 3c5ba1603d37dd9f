"""`manage.py reconcile`: the controller."""

import signal
from types import FrameType
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from apps.deployments.reconcile.loop import Controller, release_leases
from apps.lib import clock


class Command(BaseCommand):
    help = "Bring what runs in line with what is wanted, until stopped."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--once", action="store_true", help="make one pass and end")

    def handle(self, **options: Any) -> None:  # noqa: ANN401 - Django's signature
        controller = Controller()
        if options["once"]:
            controller.run_once(clock.now())
            return

        def stop(_signal: int, _frame: FrameType | None) -> None:
            controller.stop()

        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, stop)
        controller.run()
        release_leases(controller.owner)
