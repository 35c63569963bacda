"""What load balancers, orchestrators and alerts ask. Strangers are told yes or no; insiders are told why.

Each answer is kept for a second, in this process: whoever asks more often costs nothing. Whoever asks while it is being
found waits for it, and holds no connection to the database meanwhile.
"""

from collections.abc import Callable
from threading import Lock

from django.core.cache import cache
from django.db import connection
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from apps.jobs import connections
from apps.jobs.health import readiness, working
from apps.jobs.health.insiders import is_insider
from apps.jobs.health.reasons import Reason

KEPT_SECONDS = 1.0
READY, WORKERS = "nightshift.ready", "nightshift.workers"
_asking = {READY: Lock(), WORKERS: Lock()}


@require_safe
@never_cache
def live(_: HttpRequest) -> HttpResponse:
    """This process answers. Nothing else is asked: what is broken elsewhere is not mended by restarting it."""
    return JsonResponse({"status": "ok"})


@require_safe
@never_cache
def ready(request: HttpRequest) -> HttpResponse:
    """This process can serve: database, migrations, broker."""
    return _answer(request, _kept(READY, readiness.troubles))


@require_safe
@never_cache
def workers(request: HttpRequest) -> HttpResponse:
    """Jobs are worked off: workers, queues, relay, beat."""
    return _answer(request, _kept(WORKERS, working.troubles))


def _kept(name: str, find: Callable[[], list[Reason]]) -> list[Reason]:
    with _asking[name]:
        found = cache.get(name)
        if found is None:
            found = _found(find)
            cache.set(name, found, KEPT_SECONDS)
        return list(found)


def _found(find: Callable[[], list[Reason]]) -> list[Reason]:
    try:
        return find()
    except connections.UNREADABLE as exc:
        connection.close()
        return [Reason("database", "database", f"The database cannot be read: {str(exc).strip()}")]


def forget() -> None:
    """Ask anew the next time."""
    cache.delete_many([READY, WORKERS])


def _answer(request: HttpRequest, reasons: list[Reason]) -> HttpResponse:
    answer: dict[str, object] = {"status": "failing" if reasons else "ok"}
    if is_insider(request):
        answer["reasons"] = [vars(reason) for reason in reasons]
    return JsonResponse(answer, status=503 if reasons else 200)
