"""The processes of a run: started, watched, started again when they die, and killed when the plan says so.

A process that the plan did not strike must not die: when one does, it is noted with its code, for the audit. So is one
that was asked to stop, and crashed over it.
"""

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from apps.local.children import family_of, spawn
from apps.local.places import ROOT
from apps.local.supervisor import ending_of
from apps.local.waiting import wait_for

# Long enough that a crash loop leaves the processor to the others.
PAUSE_AFTER_A_CRASH = 1.0
# The grace of the workers, and a moment to hand back what they could not finish.
STOP_SECONDS = 12.0


@dataclass(frozen=True)
class Exit:
    """A process that ended by itself. `at` is a Unix time."""

    name: str
    how: str
    at: float


@dataclass
class Member:
    name: str
    command: list[str]
    process: subprocess.Popen[bytes] | None = None
    due: float = 0.0
    struck: bool = False
    asked_to_stop: bool = False
    starts: int = 0

    @property
    def is_up(self) -> bool:
        return self.process is not None and self.process.poll() is None


@dataclass
class Fleet:
    """Call it from the main thread only: its children die with the thread that started them."""

    environment: Mapping[str, str]
    logs: Path
    members: dict[str, Member] = field(default_factory=dict)
    exits: list[Exit] = field(default_factory=list)

    def add(self, name: str, *command: str) -> None:
        program, *arguments = command
        path = sys.executable if program == "python" else shutil.which(program, path=str(Path(sys.executable).parent))
        self.members[name] = Member(name, [str(path), *arguments])
        self._launch(self.members[name])

    def tend(self) -> None:
        """Start again what is down."""
        for member in self.members.values():
            if member.process and member.process.poll() is not None:
                self._note_exit(member)
            if member.process is None and time.monotonic() >= member.due:
                self._launch(member)

    def family(self, name: str) -> list[psutil.Process]:
        process = self.members[name].process
        return family_of(process.pid) if process else []

    def children(self, name: str) -> list[psutil.Process]:
        return self.family(name)[1:]

    def kill(self, name: str) -> None:
        """`kill -9` of the process and all below it. The children are taken note of first, or they would get away."""
        self.strike(name)
        for process in self.family(name):
            with suppress(psutil.NoSuchProcess):
                process.kill()

    def terminate(self, name: str) -> None:
        """SIGTERM to the main process, as a deploy does."""
        self.members[name].asked_to_stop = True
        self.send(name, signal.SIGTERM)

    def strike(self, name: str) -> None:
        """It may end as it likes."""
        self.members[name].struck = True

    def note(self, name: str, how: str) -> None:
        self.exits.append(Exit(name, how, time.time()))

    def send(self, name: str, number: int) -> None:
        process = self.members[name].process
        if process and process.poll() is None:
            process.send_signal(number)

    def suspend(self, name: str) -> list[psutil.Process]:
        family = self.family(name)
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.suspend()
        return family

    def resume(self, family: Sequence[psutil.Process]) -> None:
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.resume()

    def remove(self, *names: str) -> None:
        """Stop these in good order, for ever; what outlasts its grace is killed."""
        going = [self.members.pop(name) for name in names if name in self.members]
        families = [family_of(member.process.pid) for member in going if member.process]
        for member in going:
            if member.process and member.is_up:
                member.process.terminate()
        wait_for(lambda: not any(member.is_up for member in going), STOP_SECONDS)
        for process in (process for family in families for process in family):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        for member in going:
            if member.process:
                member.process.wait()

    def log(self, name: str) -> Path:
        return self.logs / f"{name}.log"

    def _launch(self, member: Member) -> None:
        member.process = spawn(member.command, log=self.log(member.name), cwd=ROOT, env=self.environment)
        member.struck = False
        member.asked_to_stop = False
        member.starts += 1

    def _note_exit(self, member: Member) -> None:
        code = member.process.returncode if member.process else 0
        # Also past its grace, with jobs that it hands back, a worker ends with 0.
        is_meant = member.struck or (member.asked_to_stop and code == 0)
        if not is_meant:
            self.note(member.name, ending_of(code) + (" when it was asked to stop" if member.asked_to_stop else ""))
        member.process = None
        member.due = time.monotonic() + (0.0 if is_meant else PAUSE_AFTER_A_CRASH)

    def __iter__(self) -> Iterator[str]:
        return iter(self.members)
