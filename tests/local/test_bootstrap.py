import errno
import fcntl
import os
import shutil
import subprocess
import sys
import textwrap
from importlib import metadata
from pathlib import Path

import psutil
import pytest

from apps.local import bootstrap, installer
from apps.local.places import ROOT
from apps.local.waiting import wait_for

# What pip and uv really print, shortened.
OUTPUTS = {
    "no network": (
        "Retrying (Retry(total=0)) after connection broken by 'NewConnectionError('<...>: Failed to establish a new "
        "connection: [Errno -3] Temporary failure in name resolution')': /simple/aiosmtpd/\n"
        "ERROR: Could not find a version that satisfies the requirement aiosmtpd==1.4.6 (from versions: none)"
    ),
    "no network for uv": "error: Failed to fetch: https://index.example/\n  cause: dns error: failed to look up",
    "hash mismatch": "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE. If you have",
    "damaged lock": "ERROR: Invalid requirement: '%%%': Expected package name at the start of dependency specifier",
    "no wheel": "ERROR: No matching distribution found for gevent==26.9.0",
    "disk full": "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device",
    "unknown": "thread 'main' panicked",
}
SENTENCES = {
    "no network": "The package index cannot be reached.",
    "no network for uv": "The package index cannot be reached.",
    "hash mismatch": "requirements.lock and the package index disagree",
    "damaged lock": "requirements.lock is damaged.",
    "no wheel": "A package has no ready-made build for this machine.",
    "disk full": "The disk is full.",
    "unknown": "The packages could not be installed. What the installer said is in",
}


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout that has never been set up, on a machine that has no packages."""
    venv = tmp_path / ".venv"
    (tmp_path / "requirements.lock").write_text("six==1.17.0")
    places = {"ROOT": tmp_path, "LOCK": tmp_path / "requirements.lock", "VENV": venv}
    places |= {"PYTHON": venv / "bin" / "python", "STAMP": venv / "nightshift-lock"}
    for name, place in places.items():
        monkeypatch.setattr(bootstrap, name, place)
    monkeypatch.setattr(bootstrap, "PROBES", ("no_such_package",))
    return tmp_path


class Restarted(Exception):
    """The command started again, in its new environment."""


def fail(*_: object, **__: object) -> None:
    raise installer.InstallationFailed("The disk is full.")


def restart(*_: object) -> None:
    raise Restarted


@pytest.mark.parametrize("case", OUTPUTS)
def test_what_went_wrong_is_said_in_one_sentence(case: str, tmp_path: Path) -> None:
    log = tmp_path / "install.log"
    log.write_text(OUTPUTS[case])
    assert installer.explain(log).startswith(SENTENCES[case])


@pytest.mark.parametrize("rest", ["", "vine==5.1.0 --hash=sha256:bb\n"])
def test_uv_is_fetched_in_the_release_and_with_the_hashes_of_the_lock_file(
    rest: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def with_pip(lock: Path, *_: object, **__: object) -> bool:
        asked.append(lock.read_text())
        return True

    monkeypatch.setattr(installer, "with_pip", with_pip)
    lock, pinned = tmp_path / "requirements.lock", "uv==0.13.9 \\\n    --hash=sha256:aa\n    # via nightshift\n"
    lock.write_text(f"urllib3==2.8.0 --hash=sha256:cc\n{pinned}{rest}")
    assert installer.fetch_uv(lock, tmp_path / "python", tmp_path / "log") == tmp_path / "uv"
    assert asked == [pinned]


def test_without_uv_pip_installs_the_lock_file_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Path] = []

    def with_pip(lock: Path, *_: object, **__: object) -> bool:
        asked.append(lock)
        return True

    monkeypatch.setattr(shutil, "which", lambda _: None)
    monkeypatch.setattr(installer, "with_pip", with_pip)
    lock = tmp_path / "requirements.lock"
    lock.write_text("six==1.17.0\n")
    installer.install(lock, tmp_path / "python", log=tmp_path / "log" / "install.log")
    assert asked == [lock]


def test_a_missing_lock_file_is_said_in_one_sentence(checkout: Path) -> None:
    (checkout / "requirements.lock").unlink()
    with pytest.raises(SystemExit, match=r"^nightshift: requirements.lock is missing. Restore it: git checkout"):
        bootstrap.ensure()


def test_an_installation_that_failed_is_done_again(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installer, "install", fail)
    with pytest.raises(SystemExit, match=r"^nightshift: The disk is full\.$"):
        bootstrap.ensure()
    assert not bootstrap.is_current()
    monkeypatch.setattr(installer, "install", lambda *_, **__: None)
    monkeypatch.setattr(os, "execv", restart)
    with pytest.raises(Restarted):
        bootstrap.ensure()
    assert bootstrap.is_current()


def test_nobody_installs_beside_an_installer_whose_command_was_killed(tmp_path: Path) -> None:
    script = textwrap.dedent(f"""
        from pathlib import Path
        from apps.local import bootstrap, installer
        bootstrap.ROOT = Path({str(tmp_path)!r})
        with bootstrap.one_at_a_time():
            installer.follow(["sleep", "600"], bootstrap.ROOT / "install.log", 1)
    """)
    command = psutil.Popen([sys.executable, "-c", script], cwd=ROOT)
    assert wait_for(lambda: bool(command.children()), 20)
    [installing] = command.children()
    command.kill()
    command.wait()
    with (tmp_path / "var" / "install.lock").open() as lock:
        try:
            with pytest.raises(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        finally:
            installing.kill()
        fcntl.flock(lock, fcntl.LOCK_EX)


def test_a_python_that_makes_no_environment_is_said_in_one_sentence(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = checkout / "python"
    python.write_text("#!/bin/sh\necho Traceback >&2\necho No module named venv >&2\nexit 1\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "_base_executable", str(python))
    with pytest.raises(SystemExit, match=r"^nightshift: \S+ cannot make an environment .* No module named venv$"):
        bootstrap.ensure()


@pytest.mark.parametrize("trouble", [errno.ENOSPC, errno.EROFS])
def test_a_full_disk_or_one_that_cannot_be_written_is_said_in_one_sentence(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, trouble: int
) -> None:
    def refused() -> None:
        raise OSError(trouble, os.strerror(trouble), "var")

    monkeypatch.setattr(bootstrap, "install", refused)
    with pytest.raises(SystemExit, match=r"^nightshift: var: .*needs a folder with about 600 MB"):
        bootstrap.ensure()


@pytest.mark.parametrize("closed", ["", "var", "var/demo.lock"])
def test_a_folder_that_is_somebody_elses_is_said_in_one_sentence_before_anything_starts(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, closed: str
) -> None:
    bootstrap.require_writable()
    if closed:
        (checkout / "var").mkdir()
        (checkout / "var" / "demo.lock").touch()
    bootstrap.require_writable()
    # Root may write everywhere.
    monkeypatch.setattr(os, "access", lambda path, _: path != checkout / closed)
    with pytest.raises(SystemExit, match=rf"^nightshift: {checkout / closed} cannot be written\. Make it yours \(sudo"):
        bootstrap.require_writable()


def test_a_machine_without_pip_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(installer, "find_spec", {}.get)
    with pytest.raises(installer.InstallationFailed, match=r"sudo apt install python3\.\d+-venv"):
        installer.find_pip(Path("python"), tmp_path / "log")


@pytest.mark.parametrize(("release", "lent"), [("22.0.2", False), ("22.3", True), ("26.1.dev0", True)])
def test_a_pip_that_installs_for_no_other_python_is_not_lent(
    release: str, lent: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(installer, "find_spec", lambda _: True)
    monkeypatch.setattr(metadata, "version", lambda _: release)
    pip = installer.find_pip(Path("true"), tmp_path / "log")
    assert pip == ([sys.executable, "-m", "pip", "--python", Path("true")] if lent else [Path("true"), "-m", "pip"])


def test_the_environment_is_made_again_for_another_lock_file_or_folder(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bootstrap.make_environment()
    assert not bootstrap.is_current()
    bootstrap.STAMP.write_text(bootstrap.fingerprint())
    assert bootstrap.is_current()
    bootstrap.LOCK.write_text("six==1.17.1")
    assert not bootstrap.is_current()
    bootstrap.LOCK.write_text("six==1.17.0")
    monkeypatch.setattr(bootstrap, "VENV", checkout / "moved")
    assert not bootstrap.is_current()


def test_nothing_happens_where_the_packages_are_importable() -> None:
    bootstrap.ensure()


@pytest.mark.parametrize("module", ["bootstrap", "installer"])
def test_the_bootstrap_needs_nothing_but_the_standard_library(module: str) -> None:
    bare_python = sys._base_executable  # type: ignore[attr-defined]
    command = [bare_python, "-I", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); import apps.local.{module}"]
    subprocess.run(command, check=True)
