"""Stripe, as far as the shop uses it: payment intents, refunds, customers, with Stripe's own rules for idempotency.

Known differences: a customer's id in a payment intent is taken as it comes, for the seed data names customers that
nobody created here; cards are known by their test names only; nothing is captured later or authenticated by a person;
a search finds an intent at once, where Stripe may take a minute; a refund that fails does so at once, where Stripe's
succeeds first.
"""

import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, ParamSpec

from flask import Blueprint, Response, jsonify, request

from apps.sandbox import gate
from apps.sandbox.faults import Mode, Trouble
from apps.sandbox.idempotency import Key, KeyInUse, KeyReused, fingerprint
from apps.sandbox.store import Document, Store
from apps.sandbox.world import world

stripe = Blueprint("stripe", __name__, url_prefix="/v1")

# Stripe's own test cards, by the name of their payment method: error code, decline code, what the customer reads.
DECLINED = "Your card was declined."
DECLINES = {
    "pm_card_chargeDeclined": ("card_declined", "generic_decline", DECLINED),
    "pm_card_chargeDeclinedInsufficientFunds": (
        "card_declined",
        "insufficient_funds",
        "Your card has insufficient funds.",
    ),
    "pm_card_chargeDeclinedLostCard": ("card_declined", "lost_card", DECLINED),
    "pm_card_chargeDeclinedStolenCard": ("card_declined", "stolen_card", DECLINED),
    "pm_card_chargeDeclinedExpiredCard": ("expired_card", "expired_card", "Your card has expired."),
    "pm_card_chargeDeclinedIncorrectCvc": ("incorrect_cvc", "incorrect_cvc", "Your card's security code is incorrect."),
    "pm_card_chargeDeclinedProcessingError": (
        "processing_error",
        "processing_error",
        "An error occurred while processing your card. Try again in a little bit.",
    ),
}
REFUND_FAILS = "pm_card_refundFail"
CARDS_THAT_PAY = {
    "pm_card_visa",
    "pm_card_visa_debit",
    "pm_card_mastercard",
    "pm_card_amex",
    "pm_card_discover",
    REFUND_FAILS,
}
# Stripe's own limit is eight digits.
LARGEST_AMOUNT = 99_999_999
# Taken and not acted on, beside those that the code below reads. Anything else is an error, so that a typo is found.
IGNORED_PARAMETERS = {
    "automatic_payment_methods",
    "capture_method",
    "description",
    "expand",
    "off_session",
    "payment_method_types",
    "reason",
    "receipt_email",
    "return_url",
    "statement_descriptor_suffix",
}

P = ParamSpec("P")


# --- Answers ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    status: int
    body: Document
    headers: dict[str, str] = field(default_factory=dict)

    def response(self) -> Response:
        response = jsonify(self.body)
        response.status_code = self.status
        response.headers.update({"Request-Id": f"req_{secrets.token_hex(7)}"} | self.headers)
        return response


class StripeError(Exception):
    """An answer that is not 200. `executed`: the endpoint had begun to work, so the answer is saved under the key."""

    def __init__(
        self, status: int, message: str, *, kind: str = "invalid_request_error", executed: bool = False, **more: object
    ) -> None:
        super().__init__(message)
        self.executed = executed
        self.answer = Answer(status, {"error": {"type": kind, "message": message} | more})


def no_such(thing: str, named: str, param: str = "id", status: int = 404) -> StripeError:
    return StripeError(status, f"No such {thing}: '{named}'", code="resource_missing", param=param)


# --- What happens around each request ---------------------------------------------------------------------------------


def endpoint(what: str) -> Callable[[Callable[P, Document]], Callable[P, Response]]:
    """Make a function that returns a document, or raises StripeError, into a view with keys, faults and counts."""

    def wrap(work: Callable[P, Document]) -> Callable[P, Response]:
        @wraps(work)
        def view(*args: P.args, **kwargs: P.kwargs) -> Response:
            trouble = gate.enter("stripe", what)
            try:
                answer = _answer(trouble, lambda: work(*args, **kwargs))
            except StripeError as error:
                answer = error.answer
            return gate.leave(trouble, answer.response())

        return view

    return wrap


def _answer(trouble: Trouble, work: Callable[[], Document]) -> Answer:
    _check_api_key()
    if request.method == "GET":
        gate.hold("stripe", trouble)
        return _after(trouble, _run(work))
    # A request without a key gets one of its own, which nobody will send again.
    name = request.headers.get("Idempotency-Key") or secrets.token_hex(16)
    account = request.headers.get("Stripe-Account", "acct_sandbox")
    return _answer_once(Key(account, name, fingerprint(request.path, request.form)), trouble, work)


