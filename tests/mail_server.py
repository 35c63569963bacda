from urllib.parse import urlsplit

import pytest
from pytest_django import Settings

from apps.sandbox.client import Sandbox


@pytest.fixture
def mail_server(sandbox: Sandbox, settings: Settings) -> Sandbox:
    """The sandbox, and a shop that hands its mail to it over SMTP."""
    server = urlsplit(sandbox.mail_url)
    settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    settings.EMAIL_HOST, settings.EMAIL_PORT = server.hostname, server.port
    return sandbox
