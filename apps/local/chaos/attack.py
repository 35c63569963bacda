"""Carry out a plan: strikes at their times, while the processes are looked after and the producers work."""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

import psycopg
import redis

from apps.local.chaos.audit import Window
from apps.local.chaos.faults import FAULTS, Course, Hit
from apps.local.chaos.plan import Plan, Strike
from apps.local.chaos.producer import Producers
from apps.local.chaos.world import World

LOOP = 0.05
# A strike that met nothing shows nothing: another one had taken away what it needed. It is made so often in all.
TRIES = 3
PROGRESS_EVERY = 10.0
# A slow machine stretches a plan to twice its length and more; past this it waits for something that will not come.
LONGEST, AND_AT_LEAST = 4.0, 300.0


class NeverOver(Exception):
    """The attack did not come to its end; the message says what it still waited for."""


@dataclass
class Underway:
    strike: Strike
    course: Course
    began: float
    resumes: float


@dataclass
class Landed:
    """A strike that is over. `hit` is None if it could not be carried out."""

    strike: Strike
    hit: Hit | None
    window: Window


@dataclass
class Attack:
    world: World
    plan: Plan
    producers: Producers
    waiting: list[Strike] = field(init=False)
    under_way: list[Underway] = field(default_factory=list)
    landed: list[Landed] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.waiting = list(self.plan.strikes)

    def carry_out(self) -> None:
        """Until every strike has landed and the producers have all their jobs. Raises NeverOver."""
        self.began = time.monotonic()
        tell = Regularly(PROGRESS_EVERY, self._tell)
        try:
            while self.waiting or self.under_way or self.producers.are_busy:
                self._give_up_in_the_end()
                self.world.fleet.tend()
                self._start_due()
                for strike in list(self.under_way):
                    self._go_on(strike)
                if not self.waiting and not self.under_way:
                    self.producers.plan_is_over.set()
                tell()
                time.sleep(LOOP)
        finally:
            # What a strike still has to undo, it undoes while its server is there.
            for strike in self.under_way:
                strike.course.close()

    def _give_up_in_the_end(self) -> None:
        longest = self.plan.seconds * LONGEST + AND_AT_LEAST
        if time.monotonic() - self.began > longest:
            raise NeverOver(f"The attack was not over after {longest:.0f} s; under way: {self._names_under_way()}")

    def _start_due(self) -> None:
        """A strike waits while another one still has its resource: a slow machine stretches the plan."""
        busy = set().union(*(FAULTS[each.strike.fault].kind.occupied for each in self.under_way))
        for strike in list(self.waiting):
            occupied = FAULTS[strike.fault].kind.occupied
            if strike.at > time.monotonic() - self.began:
                continue
            if not occupied & busy:
                self.waiting.remove(strike)
                course = FAULTS[strike.fault].strike(self.world, strike.choice)
                self.under_way.append(Underway(strike, course, time.time(), 0.0))
            # Also what is still in use: whoever comes later must not keep one that needs several waiting for ever.
            busy |= occupied

    def _go_on(self, underway: Underway) -> None:
        if time.monotonic() < underway.resumes:
            return
        try:
            underway.resumes = time.monotonic() + next(underway.course)
        except StopIteration as end:
            self._land(underway, end.value)
        except (redis.RedisError, psycopg.Error):
            # Another fault has taken away what this one needed. It did what it could.
            self._land(underway, None)

    def _land(self, underway: Underway, hit: Hit | None) -> None:
        self.under_way.remove(underway)
        window = Window(underway.strike.fault, underway.began, time.time())
        self.landed.append(Landed(underway.strike, hit, window))
        tries = [each for each in self.landed if each.strike == underway.strike]
        if underway.strike.fault in self.untried() and len(tries) < TRIES:
            self.waiting.append(underway.strike)

    def untried(self) -> set[str]:
        """The faults that have met nothing so far."""
        met = {landed.strike.fault for landed in self.landed if landed.hit and landed.hit.number}
        return {landed.strike.fault for landed in self.landed} - met

    def _tell(self) -> None:
        live: object = "?"
        with suppress(psycopg.Error):
            live = self.world.live()
        accepted = self.world.journal.count
        strikes = self._names_under_way()
        self.world.say(f"{accepted} of {self.plan.jobs} jobs accepted, {live} live; under way: {strikes}")

    def _names_under_way(self) -> str:
        return ", ".join(each.strike.fault for each in self.under_way) or "nothing"


@dataclass
class Regularly:
    """Calls `do` at most every `seconds`, however often it is called itself."""

    seconds: float
    do: Callable[[], None]
    due: float = 0.0

    def __call__(self) -> None:
        if time.monotonic() >= self.due:
            self.due = time.monotonic() + self.seconds
            self.do()
