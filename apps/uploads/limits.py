from collections.abc import Callable
from functools import wraps

from django.http import HttpRequest, HttpResponseBase
from django.shortcuts import render

from apps.uploads.kinds import MAX_BYTES

# Room for the form's other fields and the multipart borders.
ENVELOPE = 64 * 1024
# Of any request: nothing else that the shop takes is as large as an upload (config/asgi.py).
MAX_BODY_BYTES = MAX_BYTES + ENVELOPE

View = Callable[[HttpRequest], HttpResponseBase]


def refuses_large_bodies(view: View) -> View:
    """Answer 413 with a page when the request announces more bytes than a file may have.

    `config/body_limit.py` has thrown them away by then. Must wrap the CSRF check, which would find neither the form nor
    its token in what is left. A body without an announced length is cut off there, and up to that measured by the form.
    """

    @wraps(view)
    def guarded(request: HttpRequest) -> HttpResponseBase:
        announced = request.META.get("CONTENT_LENGTH") or "0"
        if announced.isdecimal() and int(announced) > MAX_BODY_BYTES:
            sentence = f"This file is too large: at most {MAX_BYTES // 1024**2} MB are allowed."
            return render(request, "uploads/refused.html", {"sentence": sentence}, status=413)
        return view(request)

    return guarded