def _check_api_key() -> None:
    given = request.headers.get("Authorization", "")
    if not secrets.compare_digest(given.encode(), f"Bearer {world().stripe_api_key}".encode()):
        raise StripeError(401, "Invalid API Key provided.", code="api_key_invalid")


def _answer_once(key: Key, trouble: Trouble, work: Callable[[], Document]) -> Answer:
    keys = world().keys
    try:
        with keys.in_flight(key):
            gate.hold("stripe", trouble)
            if saved := keys.saved(key):
                world().store.count("replayed", "stripe", str(request.url_rule))
                return _after(trouble, Answer(saved["status"], saved["body"], {"Idempotent-Replayed": "true"}))
            with world().store.transaction():
                answer = _after(trouble, _run(work))
                keys.save(key, answer.status, answer.body)
            return answer
    except KeyInUse as error:
        message = (
            f"There is currently another in-progress request using this idempotency key ({error}). Try again later."
        )
        raise StripeError(409, message, code="idempotency_key_in_use", kind="idempotency_error") from error
    except KeyReused as error:
        message = f"The idempotency key '{error}' can only be used with the parameters it was first used with."
        raise StripeError(400, message, kind="idempotency_error") from error


def _run(work: Callable[[], Document]) -> Answer:
    try:
        return Answer(200, work())
    except StripeError as error:
        if not error.executed:
            raise
        return error.answer


def _after(trouble: Trouble, answer: Answer) -> Answer:
    if not trouble.has(Mode.ERROR_AFTER):
        return answer
    return Answer(500, {"error": {"type": "api_error", "message": "The sandbox was switched to fail after the work."}})


# --- Parameters -------------------------------------------------------------------------------------------------------


def _check_parameters(*known: str) -> None:
    for name in request.values:
        if name.partition("[")[0] not in IGNORED_PARAMETERS.union(known):
            raise StripeError(400, f"Received unknown parameter: {name}", code="parameter_unknown", param=name)


def _required(name: str) -> str:
    if not (value := request.form.get(name)):
        raise StripeError(400, f"Missing required param: {name}.", code="parameter_missing", param=name)
    return value


def _amount(given: str) -> int:
    """Minor units: 1999 is 19.99 euro."""
    if not re.fullmatch(r"-?\d+", given):
        raise StripeError(400, f"Invalid integer: {given}", code="parameter_invalid_integer", param="amount")
    if (amount := int(given)) < 1:
        raise StripeError(400, "This value must be at least 1.", code="parameter_invalid_integer", param="amount")
    if amount > LARGEST_AMOUNT:
        raise StripeError(400, f"Amount must be no more than {LARGEST_AMOUNT}", code="amount_too_large", param="amount")
    return amount


def _currency(given: str) -> str:
    if not re.fullmatch(r"[a-z]{3}", given):
        raise StripeError(400, f"Invalid currency: {given}.", param="currency")
    return given


def _metadata() -> dict[str, str]:
    fields = ((re.fullmatch(r"metadata\[([^\]]+)\]", name), value) for name, value in request.form.items())
    return {match[1]: value for match, value in fields if match}


def _page(kind: str, url: str, by: str) -> Document:
    """One page, the newest first, by Stripe's `limit`, `starting_after`, `created[gte]` and the field `by`."""
    _check_parameters(by, "created", "limit", "starting_after")
    limit = _limit()
    where = {by: request.args[by]} if by in request.args else {}
    since = request.args.get("created[gte]", 0, type=int)
    found = [document for document in world().store.find(kind, where) if document["created"] >= since]
    if after := request.args.get("starting_after"):
        ids = [document["id"] for document in found]
        found = found[ids.index(after) + 1 :] if after in ids else []
    return {"object": "list", "url": url, "has_more": len(found) > limit, "data": found[:limit]}


def _limit() -> int:
    given = request.args.get("limit", "10")
    if not given.isdecimal() or not 1 <= int(given) <= 100:
        raise StripeError(400, "The limit is a number from 1 to 100.", code="parameter_invalid_integer", param="limit")
    return int(given)


# --- Payment intents --------------------------------------------------------------------------------------------------


