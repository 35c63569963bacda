"""Mail: what may be tried again, what may not, and that one key is sent once."""

from smtplib import SMTPRecipientsRefused

import pytest
from django.contrib.auth.models import User
from django.core.exceptions import ObjectDoesNotExist
from django.core.mail import EmailMultiAlternatives
from pytest_django import Settings

from apps.notifications.letters import LETTERS, UnknownLetter, write
from apps.notifications.models import SentMail
from apps.notifications.post import AddressRefused, MailRefused, MailUnavailable, message_id, post
from apps.notifications.services import send
from apps.reports.models import Report
from apps.sandbox.client import Sandbox
from tests.cast import shopkeeper

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("mail_server")]


@pytest.fixture
def ada() -> User:
    return shopkeeper("ada")


def test_a_mail_goes_out_as_text_and_as_html(ada: User, sandbox: Sandbox) -> None:
    assert send("welcome:1", ada.pk, "welcome")
    [mail] = sandbox.mail(to=ada.email)
    assert mail["subject"] == "Welcome to Nightshift"
    assert "Hello ada," in mail["text"]
    assert "<p>Hello ada,</p>" in mail["html"]


def test_one_key_is_sent_once(ada: User, sandbox: Sandbox) -> None:
    assert send("job-1", ada.pk, "reminder")
    assert not send("job-1", ada.pk, "reminder")
    assert len(sandbox.mail()) == 1


@pytest.mark.parametrize("mode", ["error_after", "cut"])
def test_a_mail_that_had_to_be_sent_twice_can_be_recognised(ada: User, sandbox: Sandbox, mode: str) -> None:
    sandbox.fault("mail", mode, count=1)
    with pytest.raises(MailUnavailable):
        send("job-1", ada.pk, "reminder")
    send("job-1", ada.pk, "reminder")
    assert [mail["headers"]["Message-ID"] for mail in sandbox.mail()] == [message_id("job-1")] * 2


@pytest.mark.parametrize("mode", ["down", "error", "rate_limit"])
def test_trouble_that_may_pass_is_told_apart_and_leaves_no_record(ada: User, sandbox: Sandbox, mode: str) -> None:
    sandbox.fault("mail", mode, count=1)
    with pytest.raises(MailUnavailable):
        send("job-1", ada.pk, "reminder")
    assert not SentMail.objects.exists()
    assert send("job-1", ada.pk, "reminder")


def test_a_server_that_does_not_answer_in_time_is_unavailable(ada: User, sandbox: Sandbox, settings: Settings) -> None:
    settings.EMAIL_TIMEOUT = 0.2
    sandbox.fault("mail", "hang", count=1)
    with pytest.raises(MailUnavailable):
        send("job-1", ada.pk, "reminder")
    sandbox.clear()


def test_a_server_that_is_not_there_is_unavailable(ada: User, settings: Settings) -> None:
    settings.EMAIL_PORT = 1
    with pytest.raises(MailUnavailable, match="cannot be reached"):
        send("job-1", ada.pk, "reminder")


def test_a_mailbox_that_does_not_exist_is_refused_for_good(ada: User) -> None:
    User.objects.filter(pk=ada.pk).update(email="nobody@invalid.example")
    with pytest.raises(AddressRefused, match="No such mailbox"):
        send("job-1", ada.pk, "reminder")


@pytest.mark.parametrize("address", ["", "ada", "ada@", "ada@example.com\nBcc: all@example.com"])
def test_what_is_no_address_is_refused_without_asking_anybody(ada: User, sandbox: Sandbox, address: str) -> None:
    User.objects.filter(pk=ada.pk).update(email=address)
    with pytest.raises(AddressRefused, match="is not a mail address"):
        send("job-1", ada.pk, "reminder")
    assert sandbox.counts()["asked"].get("mail", {}) == {}


@pytest.mark.parametrize(("code", "meaning"), [(450, MailUnavailable), (550, AddressRefused)])
def test_an_answer_about_an_international_address_is_told_apart(
    monkeypatch: pytest.MonkeyPatch, code: int, meaning: type[Exception]
) -> None:
    def refuse(mail: EmailMultiAlternatives) -> None:
        raise SMTPRecipientsRefused({"x@xn--bcher-kva.de": (code, b"Not now.")})

    monkeypatch.setattr(EmailMultiAlternatives, "send", refuse)
    with pytest.raises(meaning):
        post("job-1", "x@bücher.de", "Hello", "Hello", "<p>Hello</p>")


def test_an_address_refusal_is_a_refusal_and_no_outage() -> None:
    assert issubclass(AddressRefused, MailRefused)
    assert not issubclass(AddressRefused, MailUnavailable)


def test_only_the_shops_own_letters_can_be_written(ada: User) -> None:
    with pytest.raises(UnknownLetter):
        write("../registration/login", ada)


@pytest.mark.parametrize("name", [name for name, letter in LETTERS.items() if not letter.about])
def test_each_plain_letter_can_be_written_in_both_forms(ada: User, name: str) -> None:
    written = write(name, ada, link="https://shop.example/x")
    assert "Hello ada" in written.text
    assert "Hello ada" in written.html


def test_markup_in_a_name_stays_text(ada: User) -> None:
    ada.first_name = "<b>Ada</b> & Co"
    written = write("welcome", ada)
    assert "Hello <b>Ada</b> & Co," in written.text
    assert "Hello &lt;b&gt;Ada&lt;/b&gt; &amp; Co," in written.html


def test_a_mail_about_anothers_report_is_not_written(ada: User) -> None:
    report = Report.objects.create(owner=shopkeeper("bert"), start="2026-01-01", end="2026-01-31")
    with pytest.raises(ObjectDoesNotExist):
        write("report_ready", ada, report.pk)
