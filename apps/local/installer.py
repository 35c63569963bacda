"""Install a hashed lock file into an environment: with progress while it runs, and one sentence when it fails.

pip fetches uv, and uv the rest, in 15 s where pip alone takes a minute. Standard library only, like its caller, whose
lock each process inherits (`close_fds=False`).
"""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from typing import IO

from apps.local.places import private_folder

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
    print(f"Installing {total} packages into .venv (once) …", flush=True)
    private_folder(log.parent)  # whose other logs tell of orders, names and addresses
    log.write_text("")
    if not (with_uv(lock, python, log, total) or with_pip(lock, python, log, total)):
        raise InstallationFailed(explain(log))
    print(f"Installed in {time.monotonic() - started:.0f} s.", flush=True)


def with_uv(lock: Path, python: Path, log: Path, total: int) -> bool:
    """Copied, not linked: whoever edits a file in .venv must not edit uv's cache, and with it the next environment."""
    uv = shutil.which("uv") or fetch_uv(lock, python, log)
    if uv is None:
        return False
    # uv reads none of pip's settings; a company's index and its certificate are often the only way out.
    pips = {"UV_DEFAULT_INDEX": "PIP_INDEX_URL", "SSL_CERT_FILE": "PIP_CERT"}
    settings = {"UV_SYSTEM_CERTS": "1"} | {uvs: os.environ[name] for uvs, name in pips.items() if name in os.environ}
    install = [uv, "pip", "install", "--link-mode=copy", "--python", python, *exactly(lock)]
    return follow(install, log, total, settings | os.environ)


def fetch_uv(lock: Path, python: Path, log: Path) -> Path | None:
    """The release that the lock file names, with its hashes, into the environment."""
    pinned = re.search(r"^uv==.*?\n(?=\S)", lock.read_text() + "#", re.MULTILINE | re.DOTALL)
    if pinned is None:
        return None
    only_uv = log.with_name("uv.txt")
    only_uv.write_text(pinned[0])
    return python.with_name("uv") if with_pip(only_uv, python, log, total=1) else None


def with_pip(lock: Path, python: Path, log: Path, total: int) -> bool:
    pip = [*find_pip(python, log), "install", *exactly(lock), "--no-compile", "--no-input", "--progress-bar=off"]
    quiet = ["--disable-pip-version-check", "--root-user-action=ignore", "--retries=2", "--timeout=20"]
    return follow([*pip, *quiet], log, total)


def exactly(lock: Path) -> list[str | Path]:
    return ["--require-hashes", "--only-binary=:all:", "-r", lock]


def find_pip(python: Path, log: Path) -> list[str | Path]:
    """The one that this Python has. To give the environment a pip of its own takes ten seconds."""
    if find_spec("pip") and knows_other_pythons(metadata.version("pip")):
        return [sys.executable, "-m", "pip", "--python", python]
    if find_spec("ensurepip"):
        with log.open("a") as output:
            subprocess.run([python, "-m", "ensurepip"], stdout=output, stderr=output, check=False, close_fds=False)
        return [python, "-m", "pip"]
    version = "{}.{}".format(*sys.version_info)
    raise InstallationFailed(
        f"This Python has neither pip 22.3 nor ensurepip. Install one of them, for example: "
        f"sudo apt install python{version}-venv (Debian, Ubuntu) or sudo dnf install python3-pip (Fedora)."
    )


def knows_other_pythons(pip: str) -> bool:
    """By `--python`, which came with 22.3. Ubuntu 22.04 has 22.0.2 for all of its Pythons."""
    return [int(number) for number in re.findall(r"\d+", pip)[:2]] >= [22, 3]


def follow(command: Sequence[str | Path], log: Path, total: int, env: Mapping[str, str] = os.environ) -> bool:
    """Run it, keep what it says in the log, and show how far it is."""
    progress = Progress(total)
    with (
        log.open("a") as record,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env, close_fds=False
        ) as process,
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
            elif line.startswith(("Installing", "Prepared")):
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
