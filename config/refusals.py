"""Requests that end in an empty page, or in an error of the server's, unless somebody says a sentence."""

import codecs
from collections.abc import Callable

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.template.loader import render_to_string

FORM = "application/x-www-form-urlencoded"


class RefusalsMiddleware:
    """Django's 405 is an empty page. Who presses a button after a session has ended signs in, and lands on one.

    No text in PostgreSQL holds a NUL, and addresses, the admin's filters and sessions' cookies hand one on. A form in
    another encoding is refused by Django, whose page for developers then reads it again. In other requests Django takes
    any codec that Python has, also one that makes no text, and reads parts and addresses with it.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        if _holds_nul(request) or _is_foreign(request):
            return render(request, "400.html", status=400)
        response = self.get_response(request)
        if response.status_code == 405 and not response.content:
            response.content = render_to_string("405.html", request=request)
            # CommonMiddleware, inside this one, has counted the empty page.
            response["Content-Length"] = str(len(response.content))
        return response


def _holds_nul(request: HttpRequest) -> bool:
    texts = (request.META.get("QUERY_STRING", ""), request.path_info, *request.COOKIES.values())
    return any("%00" in text or "\0" in text for text in texts)


def _is_foreign(request: HttpRequest) -> bool:
    encoding = request.encoding or "utf-8"
    if request.content_type == FORM:
        return encoding.lower() != "utf-8"  # Django takes no other name of it either.
    return codecs.lookup(encoding).name != "utf-8"
