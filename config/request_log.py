"""One log line for each request that was answered."""

import logging
import time
from collections.abc import Callable

from django.http import HttpRequest, HttpResponse

from config.logging import PROBES

logger = logging.getLogger(__name__)


class RequestLogMiddleware:
    """Without the query, in which people search for names. Links that sign somebody in are masked by config/logging."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        began = time.monotonic()
        response = self.get_response(request)
        fields = {
            "method": request.method,
            "path": request.path,
            "status": response.status_code,
            "milliseconds": round(1000 * (time.monotonic() - began)),
        }
        logger.log(logging.DEBUG if request.path.startswith(PROBES) else logging.INFO, "Answered", extra=fields)
        return response
