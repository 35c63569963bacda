"""A task called with what it cannot work with ends at once in the dead letters, and leaves nothing behind."""

from collections.abc import Callable
from typing import Any

import pytest

import tasks
from apps.jobs import ledger
from apps.jobs.ledger import NewJob
from apps.jobs.models import DeadLetter, Job
from apps.notifications.models import SentMail
from apps.payments.models import Charge, Refund
from apps.sandbox.client import Sandbox
from apps.uploads.models import ImportPart
from tests.jobs.bench import Bench
from tests.shop import an_order

# For each task the argument that names a row, and the others.
NAMES: dict[Any, tuple[str, dict[str, Any]]] = {
    tasks.apply_supplier_change: ("change_id", {}),
    tasks.batch_import_part: ("upload_id", {"first_row": 0, "rows": 10}),
    tasks.batch_import_products: ("upload_id", {}),
    tasks.call_external_api: ("record_id", {}),
    tasks.charge_customer: ("order_id", {}),
    tasks.critical_password_reset: ("user_id", {}),
    tasks.fail_import: ("upload_id", {}),
    tasks.generate_report: ("report_id", {}),
    tasks.process_upload: ("upload_id", {}),
    tasks.refund_charge: ("charge_id", {}),
    tasks.send_email: ("user_id", {"template": "welcome"}),
    tasks.send_reminder: ("user_id", {}),
    tasks.send_report: ("report_id", {}),
    tasks.send_welcome_email: ("user_id", {}),
    tasks.summarise_import: ("upload_id", {}),
    tasks.sync_to_external_api: ("record_id", {}),
}
NO_ROWS = [404, 0, -1, 10**30]
NO_IDS = [None, "abc", "", "1", [1], {"id": 1}, [], 1.0, 7.9, True]


def letter_of(bench: Bench, task: Any, kwargs: dict[str, Any]) -> DeadLetter:
    [recorded] = ledger.record([NewJob(task=task.name, args=[], kwargs=kwargs, queue="default")])
    bench.run_due()
    job = Job.objects.get(pk=recorded.id)
    assert (job.state, job.attempts, job.retries) == (Job.State.DEAD, 1, 0)
    return DeadLetter.objects.get(job_id=recorded.id)


def nothing_is_left() -> bool:
    return not any(model.objects.exists() for model in (Charge, Refund, SentMail, ImportPart))


def test_each_task_that_takes_an_id_is_looked_at_here() -> None:
    exported = {value for value in vars(tasks).values() if hasattr(value, "apply_async")}
    others = {tasks.cleanup_old_records, tasks.send_sqs_message, tasks.sync_external_data}
    assert {task for task in exported if not task.name.startswith("tasks.lab_")} == {*NAMES, *others}


@pytest.mark.parametrize("bad", NO_ROWS, ids=repr)
@pytest.mark.parametrize("task", NAMES, ids=lambda task: task.name)
def test_an_id_that_names_no_row_is_permanent(bench: Bench, sandbox: Sandbox, task: Any, bad: Any) -> None:
    name, others = NAMES[task]
    assert letter_of(bench, task, {name: bad, **others}).kind == DeadLetter.Kind.PERMANENT
    assert nothing_is_left()


@pytest.mark.parametrize("bad", NO_IDS, ids=repr)
@pytest.mark.parametrize("task", NAMES, ids=lambda task: task.name)
def test_what_is_no_id_is_wrong_arguments(bench: Bench, task: Any, bad: Any) -> None:
    name, others = NAMES[task]
    letter = letter_of(bench, task, {name: bad, **others})
    assert letter.kind == DeadLetter.Kind.WRONG_ARGUMENTS
    assert letter.message == f"{name} has to be of the type int, not {type(bad).__name__}."
    assert nothing_is_left()


@pytest.mark.parametrize("cast", [str, float, lambda order_id: order_id + 0.9], ids=["str", "float", "fraction"])
def test_what_django_would_take_for_an_orders_id_charges_nobody(
    bench: Bench, sandbox: Sandbox, cast: Callable[[int], Any]
) -> None:
    order = an_order()
    letter_of(bench, tasks.charge_customer, {"order_id": cast(order.pk)})
    assert sandbox.charges(order.pk) == []
    assert nothing_is_left()


@pytest.mark.parametrize("kwargs", [{}, {"nonsense": 1}], ids=repr)
@pytest.mark.parametrize("task", NAMES, ids=lambda task: task.name)
def test_arguments_that_are_missing_or_too_many_are_wrong_arguments(
    bench: Bench, task: Any, kwargs: dict[str, Any]
) -> None:
    name, others = NAMES[task]
    given = {name: 1, **others, **kwargs} if kwargs else {}
    assert letter_of(bench, task, given).kind == DeadLetter.Kind.WRONG_ARGUMENTS
    assert nothing_is_left()
