import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from apps.local.children import is_alive
from apps.local.places import ROOT
from apps.local.procfile import Line, read
from apps.local.supervisor import STOP_ORDER, Supervisor, pause_after
from apps.local.waiting import wait_for

OBEDIENT = Path(__file__).with_name("obedient.py")
NAMES = [line.name for name in ("Procfile", "Procfile.demo") for line in read(ROOT / name)]


class Play:
    """A supervisor, the file that its processes write to, and what it said."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "notes"
        self.file.touch()
        self.said: list[str] = []
        self.supervisor = Supervisor(os.environ, folder, lambda name, what: self.said.append(f"{name} {what}"))

    def line(self, name: str, manner: str = "") -> Line:
        return Line(name, f"python {OBEDIENT} {name} {self.file} {manner}")

    def start(self, *lines: Line) -> None:
        self.supervisor.start(lines)
        assert wait_for(lambda: len(self.notes("started")) == len(lines), 20)

    def notes(self, what: str) -> list[str]:
        return [line.split()[1] for line in self.file.read_text().splitlines() if line.startswith(what)]

    def started_twice(self) -> bool:
        self.supervisor.restart_crashed()
        return len(self.notes("started")) == 2

    def processes(self) -> list[psutil.Process]:
        """Each line's main process and the child below it."""
        mains = [psutil.Process(each.process.pid) for each in self.supervisor.running.values() if each.process]
        return mains + [child for main in mains for child in main.children()]


@pytest.fixture
def play(tmp_path: Path) -> Iterator[Play]:
    play = Play(tmp_path)
    yield play
    play.supervisor.stop_requests = 2
    play.supervisor.stop()


def test_every_line_of_the_procfile_has_its_place_in_the_stop_order() -> None:
    assert sorted(name for group in STOP_ORDER for name in group) == sorted(NAMES)


def test_processes_stop_in_the_order_that_loses_nothing_and_leave_no_child(play: Play) -> None:
    play.start(*(play.line(name) for name in ("relay", "worker", "web", "sandbox")))
    processes = play.processes()
    play.supervisor.stop()
    assert play.notes("stopped") == ["web", "worker", "relay", "sandbox"]
    assert len(processes) == 8
    assert not any(is_alive(process) for process in processes)


def test_a_process_that_will_not_stop_is_killed_with_its_children_after_its_grace(play: Play) -> None:
    play.start(play.line("worker", "stubborn"))
    processes = play.processes()
    play.supervisor.stop(grace=0.2)
    assert play.notes("stopped") == ["worker"]
    assert play.said == ["worker killed"]
    assert not any(is_alive(process) for process in processes)


def test_a_second_request_to_stop_cuts_the_grace_short(play: Play) -> None:
    play.start(play.line("worker", "stubborn"))
    play.supervisor.stop_requests = 2
    play.supervisor.stop(grace=600)
    assert play.said == ["worker killed"]


def test_a_process_that_crashes_is_started_again_after_a_pause_without_its_orphans(play: Play) -> None:
    play.start(play.line("relay"))
    main, child = play.processes()
    main.kill()
    assert wait_for(play.started_twice, 20)
    assert play.said[0].startswith("relay was killed by SIGKILL; starting it again in 1 s")
    assert play.said[1] == "relay started again"
    assert not is_alive(child)


def test_a_process_that_crashed_just_before_the_stop_leaves_no_child(play: Play) -> None:
    play.start(play.line("worker"))
    main, child = play.processes()
    main.kill()
    assert wait_for(lambda: not is_alive(main), 10)
    play.supervisor.stop()
    assert wait_for(lambda: not is_alive(child), 10)


def test_the_pause_doubles_up_to_half_a_minute() -> None:
    assert [pause_after(crashes) for crashes in (1, 2, 3, 9)] == [1, 2, 4, 30]


@pytest.mark.parametrize(("before", "asked"), [(signal.SIG_DFL, 2), (signal.SIG_IGN, 1)])
def test_a_closed_terminal_stops_everything_unless_nohup_was_asked_to_keep_it(
    before: signal.Handlers, asked: int, play: Play
) -> None:
    handlers = {number: signal.signal(number, before) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        play.supervisor.listen_for_signals()
        signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGINT)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert play.supervisor.stop_requests == asked


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the next start sweeps")
def test_nothing_is_left_when_the_supervisor_is_killed(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    script = textwrap.dedent(f"""
        import os
        import signal
        from pathlib import Path
        from apps.local.procfile import Line
        from apps.local.supervisor import Supervisor
        supervisor = Supervisor(os.environ, Path({str(tmp_path)!r}), print)
        supervisor.start([Line(name, "python {OBEDIENT} " + name + " {notes}") for name in ("web", "relay")])
        signal.pause()
    """)
    notes.touch()
    supervisor = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT)
    assert wait_for(lambda: len(notes.read_text().splitlines()) == 2, 20)
    mains = psutil.Process(supervisor.pid).children()
    orphans = [child for main in mains for child in main.children()]
    supervisor.kill()
    supervisor.wait()
    assert wait_for(lambda: not any(is_alive(main) for main in mains), 10)
    for orphan in orphans:
        orphan.kill()
