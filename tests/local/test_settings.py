import re
from pathlib import Path

from apps.local.places import ROOT


def test_every_setting_is_explained_in_the_example() -> None:
    explained = set(re.findall(r"^([A-Z_0-9]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    read = {name for file in Path(ROOT, "config").glob("*.py") for name in settings_in(file.read_text())}
    assert read - explained == set()


def settings_in(source: str) -> list[str]:
    return re.findall(r"\benv\.\w+\(\s*\"([A-Z_0-9]+)\"", source)
