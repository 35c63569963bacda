import gc
from unittest.mock import Mock

from apps.jobs.garbage import FreezeStep


def test_what_is_there_before_the_first_job_is_not_looked_through_for_garbage() -> None:
    gc.unfreeze()
    try:
        FreezeStep(Mock())
        assert gc.get_freeze_count() > 100_000
    finally:
        gc.unfreeze()
