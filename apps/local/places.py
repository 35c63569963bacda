"""Where things are: the checkout, and `var/`, which holds everything that a run leaves behind."""

import os
import secrets
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
VAR = ROOT / "var"


def private_folder(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    return path


def write_private(path: Path, text: str) -> None:
    """Replace the file in one step; nobody but its owner can read it, not even for a moment."""
    private_folder(path.parent)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with open(draft, "w", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write(text)
    draft.replace(path)


def kept_secret(name: str, folder: Path = VAR / "secrets") -> str:
    """A random word, made at the first call and the same ever after, so that a second start finds its data again."""
    path = folder / name
    if not path.is_file():
        write_private(path, secrets.token_urlsafe(24))
    return path.read_text()
