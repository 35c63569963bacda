"""Mail as jobs: trouble that passes is tried again, an address that does not exist is not, and a key is sent once."""

from datetime import timedelta

import pytest
from django.contrib.auth.models import User
from django.utils import timezone

import tasks
from apps.jobs.models import DeadLetter, Job
from apps.sandbox.client import Sandbox
from tests.cast import shopkeeper
from tests.jobs.bench import Bench

pytestmark = pytest.mark.django_db


@pytest.fixture
def ada() -> User:
    return shopkeeper("ada")


def test_a_mail_server_in_trouble_is_asked_again_later(ada: User, bench: Bench, mail_server: Sandbox) -> None:
    mail_server.fault("mail", "error", count=2)
    result = tasks.send_email.delay(user_id=ada.pk, template="welcome")
    bench.run_all()
    assert (bench.job(result).state, bench.job(result).retries) == (Job.State.SUCCEEDED, 2)
    assert len(mail_server.mail(to=ada.email)) == 1


def test_an_address_that_does_not_exist_is_a_dead_letter_at_once(ada: User, bench: Bench, mail_server: Sandbox) -> None:
    User.objects.filter(pk=ada.pk).update(email="nobody@invalid.example")
    result = tasks.send_email.delay(user_id=ada.pk, template="welcome")
    bench.run_all()
    assert bench.letter(result).kind == DeadLetter.Kind.PERMANENT
    assert bench.job(result).attempts == 1


def test_a_server_that_stays_in_trouble_ends_in_the_dead_letters(ada: User, bench: Bench, mail_server: Sandbox) -> None:
    mail_server.fault("mail", "error")
    result = tasks.send_reminder.delay(user_id=ada.pk)
    bench.run_all()
    assert bench.letter(result).kind == DeadLetter.Kind.EXHAUSTED


@pytest.mark.parametrize(
    ("task", "arguments"),
    [
        ("send_email", {"template": "welcome"}),
        ("send_welcome_email", {}),
        ("send_reminder", {}),
        ("critical_password_reset", {}),
    ],
)
def test_a_mail_whose_message_comes_twice_goes_out_once(
    ada: User, bench: Bench, mail_server: Sandbox, task: str, arguments: dict[str, str]
) -> None:
    getattr(tasks, task).delay(user_id=ada.pk, **arguments)
    [message] = bench.send()
    bench.deliver(message)
    bench.deliver(message)
    assert len(mail_server.mail()) == 1


def test_a_user_is_welcomed_once_even_when_asked_again_later(ada: User, bench: Bench, mail_server: Sandbox) -> None:
    first, second = (tasks.send_welcome_email.delay(user_id=ada.pk) for _ in range(2))
    assert first.id == second.id
    bench.run_all()
    tasks.send_welcome_email.delay(user_id=ada.pk)
    bench.run_all()
    assert len(mail_server.mail()) == 1


def test_a_reminder_waits_in_the_ledger(ada: User, bench: Bench, mail_server: Sandbox) -> None:
    result = tasks.send_reminder.apply_async(kwargs={"user_id": ada.pk}, countdown=3600)
    assert bench.run_due() == 0
    assert bench.job(result).run_at > timezone.now() + timedelta(minutes=59)


def test_a_mail_to_a_user_who_was_deleted_is_a_dead_letter_at_once(bench: Bench, mail_server: Sandbox) -> None:
    result = tasks.send_email.delay(user_id=404, template="welcome")
    bench.run_all()
    assert bench.letter(result).kind == DeadLetter.Kind.PERMANENT
