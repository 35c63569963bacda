"""Stripe, by its own SDK: five calls, each with a time-out, and Stripe's errors in the shop's words.

Nothing here touches the database. Every call that changes something takes the idempotency key under which a repetition
is the same request; the SDK's own key is new on each call, and would charge twice.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cache

import stripe
from django.conf import settings

from apps.jobs.retry_after import seconds_to_wait
from apps.jobs.snooze import Snooze

# A connection that takes longer than 3 s will not come. Stripe answers a confirmation within a few seconds, but banks
# have been slow for 20; giving up sooner only makes more outcomes unknown.
TIMEOUT_SECONDS = (3.05, 25)

# The job's retry is the retry: it waits in the ledger with backoff, where the SDK would sleep in a worker.
NETWORK_RETRIES = 0

# Stripe keeps such a refund, and the money with the shop.
REFUND_CAME_TO_NOTHING = ("failed", "canceled")


class StripeUnavailable(Exception):
    """Stripe gave no final answer, so what it did is not known. The same request may be made again."""


class StripeKeySpent(StripeUnavailable):
    """Stripe keeps a 5xx as its answer to this idempotency key, and would repeat it for ever."""


class StripeBusy(Snooze):
    """Stripe did nothing and named the time to come back."""


class StripeMisconfigured(Exception):
    """Stripe does not accept the shop's API key."""


class StripeRefused(Exception):
    """Stripe will never accept this request as it stands."""


class CardDeclined(Exception):
    """The bank said no. The same card will say it again."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return f"The card was declined ({self.code}): {self.message}"


@dataclass(frozen=True)
class Intent:
    """A payment intent, as far as the shop reads it. `status` is Stripe's word."""

    id: str
    status: str
    amount_minor: int
    currency: str
    decline_code: str = ""
    decline_message: str = ""


@dataclass(frozen=True)
class Purse:
    """Whose money, and how much of it."""

    customer: str
    payment_method: str
    amount_minor: int
    currency: str


def create_intent(purse: Purse, *, metadata: dict[str, str], key: str) -> Intent:
    """Ask for an intent that is not confirmed yet: it can be found again, and it moves no money."""
    params: stripe.params.PaymentIntentCreateParams = {
        "amount": purse.amount_minor,
        "currency": purse.currency,
        "payment_method": purse.payment_method,
        # Nobody is there to be sent to a page of the bank's.
        "automatic_payment_methods": {"enabled": True, "allow_redirects": "never"},
        "metadata": metadata,
    }
    if purse.customer:
        params["customer"] = purse.customer
    with _translated():
        return _intent(_stripe().v1.payment_intents.create(params, {"idempotency_key": key}))


def confirm_intent(intent_id: str, *, key: str) -> Intent:
    """Move the money. Stripe pays an intent at most once, whatever the key. Raises CardDeclined."""
    with _translated():
        intents = _stripe().v1.payment_intents
        return _intent(intents.confirm(intent_id, {"off_session": True}, {"idempotency_key": key}))


def retrieve_intent(intent_id: str) -> Intent:
    with _translated():
        return _intent(_stripe().v1.payment_intents.retrieve(intent_id))


def find_intent(*, metadata: dict[str, str], customer: str, since: datetime) -> Intent | None:
    """Look an intent up by its metadata: `None` proves that Stripe never made it.

    It reads the list, not Stripe's search: the search's index lags by a minute or more, so it can prove nothing.
    """
    params: stripe.params.PaymentIntentListParams = {"created": {"gte": int(since.timestamp())}, "limit": 100}
    if customer:
        params["customer"] = customer
    with _translated():
        for intent in _stripe().v1.payment_intents.list(params).auto_paging_iter():
            if metadata.items() <= intent.metadata.to_dict().items():
                return _intent(intent)
    return None


def create_refund(intent_id: str, *, amount_minor: int, metadata: dict[str, str], key: str) -> str:
    """Give money back, and return Stripe's id of the refund. Raises StripeRefused for one that has failed already."""
    with _translated():
        refund = _stripe().v1.refunds.create(
            {"payment_intent": intent_id, "amount": amount_minor, "metadata": metadata}, {"idempotency_key": key}
        )
    if refund.status in REFUND_CAME_TO_NOTHING:
        reason = refund.failure_reason or "no reason given"
        raise StripeRefused(f"Stripe's refund {refund.id} has {refund.status}: {reason}.")
    return refund.id


def find_refund(intent_id: str, *, amount_minor: int) -> str:
    """Stripe's id of the refund with which this much of the payment was given back, or an empty string.

    What was given back by hand may have been a part, or come in parts.
    """
    with _translated():
        refunds = list(_stripe().v1.refunds.list({"payment_intent": intent_id, "limit": 100}).auto_paging_iter())
    good = [refund for refund in refunds if refund.status not in REFUND_CAME_TO_NOTHING]
    return good[0].id if sum(refund.amount for refund in good) >= amount_minor else ""


def _stripe() -> stripe.StripeClient:
    return _client(settings.STRIPE_API_KEY, settings.STRIPE_API_BASE)


@cache
def _client(api_key: str, api_base: str) -> stripe.StripeClient:
    """One client a process: its HTTP client keeps a session, and so an open connection, in each thread."""
    return stripe.StripeClient(
        api_key,
        base_addresses={"api": api_base},
        max_network_retries=NETWORK_RETRIES,
        http_client=stripe.RequestsClient(timeout=TIMEOUT_SECONDS),
    )


def _intent(intent: stripe.PaymentIntent) -> Intent:
    error = intent.last_payment_error
    return Intent(
        id=intent.id,
        status=intent.status,
        amount_minor=intent.amount,
        currency=intent.currency,
        decline_code=(error.decline_code or error.code or "declined") if error else "",
        decline_message=(error.message or "") if error else "",
    )


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except stripe.CardError as error:
        raise _declined(error) from error
    except (stripe.AuthenticationError, stripe.PermissionError) as error:
        raise StripeMisconfigured(f"Stripe does not accept the shop's API key: {_reason(error)}") from error
    except stripe.StripeError as error:
        if not _may_pass_later(error):
            raise StripeRefused(f"Stripe refused the request: {_reason(error)}") from error
        raise _unavailable(error) from error


def _declined(error: stripe.CardError) -> CardDeclined:
    code = (error.error and error.error.decline_code) or error.code or "declined"
    return CardDeclined(code, error.user_message or "no reason given")


def _may_pass_later(error: stripe.StripeError) -> bool:
    """Stripe's own advice first; without it no answer, 409 (the key is in use), 429 and 5xx are passing troubles."""
    advice = error.headers and error.headers.get("Stripe-Should-Retry")
    if advice == "true":
        return True
    return isinstance(error, (stripe.APIConnectionError, stripe.APIError, stripe.RateLimitError))


def _unavailable(error: stripe.StripeError) -> Snooze | StripeUnavailable:
    headers = error.headers or {}
    wait = seconds_to_wait(headers.get("Retry-After"))
    if wait is not None:
        return StripeBusy(wait, f"Stripe asks to come back in {wait:.0f} s")
    if (error.http_status or 0) >= 500 and headers.get("Idempotent-Replayed") == "true":
        return StripeKeySpent(f"Stripe repeats an earlier failure: {_reason(error)}")
    return StripeUnavailable(f"Stripe gave no final answer: {_reason(error)}")


def _reason(error: stripe.StripeError) -> str:
    """On one line: the SDK wraps what it says about the network."""
    return " ".join((error.user_message or type(error).__name__).split())
