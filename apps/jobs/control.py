"""`AsyncResult.revoke()` and `app.control.revoke(id)`, for jobs of the ledger.

Problem. Celery tells the workers that are there to drop the message. The ledger sends it again, and a worker that
starts later has not heard.

Guarantee. A job of the ledger is cancelled in its row: at once if nobody runs it, else at its next checkpoint, and in a
prefork pool by the end of its process when its lease is next renewed. `terminate` and `signal` add nothing to that.

Not guaranteed. A job without checkpoints in another pool runs to its end. `revoke_by_stamped_headers`, and a revoke by
a client that is not this application, only reach messages: the jobs are sent again.
"""

from typing import Any
from uuid import UUID

from celery.app.control import Control

from apps.jobs.ids import job_id_of


class JobControl(Control):
    def revoke(self, task_id: str | UUID | list[str], *args: Any, **kwargs: Any) -> Any:
        # `celery inspect` and `celery control` make this object in a process in which Django was never set up.
        from apps.jobs import ledger

        ids = [task_id] if isinstance(task_id, str | UUID) else task_id
        without_row = [each for each in ids if ledger.cancel(job_id_of(each)) is None]
        return super().revoke(without_row, *args, **kwargs) if without_row else None
