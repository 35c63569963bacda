"""Static files under ASGI."""

from typing import Any

from django.http import HttpRequest, HttpResponse
from whitenoise.middleware import WhiteNoiseMiddleware


class StaticFilesMiddleware(WhiteNoiseMiddleware):
    """WhiteNoise hands out files to be read bit by bit, and not in the way that an asynchronous server reads.

    Django would warn, read all of it, and leave the file open. Ours are small, so they are read at once.
    """

    @staticmethod
    def serve(static_file: Any, request: HttpRequest) -> HttpResponse:
        found = WhiteNoiseMiddleware.serve(static_file, request)
        answer = HttpResponse(found.getvalue(), status=found.status_code, headers=dict(found.items()))
        if found.file_to_stream is not None:
            found.file_to_stream.close()
        return answer
