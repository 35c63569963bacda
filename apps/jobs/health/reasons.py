"""Why a probe is red."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Reason:
    """what: a word for machines. about: the queue, worker or process. said: a sentence for a person."""

    what: str
    about: str
    said: str
