"""Forgotten passwords: nobody learns who has an account, and no token waits in a queue."""

import re

import pytest
from django.contrib.auth.models import User
from django.core import mail
from django.test import Client
from django.urls import reverse
from pytest_django import Settings

import tasks
from apps.accounts import seed, services
from apps.jobs.models import Job
from config.queues import QueuePolicy
from tests.cast import shopkeeper

pytestmark = pytest.mark.django_db


def ask(client: Client, email: str) -> tuple[int, str]:
    response = client.post(reverse("password_reset"), {"email": email})
    return response.status_code, response.get("Location", "")


def resets() -> list[Job]:
    return list(Job.objects.filter(task=tasks.critical_password_reset.name))


def test_the_answer_is_the_same_for_a_user_and_for_nobody(client: Client) -> None:
    ada = shopkeeper("ada")
    assert ask(client, ada.email.upper()) == ask(client, "nobody@nightshift.example")
    [job] = resets()
    assert (job.kwargs, job.queue) == ({"user_id": ada.pk}, "high")


def test_the_answer_is_the_same_for_a_user_and_for_nobody_when_the_queue_is_full(
    client: Client, settings: Settings
) -> None:
    ada = shopkeeper("ada")
    settings.JOBS_QUEUES = {"high": QueuePolicy(max_depth=0, oldest_seconds=10)}
    asked = [client.post(reverse("password_reset"), {"email": email}) for email in (ada.email, "nobody@x.example")]
    assert [response.status_code for response in asked] == [503, 503]
    assert asked[0].text == asked[1].text


def test_each_account_that_shares_an_address_is_mailed_and_one_without_a_password_hides_no_other(
    client: Client,
) -> None:
    service, ada, bert = shopkeeper("service"), shopkeeper("ada"), shopkeeper("bert")
    User.objects.update(email="office@nightshift.example")
    User.objects.filter(pk=service.pk).update(password="!")
    ask(client, "office@nightshift.example")
    assert [job.kwargs["user_id"] for job in resets()] == [ada.pk, bert.pk]


def test_asking_again_and_again_sends_one_mail(client: Client) -> None:
    ada = shopkeeper("ada")
    for _ in range(5):
        ask(client, ada.email)
    assert len(resets()) == 1


def test_no_token_is_in_the_job(client: Client) -> None:
    ask(client, shopkeeper("ada").email)
    [job] = resets()
    assert set(job.kwargs) == {"user_id"}


def test_the_link_in_the_mail_changes_the_password_once(client: Client) -> None:
    ada = shopkeeper("ada")
    services.send_password_reset("job-1", ada.pk)
    [link] = re.findall(r"http://\S+", str(mail.outbox[0].body))[:1]
    form = client.get(link, follow=True)
    new = {"new_password1": "a-much-better-one", "new_password2": "a-much-better-one"}
    assert client.post(form.redirect_chain[-1][0], new)["Location"] == reverse("password_reset_complete")
    ada.refresh_from_db()
    assert ada.check_password("a-much-better-one")
    assert "used already" in Client().get(link, follow=True).content.decode()


@pytest.mark.parametrize("change", [{"is_active": False}, {"password": "!"}])
def test_an_account_that_cannot_sign_in_gets_no_mail(client: Client, change: dict[str, object]) -> None:
    ada = shopkeeper("ada")
    User.objects.filter(pk=ada.pk).update(**change)
    ask(client, ada.email)
    assert not resets()


def test_what_is_no_address_is_answered_with_a_sentence(client: Client) -> None:
    response = client.post(reverse("password_reset"), {"email": "ada"})
    assert response.status_code == 422
    assert "valid email address" in response.content.decode()


def test_the_cast_is_made_once() -> None:
    seed.seed()
    seed.seed()
    assert list(User.objects.order_by("username").values_list("username", "is_staff", "is_superuser")) == [
        ("ada", True, False),
        ("bert", True, False),
        ("cleo", True, False),
    ]
    ada = User.objects.get(username="ada")
    assert ada.has_perms(["jobs.view_deadletter", "orders.add_order", "orders.change_order", "catalog.change_product"])
    assert not ada.has_perm("orders.delete_order")
