"""Install a hashed lock file into an environment: with progress while it runs, and one sentence when it fails.

Standard library only, like its caller.
"""

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from typing import IO

# What the installers say, in the order in which to look for it, and what is true then.
FAILURES = {
    r"DO NOT MATCH THE HASHES|[Hh]ash mismatch": (
        "requirements.lock and the package index disagree about what a package contains, so nothing was trusted. "
        "Restore the lock file (git checkout requirements.lock) or, if it is unchanged, ask the index's owner."
    ),
    r"No space left on device": "The disk is full. Nightshift needs about 600 MB for its packages.",
    r"Invalid requirement|[Hh]ashes are required|versions pinned|Couldn't parse|hash.*malformed": (
        "requirements.lock is damaged. Restore it: git checkout requirements.lock"
    ),
    r"NewConnectionError|Failed to establish|[Nn]ame ?[Rr]esolution|getaddrinfo|dns error|ProxyError|SSLError|"
    r"[Nn]etwork is unreachable|Connection refused|timed out|ConnectTimeout|error sending request": (
        "The package index cannot be reached. Connect to the network (or set HTTPS_PROXY or PIP_INDEX_URL) "
        "and run the same command again."
    ),
    r"No matching distribution|no wheels|has no usable wheels|Could not find a version": (
        "A package has no ready-made build for this machine. Nightshift runs on Linux and macOS, on x86_64 and arm64, "
        "with Python 3.11 to 3.14."
    ),
}


class InstallationFailed(Exception):
    """Its message is the one sentence that the person reads."""


def install(lock: Path, python: Path, *, log: Path) -> None:
    """Raise InstallationFailed unless every package is installed with the hash that the lock file names."""
    started = time.monotonic()
    total = len(re.findall(r"^[\w.-]+==", lock.read_text(), re.MULTILINE))
    print(f"Installing {total} packages into .venv (about a minute, once) …", flush=True)
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("")
    if not (with_uv(lock, python, log, total) or with_pip(lock, python, log, total)):
        raise InstallationFailed(explain(log))
    print(f"Installed in {time.monotonic() - started:.0f} s.", flush=True)


def with_uv(lock: Path, python: Path, log: Path, total: int) -> bool:
    """uv takes a third of the time. Where it is missing, or does not work, pip is asked."""
    uv = shutil.which("uv")
    return uv is not None and follow([uv, "pip", "install", "--python", python, *exactly(lock)], log, total)


def with_pip(lock: Path, python: Path, log: Path, total: int) -> bool:
    pip = [*find_pip(python, log), "install", *exactly(lock), "--no-compile", "--no-input", "--progress-bar=off"]
    quiet = ["--disable-pip-version-check", "--root-user-action=ignore", "--retries=2", "--timeout=20"]
    return follow([*pip, *quiet], log, total)


def exactly(lock: Path) -> list[str | Path]:
    return ["--require-hashes", "--only-binary=:all:", "-r", lock]


def find_pip(python: Path, log: Path) -> list[str | Path]:
    """The environment's own pip; Debian's Python cannot make one, but its own pip may be there."""
    if find_spec("ensurepip"):
        with log.open("a") as output:
            subprocess.run([python, "-m", "ensurepip"], stdout=output, stderr=output, check=False)
        return [python, "-m", "pip"]
    if find_spec("pip"):
        return [sys.executable, "-m", "pip", "--python", python]
    version = "{}.{}".format(*sys.version_info)
    raise InstallationFailed(
        f"This Python has neither pip nor ensurepip. Install one of them, for example: "
        f"sudo apt install python{version}-venv (Debian, Ubuntu) or sudo dnf install python3-pip (Fedora)."
    )


def follow(command: Sequence[str | Path], log: Path, total: int) -> bool:
    """Run it, keep what it says in the log, and show how far it is."""
    progress = Progress(total)
    with (
        log.open("a") as record,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process,
    ):
        reader = Thread(target=progress.read, args=(process.stdout, record), daemon=True)
        reader.start()
        while process.poll() is None:
            progress.draw()
            time.sleep(0.2)
        reader.join()
    progress.clear()
    return process.returncode == 0


class Progress:
    """One live line in a terminal; elsewhere a line every fifteen seconds, which is what a log can bear."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.fetched = 0
        self.step = "fetching"
        self.started = self.drawn = time.monotonic()
        self.live = sys.stdout.isatty()

    def read(self, lines: IO[str], record: IO[str]) -> None:
        for line in lines:
            record.write(line)
            if line.startswith("Collecting"):
                self.fetched += 1
            elif line.startswith("Installing"):
                self.step = "unpacking"

    def draw(self) -> None:
        now = time.monotonic()
        if now - self.drawn > (0.2 if self.live else 15):
            self.drawn = now
            counted = f" {self.fetched} of {self.total}" if self.fetched and self.step == "fetching" else ""
            line = f"  {self.step}{counted} … {now - self.started:.0f} s"
            print(f"\r{line:<40}" if self.live else line, end="" if self.live else "\n", flush=True)

    def clear(self) -> None:
        if self.live:
            print(f"\r{'':<40}\r", end="", flush=True)


def explain(log: Path) -> str:
    output = log.read_text(errors="replace")
    for pattern, sentence in FAILURES.items():
        if re.search(pattern, output):
            return sentence
    return f"The packages could not be installed. What the installer said is in {log}"
