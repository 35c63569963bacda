"""The pretended mail server, asked by smtplib."""

import smtplib
from collections.abc import Iterator
from email.message import EmailMessage
from urllib.parse import urlsplit

import pytest

from apps.sandbox.client import Sandbox
from apps.sandbox.testing import running_sandbox


@pytest.fixture(scope="module")
def running() -> Iterator[Sandbox]:
    with running_sandbox() as sandbox:
        yield sandbox


@pytest.fixture
def sandbox(running: Sandbox) -> Sandbox:
    running.reset()
    return running


def send(sandbox: Sandbox, *to: str, timeout: float = 5) -> None:
    message = EmailMessage()
    message["Subject"] = "Grüße from the shop"
    message["From"], message["To"] = "shop@nightshift.example", ", ".join(to)
    message.set_content("Your order is on its way.\n")
    message.add_alternative("<p>Your order is on its way.</p>\n", subtype="html")
    address = urlsplit(sandbox.mail_url)
    with smtplib.SMTP(address.hostname or "", address.port or 0, timeout=timeout) as server:
        server.send_message(message)


def test_a_message_is_kept_and_can_be_read(sandbox: Sandbox) -> None:
    send(sandbox, "ada@example.com")
    message = sandbox.mail(to="ada@example.com")[0]
    assert (message["subject"], message["from"]) == ("Grüße from the shop", "shop@nightshift.example")
    assert message["text"] == "Your order is on its way.\n"
    assert message["html"] == "<p>Your order is on its way.</p>\n"
    assert sandbox.mail(to="bert@example.com") == []


def test_a_mailbox_that_does_not_exist_is_refused_for_good(sandbox: Sandbox) -> None:
    with pytest.raises(smtplib.SMTPRecipientsRefused) as refused:
        send(sandbox, "nobody@invalid.example")
    assert refused.value.recipients["nobody@invalid.example"][0] == 550
    assert sandbox.mail() == []


@pytest.mark.parametrize(("mode", "code"), [("error", 451), ("rate_limit", 421)])
def test_a_passing_trouble_has_a_code_that_says_so(sandbox: Sandbox, mode: str, code: int) -> None:
    sandbox.fault("mail", mode, count=1)
    with pytest.raises(smtplib.SMTPRecipientsRefused) as refused:
        send(sandbox, "ada@example.com")
    assert refused.value.recipients["ada@example.com"][0] == code
    send(sandbox, "ada@example.com")
    assert len(sandbox.mail()) == 1


def test_a_failure_after_the_work_has_taken_the_message(sandbox: Sandbox) -> None:
    sandbox.fault("mail", "error_after", count=1)
    with pytest.raises(smtplib.SMTPDataError) as failed:
        send(sandbox, "ada@example.com")
    assert failed.value.smtp_code == 451
    assert len(sandbox.mail()) == 1


@pytest.mark.parametrize(("mode", "taken"), [("down", 0), ("cut", 1)])
def test_a_lost_connection_may_or_may_not_have_taken_the_message(sandbox: Sandbox, mode: str, taken: int) -> None:
    sandbox.fault("mail", mode, count=1)
    with pytest.raises(smtplib.SMTPServerDisconnected):
        send(sandbox, "ada@example.com")
    assert len(sandbox.mail()) == taken


def test_a_server_that_holds_the_line_is_left_by_its_caller(sandbox: Sandbox) -> None:
    sandbox.fault("mail", "hang", count=1)
    with pytest.raises(smtplib.SMTPServerDisconnected, match="timed out"):
        send(sandbox, "ada@example.com", timeout=0.2)
    sandbox.clear()


def test_a_fault_can_be_kept_to_one_recipient(sandbox: Sandbox) -> None:
    sandbox.fault("mail", "error", matching="bert@")
    send(sandbox, "ada@example.com", "bert@example.com")
    assert [message["to"] for message in sandbox.mail()] == [["ada@example.com"]]
