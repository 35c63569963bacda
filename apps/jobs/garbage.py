"""What a worker has loaded before its first job, which is never garbage.

Problem. Python's collector goes through all of it, half a million objects, whenever a quarter as many new ones have
outlived a few jobs: a tenth of a second, in a busy worker more than once a second. In a child of a pool each look also
copies the memory that it shares with its parent.

Guarantee. It is set apart before the pool is made, and not looked at again.
"""

import gc
from typing import Any

from celery import bootsteps


class FreezeStep(bootsteps.Step):
    def __init__(self, parent: Any, **options: Any) -> None:
        super().__init__(parent, **options)
        gc.collect()
        gc.freeze()
