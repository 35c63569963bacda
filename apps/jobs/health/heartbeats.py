"""The heartbeats of relays and beats: rows that say that a process was there, and in order, a moment ago.

Problem. A relay or a beat that is gone raises no error: jobs are recorded, and nothing happens.

Guarantee. Each writes a row of its own every five seconds, from the loop that does its work: one that hangs falls
silent as one that is dead. What keeps it from its work, it writes down.

Not guaranteed. Without the database nobody can write that he lives; but then nobody can work either.
"""

import os
import socket
import time
from typing import Any

from django.db.models.functions import Now

from apps.jobs.health import heartbeat_file
from apps.jobs.models import Heartbeat

# Several of them, and a busy machine's delay on top, are less than what `apps.jobs.health.working` calls silence.
BEAT_EVERY = 5.0


class Heart:
    """Of this process. Call `beat` as often as you like from the loop that works; it writes when it is time to.

    trouble: what keeps the process from its work, in a sentence. seen: figures that only it could look at.
    """

    def __init__(self, process: Heartbeat.Process) -> None:
        self.process = process
        self.name = f"{process}@{socket.gethostname()}:{os.getpid()}"
        self.seen: dict[str, Any] = {}
        self.trouble = ""
        self.next_beat = 0.0

    def beat(self) -> None:
        """Raises the database's own errors."""
        if time.monotonic() < self.next_beat:
            return
        heartbeat_file.touch()
        said = {"process": self.process, "heartbeat_at": Now(), "trouble": self.trouble, "seen": self.seen}
        Heartbeat.objects.update_or_create(name=self.name, defaults=said)
        self.next_beat = time.monotonic() + BEAT_EVERY

    def stop(self) -> None:
        """In good order: whoever looks now sees at once whether another one is there."""
        Heartbeat.objects.filter(name=self.name).delete()
