"""What a page may load and run: what this site serves, whoever may have slipped something else into it."""

from collections.abc import Callable

from django.conf import settings
from django.http import HttpRequest, HttpResponse

# Browsers follow this to where a form's answer redirects, too: who signs in may have been on the way to the sandbox.
FORMS_LEAD_TO = " ".join(filter(None, ("'self'", settings.SANDBOX_URL)))
POLICY = f"default-src 'self'; base-uri 'none'; object-src 'none'; frame-ancestors 'none'; form-action {FORMS_LEAD_TO}"


class ContentPolicyMiddleware:
    """Not on Django's pages for developers, which have their scripts and styles in them."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self.get_response(request)
        if not (settings.DEBUG and response.status_code in (400, 404, 500)):
            response["Content-Security-Policy"] = POLICY
        return response
