"""The one address that Stripe calls."""

from django.core.exceptions import RequestDataTooBig
from django.http import HttpRequest, HttpResponse
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from apps.payments.webhooks import BadWebhook, WebhooksNotConfigured, receive, verified_event

# Stripe's events are a few kilobytes. What is longer is not worth the memory.
MAX_BODY_BYTES = 256 * 1024


# Stripe has no cookie to protect: its signature is the proof that CSRF tokens give elsewhere.
@csrf_exempt
@require_POST
def stripe_webhook(request: HttpRequest) -> HttpResponse:
    """Answer 200 once the event and what it changed are committed; Stripe repeats everything else."""
    try:
        body = request.body
    except RequestDataTooBig:
        return _answer(413, "This is longer than any event.")
    if len(body) > MAX_BODY_BYTES:
        return _answer(413, "This is longer than any event.")
    try:
        event = verified_event(body, request.headers.get("Stripe-Signature", ""))
    except WebhooksNotConfigured as error:
        return _answer(503, str(error))
    except BadWebhook as error:
        return _answer(400, str(error))
    return _answer(200, receive(event).outcome)


def _answer(status: int, sentence: str) -> HttpResponse:
    return HttpResponse(f"{sentence}\n", status=status, content_type="text/plain; charset=utf-8")
