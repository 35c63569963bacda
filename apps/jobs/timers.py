"""Timers of time limits that did not strike.

Problem. Every job has a time limit, and so a timer in the worker's main process. When the job ends the timer is only
marked, and lies in the queue until its time has come: four minutes here, 200 MB at 2,000 jobs a second.

Guarantee. Marked timers are dropped as soon as they are more than those that still count.
"""

from heapq import heapify
from typing import Any

from celery import bootsteps

EVERY = 5.0


def drop_cancelled(timer: Any) -> None:
    """In place: the event loop holds on to the list. From a timer, when nobody is in the middle of reading it."""
    queue = timer._queue
    counting = [scheduled for scheduled in queue if not scheduled.entry.canceled]
    if len(counting) < len(queue) / 2:
        queue[:] = counting
        heapify(queue)


class TimersStep(bootsteps.StartStopStep):
    """Where there is an event loop: other pools have no time limits, or none of Celery's."""

    requires = ("celery.worker.components:Timer",)

    def include_if(self, parent: Any) -> bool:
        return bool(parent.use_eventloop)

    def start(self, parent: Any) -> None:
        parent.timer.call_repeatedly(EVERY, drop_cancelled, (parent.timer,))
