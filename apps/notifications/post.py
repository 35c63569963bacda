"""Handing a mail to the mail server, and what its answers mean.

Django's EMAIL_* settings say which server. SMTP's own rule decides: an answer in the 400s may be another one later, an
answer in the 500s will not.
"""

import hashlib
import smtplib
from email.utils import parseaddr

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.mail import EmailMultiAlternatives
from django.core.validators import validate_email


class MailUnavailable(Exception):
    """The mail server cannot be reached, or cannot take this mail now."""


class MailRefused(Exception):
    """The mail server will never take this mail."""


class AddressRefused(MailRefused):
    """There is no such address, or it cannot be one."""


def post(key: str, address: str, subject: str, text: str, html: str) -> None:
    """Hand over one mail. Raises `MailUnavailable`, `MailRefused` or `AddressRefused`.

    The same key gives the same Message-ID, so a mail system that gets it twice can tell.
    """
    check_address(address)
    mail = EmailMultiAlternatives(subject, text, to=[address], headers=_headers(key))
    mail.attach_alternative(html, "text/html")
    try:
        mail.send()
    except (smtplib.SMTPException, OSError) as error:
        raise _meaning(error, address) from error


def check_address(address: str) -> None:
    try:
        validate_email(address)
    except ValidationError as error:
        raise AddressRefused(f"“{address}” is not a mail address.") from error


def message_id(key: str) -> str:
    domain = parseaddr(settings.DEFAULT_FROM_EMAIL)[1].partition("@")[2]
    return f"<{hashlib.sha256(key.encode()).hexdigest()[:40]}@{domain}>"


def _headers(key: str) -> dict[str, str]:
    # The second one keeps holiday answers away: RFC 3834.
    return {"Message-ID": message_id(key), "Auto-Submitted": "auto-generated"}


def _meaning(error: Exception, address: str) -> Exception:
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        # The only one. Its key is not always our address: Django writes an international domain in ASCII.
        [(code, answer)] = error.recipients.values()
        return _answer(code, answer, AddressRefused(f"The mail server refuses the address {address}: {_said(answer)}"))
    if isinstance(error, smtplib.SMTPNotSupportedError):
        return AddressRefused(f"The mail server cannot write to an address like {address}.")
    if isinstance(error, smtplib.SMTPResponseException):
        said = _said(error.smtp_error)
        return _answer(error.smtp_code, error.smtp_error, MailRefused(f"The mail server refuses this mail: {said}"))
    return MailUnavailable(f"The mail server cannot be reached: {error}")


def _answer(code: int, answer: bytes | str, refused: MailRefused) -> Exception:
    return refused if code >= 500 else MailUnavailable(f"The mail server says to come later: {code} {_said(answer)}")


def _said(answer: bytes | str) -> str:
    return answer.decode(errors="replace") if isinstance(answer, bytes) else answer
