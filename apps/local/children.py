"""Child processes that do not outlive their parent.

On Linux the kernel signals a child when the thread that started it ends, however it ends. Elsewhere the pid file that
each child leaves lets the next start find and stop it. A pid alone proves nothing, since numbers are used again, so
the file holds the start time too; and its folder, since the file in a copy of a checkout names the original's child.
"""

import ctypes
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from apps.local.account import Account
from apps.local.places import private_folder, write_private
from apps.local.waiting import wait_for

PR_SET_PDEATHSIG = 1
# Loaded before the fork: between fork and exec a child must not take the loader's lock.
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


def _die_with_parent(number: int) -> Callable[[], None] | None:
    if _libc is None:
        return None
    parent = os.getpid()
    prctl = _libc.prctl

    def ask_the_kernel() -> None:
        """Runs after the change of user, which would clear the request."""
        prctl(PR_SET_PDEATHSIG, number)
        if os.getppid() != parent:
            # The parent died between the fork and the request.
            os._exit(1)

    return ask_the_kernel


def spawn(
    command: Sequence[str | Path],
    *,
    log: Path,
    cwd: Path,
    env: Mapping[str, str] | None = None,
    account: Account | None = None,
    pid_file: Path | None = None,
    when_orphaned: int = signal.SIGKILL,
) -> subprocess.Popen[bytes]:
    """Start a process in a session of its own, so that a terminal's Ctrl-C reaches the parent alone.

    Call it from a thread that lives as long as the child should (the main one): see above.
    """
    private_folder(log.parent)
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            env=env,
            start_new_session=True,
            preexec_fn=_die_with_parent(when_orphaned),  # noqa: PLW1509 - it makes one system call and takes no lock
            **(account.popen_options if account else {}),
        )
    if pid_file:
        remember(process.pid, pid_file)
    return process


def remember(pid: int, pid_file: Path) -> None:
    with suppress(psutil.NoSuchProcess):
        started = psutil.Process(pid).create_time()
        write_private(pid_file, json.dumps({"pid": pid, "started": started, "folder": folder_of(pid_file)}))


def remembered(pid_file: Path) -> psutil.Process | None:
    """The process that the file speaks of, if it still runs, is that very process, and was started from here."""
    try:
        noted = json.loads(pid_file.read_text())
        if noted["folder"] != folder_of(pid_file):
            return None
        process = psutil.Process(noted["pid"])
        # The start time is computed from the clock at boot, which time synchronisation moves a little.
        return process if abs(process.create_time() - noted["started"]) < 2 else None
    except (OSError, ValueError, KeyError, psutil.NoSuchProcess):
        return None


def folder_of(pid_file: Path) -> str:
    return str(pid_file.parent.resolve())


def sweep(folder: Path, seconds: float = 5) -> list[str]:
    """Stop what an earlier run left behind, by the pid files in `folder`; returns their names."""
    swept = []
    for pid_file in sorted(folder.glob("*.pid")):
        process = remembered(pid_file)
        if process:
            # PostgreSQL would wait for its clients to leave if it were asked with SIGTERM.
            kill_tree(process, signal.SIGINT, seconds)
            swept.append(pid_file.stem)
        pid_file.unlink(missing_ok=True)
    return swept


def kill_tree(process: psutil.Process, number: int = signal.SIGKILL, seconds: float = 5) -> None:
    """Signal the process; whatever of it and its children is left after `seconds` is killed."""
    with suppress(psutil.NoSuchProcess):
        family = [process, *process.children(recursive=True)]
        process.send_signal(number)
        _, alive = psutil.wait_procs(family, timeout=0 if number == signal.SIGKILL else seconds)
        for survivor in alive:
            with suppress(psutil.NoSuchProcess):
                survivor.kill()
        psutil.wait_procs(alive, timeout=seconds)


def kill_orphans(process: subprocess.Popen[bytes]) -> None:
    """What a child of `spawn` has left in its session. At once after its death: later its number may be another's."""
    with suppress(ProcessLookupError, PermissionError):  # macOS denies to signal a group of zombies
        os.killpg(process.pid, signal.SIGKILL)


def family_of(pid: int) -> list[psutil.Process]:
    """The process and all below it, or nothing if it is gone."""
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def is_alive(process: psutil.Process) -> bool:
    """A zombie, which only waits for its parent to take notice, counts as gone."""
    with suppress(psutil.NoSuchProcess):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False


def ended(process: subprocess.Popen[bytes], seconds: float) -> bool:
    return wait_for(lambda: process.poll() is not None, seconds)
