from collections.abc import Callable
from functools import wraps

from django.http import HttpRequest, HttpResponseBase
from django.shortcuts import render

from apps.uploads.kinds import MAX_BYTES

# Room for the form's other fields and the multipart borders.
ENVELOPE = 64 * 1024

View = Callable[[HttpRequest], HttpResponseBase]


def refuses_large_bodies(view: View) -> View:
    """Answer 413 before anything is read, when the request announces more bytes than a file may have.

    Must wrap the CSRF check, which reads the form and with it the file. A body without an announced length is measured
    by the form.
    """

    @wraps(view)
    def guarded(request: HttpRequest) -> HttpResponseBase:
        announced = request.META.get("CONTENT_LENGTH") or "0"
        if announced.isdecimal() and int(announced) > MAX_BYTES + ENVELOPE:
            sentence = f"This file is too large: at most {MAX_BYTES // 1024**2} MB are allowed."
            return render(request, "uploads/refused.html", {"sentence": sentence}, status=413)
        return view(request)

    return guarded
