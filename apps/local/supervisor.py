"""Run the lines of a Procfile, restart what crashes, and stop everything in an order that loses nothing.

A stop signals only the main process of each line: signalling a worker's whole process group would kill the pool under
the running jobs, and there would be nothing left to finish them. If the supervisor itself is killed, the kernel kills
its children (see `children`).
"""

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from apps.local.children import is_alive, kill_orphans, kill_tree, spawn
from apps.local.places import ROOT
from apps.local.procfile import Line
from apps.local.waiting import wait_for

# A stop goes through these, one after the other: first those that make work, then those that do it, then the relay, to
# which a worker hands back what it could not finish, then the third parties that jobs were talking to.
STOP_ORDER = (
    ("simulator", "web", "beat", "flower"),
    ("worker", "worker-high", "worker-low", "worker-io"),
    ("relay",),
    ("sandbox", "moto"),
)
# A worker hands its jobs back after JOBS_SHUTDOWN_GRACE (20 s) and needs a moment for that.
GRACE = 25.0
# A process that stays up for this long has recovered: its next crash is a new one.
SETTLED = 60.0
LONGEST_PAUSE = 30.0


@dataclass
class Running:
    """One line and the process that runs it now, if any."""

    line: Line
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    crashes: int = 0
    due: float = 0.0
    family: list[psutil.Process] = field(default_factory=list)

    @property
    def is_up(self) -> bool:
        return self.process is not None and self.process.poll() is None


def pause_after(crashes: int) -> float:
    """1, 2, 4 … 30 s: a process that cannot start must not keep the machine busy with trying."""
    return min(LONGEST_PAUSE, 2.0 ** (crashes - 1))


class Supervisor:
    """Call it from the main thread only: its children die with the thread that started them."""

    def __init__(self, environment: Mapping[str, str], folder: Path, say: Callable[[str, str], None]) -> None:
        self.environment = environment
        self.logs = folder / "log"
        self.pids = folder / "run"
        self.say = say
        self.running: dict[str, Running] = {}
        self.stop_requests = 0

    def start(self, lines: Iterable[Line]) -> None:
        for line in lines:
            self.running[line.name] = Running(line)
            keep_one_old_log(self.log(line.name))
            self._launch(self.running[line.name])

    def log(self, name: str) -> Path:
        return self.logs / f"{name}.log"

    def listen_for_signals(self) -> None:
        """Its own handlers, because a shell starts a command in the background with SIGINT ignored.

        Who has the hang-up ignored, with `nohup`, means to close the terminal and leave this running.
        """
        numbers = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
            numbers.append(signal.SIGHUP)
        for number in numbers:
            signal.signal(number, self._request_stop)

    def restart_crashed(self) -> None:
        now = time.monotonic()
        for running in self.running.values():
            if running.process and running.process.poll() is not None:
                # A pool at work would go on beside the new one's, and outlive a stop.
                kill_orphans(running.process)
                self._note_crash(running, running.process.returncode, now)
            elif running.process is None and now >= running.due:
                self._launch(running)

    def stop(self, order: Sequence[Sequence[str]] = STOP_ORDER, grace: float = GRACE) -> None:
        """Stop each group in its turn, and what the order does not name at the end. A second signal cuts it short."""
        named = {name for group in order for name in group}
        for group in (*order, [name for name in self.running if name not in named]):
            self._stop_group([self.running[name] for name in group if name in self.running], grace)
        self.running.clear()

    def _launch(self, running: Running) -> None:
        name = running.line.name
        running.started = time.monotonic()
        running.process = spawn(
            self._command(running.line),
            log=self.log(name),
            cwd=ROOT,
            env=self.environment,
            pid_file=self.pids / f"{name}.pid",
        )
        if running.crashes:
            self.say(name, "started again")

    def _command(self, line: Line) -> list[str]:
        """Programs come from the environment that runs this, whatever else is on the PATH."""
        program, *arguments = line.arguments(self.environment)
        if program == "python":
            return [sys.executable, *arguments]
        return [shutil.which(program, path=str(Path(sys.executable).parent)) or program, *arguments]

    def _note_crash(self, running: Running, code: int, now: float) -> None:
        settled = now - running.started > SETTLED
        running.crashes = 1 if settled else running.crashes + 1
        pause = pause_after(running.crashes)
        running.due = now + pause
        running.process = None
        name = running.line.name
        self.say(name, f"{ending_of(code)}; starting it again in {pause:.0f} s (see {self.log(name)})")

    def _stop_group(self, group: Sequence[Running], grace: float) -> None:
        for running in group:
            self._ask_to_stop(running)
        wait_for(lambda: self.stop_requests > 1 or not any(running.is_up for running in group), grace)
        for running in group:
            self._finish(running)

    def _ask_to_stop(self, running: Running) -> None:
        if running.process is None:
            return
        if running.is_up:
            main = psutil.Process(running.process.pid)
            running.family = [main, *main.children(recursive=True)]
            running.process.terminate()
        else:
            kill_orphans(running.process)

    def _finish(self, running: Running) -> None:
        name = running.line.name
        if running.process is None:
            return
        if running.is_up:
            self.say(name, "killed")
            kill_tree(psutil.Process(running.process.pid))
        running.process.wait()
        for orphan in running.family:
            if is_alive(orphan):
                kill_tree(orphan)
        (self.pids / f"{name}.pid").unlink(missing_ok=True)
        running.process = None

    def _request_stop(self, *_: object) -> None:
        self.stop_requests += 1


def ending_of(code: int) -> str:
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"


def keep_one_old_log(log: Path) -> None:
    if log.exists():
        log.replace(log.with_suffix(".old.log"))
