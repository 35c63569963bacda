"""`manage.py moto`: a pretended S3 and SQS."""

import logging
import signal
import threading
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from apps.local.bucket_copy import BucketCopy
from apps.local.places import VAR


class Command(BaseCommand):
    help = "Pretend to be Amazon's S3 and SQS, on this machine only."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--port", type=int, default=5050)
        parser.add_argument(
            "--folder", type=Path, default=VAR / "s3", help="where the bucket's files survive a restart"
        )

    def handle(self, **options: Any) -> None:
        if not settings.SANDBOX:
            raise CommandError("The pretended S3 is off. Set SANDBOX=1 (and DEBUG=1) to run it on a laptop.")
        # Loads Amazon's service models, which takes a second that no other command should pay.
        from moto.server import ThreadedMotoServer

        # Its log would be a line for each of the copy's rounds.
        logging.getLogger("werkzeug").setLevel(logging.WARNING)
        stopping = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stopping.set())
        server = ThreadedMotoServer(ip_address="127.0.0.1", port=options["port"], verbose=False)
        server.start()
        copy = BucketCopy(f"http://127.0.0.1:{options['port']}", settings.AWS_S3_BUCKET, options["folder"])
        copy.restore()
        while not stopping.wait(timeout=2):
            copy.save()
        copy.save()
        server.stop()