@stripe.post("/payment_intents")
@endpoint("payment_intents.create")
def create_payment_intent() -> Document:
    _check_parameters("amount", "currency", "customer", "payment_method", "confirm", "metadata")
    amount, currency = _amount(_required("amount")), _currency(_required("currency"))
    card = request.form.get("payment_method")
    _check_card(card)
    intent = _new("pi", "payment_intent") | {
        "amount": amount,
        "amount_received": 0,
        "currency": currency,
        "customer": request.form.get("customer"),
        "description": request.form.get("description"),
        "last_payment_error": None,
        "latest_charge": None,
        "metadata": _metadata(),
        "payment_method": card,
        "status": "requires_confirmation" if card else "requires_payment_method",
    }
    intent["client_secret"] = f"{intent['id']}_secret_{secrets.token_hex(12)}"
    world().store.put("payment_intent", intent)
    _announce("payment_intent.created", intent)
    return _charge(intent) if request.form.get("confirm") == "true" else intent


@stripe.post("/payment_intents/<intent_id>/confirm")
@endpoint("payment_intents.confirm")
def confirm_payment_intent(intent_id: str) -> Document:
    _check_parameters("payment_method")
    card = request.form.get("payment_method")
    _check_card(card)
    intent = _payment_intent(intent_id)
    if intent["status"] == "succeeded":
        message = (
            "You cannot confirm this PaymentIntent because it has already succeeded after being previously confirmed."
        )
        raise StripeError(400, message, executed=True, code="payment_intent_unexpected_state", payment_intent=intent)
    intent["payment_method"] = card or intent["payment_method"]
    if intent["payment_method"] is None:
        message = "You cannot confirm this PaymentIntent because it's missing a payment method."
        raise StripeError(400, message, executed=True, code="payment_intent_unexpected_state", payment_intent=intent)
    return _charge(intent)


@stripe.get("/payment_intents/<intent_id>")
@endpoint("payment_intents.retrieve")
def retrieve_payment_intent(intent_id: str) -> Document:
    return _payment_intent(intent_id)


@stripe.get("/payment_intents")
@endpoint("payment_intents.list")
def list_payment_intents() -> Document:
    return _page("payment_intent", "/v1/payment_intents", by="customer")


@stripe.get("/payment_intents/search")
@endpoint("payment_intents.search")
def search_payment_intents() -> Document:
    _check_parameters("query", "limit", "page")
    where = dict(_clause(clause) for clause in request.args.get("query", "").split(" AND "))
    found = world().store.find("payment_intent", where, limit=_limit())
    return {
        "object": "search_result",
        "url": "/v1/payment_intents/search",
        "has_more": False,
        "next_page": None,
        "data": found,
    }


def _clause(clause: str) -> tuple[str, str]:
    """`metadata['order_id']:'5'` and `status:'succeeded'`: the part of Stripe's query language that the shop speaks."""
    match = re.fullmatch(r"""\s*(\w+)(?:\[['"](\w+)['"]\])?\s*:\s*['"]([^'"]*)['"]\s*""", clause)
    if not match:
        raise StripeError(400, f"We were unable to parse your search query: {clause}", param="query")
    name = f"{match[1]}.{match[2]}" if match[2] else match[1]
    return name, match[3]


def _payment_intent(intent_id: str) -> Document:
    if (intent := world().store.get("payment_intent", intent_id)) is None:
        raise no_such("payment_intent", intent_id, param="intent")
    return intent


def _check_card(card: str | None) -> None:
    if card is not None and card not in CARDS_THAT_PAY and card not in DECLINES:
        raise no_such("PaymentMethod", card, param="payment_method", status=400)


def _charge(intent: Document) -> Document:
    """Take the money, or raise the card's decline. Either way there is a charge to show for it, as with Stripe."""
    decline = DECLINES.get(intent["payment_method"])
    charge = _new("ch", "charge") | {
        "amount": intent["amount"],
        "amount_refunded": 0,
        "currency": intent["currency"],
        "customer": intent["customer"],
        "metadata": intent["metadata"],
        "paid": decline is None,
        "payment_intent": intent["id"],
        "payment_method": intent["payment_method"],
        "refunded": False,
        "status": "failed" if decline else "succeeded",
    }
    world().store.put("charge", charge)
    intent["latest_charge"] = charge["id"]
    return _decline(intent, *decline) if decline else _succeed(intent)


def _succeed(intent: Document) -> Document:
    intent |= {"status": "succeeded", "amount_received": intent["amount"], "last_payment_error": None}
    world().store.put("payment_intent", intent)
    _announce("payment_intent.succeeded", intent)
    return intent


def _decline(intent: Document, code: str, decline_code: str, message: str) -> Document:
    details = {"code": code, "decline_code": decline_code, "charge": intent["latest_charge"]}
    error = {"type": "card_error", "message": message} | details
    intent |= {"status": "requires_payment_method", "payment_method": None, "last_payment_error": error}
    world().store.put("payment_intent", intent)
    _announce("payment_intent.payment_failed", intent)
    raise StripeError(402, message, kind="card_error", executed=True, payment_intent=intent, **details)


