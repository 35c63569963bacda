"""`manage.py simulate`: let the demo's shop live."""

import random
import signal
import threading
import time
from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from apps.jobs.backpressure import QueueFull
from apps.local.simulator import Simulator
from apps.sandbox.client import Sandbox


class Command(BaseCommand):
    help = "Keep orders coming, and now and then break the pretended third parties for some seconds."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--seed", type=int, help="the same seed orders the same things")

    def handle(self, *, seed: int | None, **_: Any) -> None:
        if not (settings.SANDBOX and settings.SANDBOX_URL):
            raise CommandError("There is no sandbox to break. Start `manage.py demo`, which also runs this command.")
        stopping = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stopping.set())
        simulator = Simulator(Sandbox(settings.SANDBOX_URL), random.Random(seed), time.monotonic())
        pause = 0.2
        while not stopping.wait(pause):
            pause = self.step(simulator)

    def step(self, simulator: Simulator) -> float:
        """Do what is due; returns how many seconds to wait before the next look."""
        try:
            for event in simulator.run_once(time.monotonic()):
                self.stdout.write(event)
            self.stdout.flush()
        except QueueFull as full:
            self.stdout.write(f"The shop is full; back in {full.retry_after} s.")
            return float(full.retry_after)
        return 0.2