# --- Refunds ----------------------------------------------------------------------------------------------------------


@stripe.post("/refunds")
@endpoint("refunds.create")
def create_refund() -> Document:
    _check_parameters("payment_intent", "charge", "amount", "metadata")
    charge = _refundable_charge()
    left = charge["amount"] - charge["amount_refunded"]
    if left == 0:
        message = f"Charge {charge['id']} has already been refunded."
        raise StripeError(400, message, executed=True, code="charge_already_refunded")
    amount = _amount(request.form["amount"]) if "amount" in request.form else left
    if amount > left:
        message = f"Refund amount ({amount}) is greater than unrefunded amount on charge ({left})."
        raise StripeError(400, message, executed=True, code="amount_too_large", param="amount")
    return _refund(charge, amount)


@stripe.get("/refunds")
@endpoint("refunds.list")
def list_refunds() -> Document:
    return _page("refund", "/v1/refunds", by="payment_intent")


@stripe.get("/refunds/<refund_id>")
@endpoint("refunds.retrieve")
def retrieve_refund(refund_id: str) -> Document:
    if (refund := world().store.get("refund", refund_id)) is None:
        raise no_such("refund", refund_id)
    return refund


def _refundable_charge() -> Document:
    if intent_id := request.form.get("payment_intent"):
        charge_id = _payment_intent(intent_id)["latest_charge"]
    else:
        charge_id = _required("charge")
    charge = world().store.get("charge", charge_id or "")
    if charge is None:
        raise no_such("charge", charge_id or "", param="charge")
    if charge["status"] != "succeeded":
        raise StripeError(400, f"Charge {charge['id']} has not succeeded.", executed=True, code="charge_not_refundable")
    return charge


def _refund(charge: Document, amount: int) -> Document:
    refund = _new("re", "refund") | {
        "amount": amount,
        "charge": charge["id"],
        "currency": charge["currency"],
        "metadata": _metadata(),
        "payment_intent": charge["payment_intent"],
        "reason": request.form.get("reason"),
        "status": "succeeded",
    }
    if charge["payment_method"] == REFUND_FAILS:
        refund |= {"status": "failed", "failure_reason": "expired_or_canceled_card"}
        world().store.put("refund", refund)
        _announce("refund.failed", refund)
        return refund
    charge["amount_refunded"] += amount
    charge["refunded"] = charge["amount_refunded"] == charge["amount"]
    world().store.put("refund", refund)
    world().store.put("charge", charge)
    _announce("charge.refunded", charge)
    return refund


# --- Customers --------------------------------------------------------------------------------------------------------


@stripe.post("/customers")
@endpoint("customers.create")
def create_customer() -> Document:
    _check_parameters("email", "name", "metadata", "payment_method")
    customer = _new("cus", "customer") | {
        "email": request.form.get("email"),
        "name": request.form.get("name"),
        "metadata": _metadata(),
    }
    world().store.put("customer", customer)
    return customer


@stripe.get("/customers/<customer_id>")
@endpoint("customers.retrieve")
def retrieve_customer(customer_id: str) -> Document:
    if (customer := world().store.get("customer", customer_id)) is None:
        raise no_such("customer", customer_id)
    return customer


# --- Common -----------------------------------------------------------------------------------------------------------


def _new(prefix: str, kind: str) -> Document:
    return {"id": f"{prefix}_{secrets.token_hex(12)}", "object": kind, "created": int(time.time()), "livemode": False}


def _announce(happened: str, about: Document) -> None:
    world().webhooks.record(
        _new("evt", "event")
        | {
            "type": happened,
            "data": {"object": about},
            "request": {"id": None, "idempotency_key": request.headers.get("Idempotency-Key")},
        }
    )


def charges_by_order(store: Store) -> dict[str, dict[str, Any]]:
    """Per `metadata.order_id`: how many charges succeeded, for how much, and how much of it was given back."""
    rows = store.rows(
        """
        SELECT json_extract(body, '$.metadata.order_id') AS order_id, count(*),
               sum(json_extract(body, '$.amount')), sum(json_extract(body, '$.amount_refunded'))
        FROM document WHERE kind = 'charge' AND json_extract(body, '$.status') = 'succeeded'
        GROUP BY order_id
        """
    )
    return {
        str(order): {"succeeded": number, "amount": amount, "refunded": refunded}
        for order, number, amount, refunded in rows
    }
