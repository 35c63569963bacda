"""The pretended Stripe, asked by the real SDK."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from queue import Queue

import pytest
import stripe
from django.conf import settings
from werkzeug.serving import make_server
from werkzeug.wrappers import Request, Response

from apps.sandbox.client import Sandbox
from apps.sandbox.testing import running_sandbox

ORDER: "stripe.params.PaymentIntentCreateParams" = {
    "amount": 1999,
    "currency": "eur",
    "customer": "cus_ada",
    "payment_method": "pm_card_visa",
    "metadata": {"order_id": "5"},
}
PAY: "stripe.params.PaymentIntentCreateParams" = {**ORDER, "confirm": True}


@pytest.fixture(scope="module")
def running() -> Iterator[Sandbox]:
    with running_sandbox() as sandbox:
        yield sandbox


@pytest.fixture
def sandbox(running: Sandbox) -> Sandbox:
    running.reset()
    return running


@pytest.fixture
def shop(sandbox: Sandbox) -> stripe.StripeClient:
    return client_of(sandbox)


def client_of(sandbox: Sandbox, *, key: str = settings.STRIPE_API_KEY, timeout: float = 5) -> stripe.StripeClient:
    return stripe.StripeClient(
        key,
        base_addresses={"api": sandbox.url},
        max_network_retries=0,
        http_client=stripe.RequestsClient(timeout=timeout),
    )


def wait_until(condition: Callable[[], bool]) -> None:
    """Ask again and again, for ten seconds at most."""
    pause = threading.Event()
    for _ in range(500):
        if condition():
            return
        pause.wait(0.02)
    pytest.fail("It did not come true within ten seconds.")


# --- Payments ---------------------------------------------------------------------------------------------------------


def test_an_intent_moves_money_when_it_is_confirmed_and_not_before(sandbox: Sandbox, shop: stripe.StripeClient) -> None:
    intent = shop.v1.payment_intents.create(ORDER)
    assert (intent.status, sandbox.charges(5)) == ("requires_confirmation", [])
    assert shop.v1.payment_intents.confirm(intent.id).status == "succeeded"
    assert [charge["amount"] for charge in sandbox.charges(5)] == [1999]
    assert sandbox.counts()["charges"] == {"5": {"succeeded": 1, "amount": 1999, "refunded": 0}}


def test_a_paid_intent_is_not_paid_again_whatever_the_key(sandbox: Sandbox, shop: stripe.StripeClient) -> None:
    intent = shop.v1.payment_intents.create(PAY)
    with pytest.raises(stripe.InvalidRequestError) as refused:
        shop.v1.payment_intents.confirm(intent.id, {}, {"idempotency_key": "another"})
    assert refused.value.code == "payment_intent_unexpected_state"
    assert len(sandbox.charges(5)) == 1


@pytest.mark.parametrize(
    ("card", "code", "decline_code"),
    [
        ("pm_card_chargeDeclined", "card_declined", "generic_decline"),
        ("pm_card_chargeDeclinedInsufficientFunds", "card_declined", "insufficient_funds"),
        ("pm_card_chargeDeclinedExpiredCard", "expired_card", "expired_card"),
    ],
)
def test_a_declined_card_is_a_card_error_with_its_code(
    sandbox: Sandbox, shop: stripe.StripeClient, card: str, code: str, decline_code: str
) -> None:
    intent = shop.v1.payment_intents.create({**ORDER, "payment_method": card})
    with pytest.raises(stripe.CardError) as declined:
        shop.v1.payment_intents.confirm(intent.id)
    assert declined.value.code == code
    assert declined.value.error is not None
    assert declined.value.error.decline_code == decline_code
    after = shop.v1.payment_intents.retrieve(intent.id)
    assert after.status == "requires_payment_method"
    assert after.last_payment_error is not None
    assert after.last_payment_error.decline_code == decline_code
    assert sandbox.charges(5) == []


def test_intents_are_found_by_their_metadata_and_by_their_customer(shop: stripe.StripeClient) -> None:
    mine = shop.v1.payment_intents.create(ORDER)
    shop.v1.payment_intents.create({**ORDER, "customer": "cus_bert", "metadata": {"order_id": "6"}})
    search = shop.v1.payment_intents.search
    assert [found.id for found in search({"query": "metadata['order_id']:'5'"}).data] == [mine.id]
    assert search({"query": "metadata['order_id']:'5' AND status:'succeeded'"}).data == []
    assert [found.id for found in shop.v1.payment_intents.list({"customer": "cus_ada"}).data] == [mine.id]


def test_a_list_comes_in_pages_the_newest_first(shop: stripe.StripeClient) -> None:
    made = [shop.v1.payment_intents.create(ORDER).id for _ in range(5)]
    pages = shop.v1.payment_intents.list({"customer": "cus_ada", "limit": 2})
    assert [intent.id for intent in pages.auto_paging_iter()] == made[::-1]


def test_a_list_can_begin_at_a_time(shop: stripe.StripeClient) -> None:
    intent = shop.v1.payment_intents.create(ORDER)
    listed = shop.v1.payment_intents.list
    assert len(listed({"created": {"gte": intent.created}}).data) == 1
    assert listed({"created": {"gte": intent.created + 60}}).data == []


def test_a_search_that_cannot_be_read_is_refused(shop: stripe.StripeClient) -> None:
    with pytest.raises(stripe.InvalidRequestError):
        shop.v1.payment_intents.search({"query": "everything please"})


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ({"amount": "19.99"}, "parameter_invalid_integer"),
        ({"amount": "0"}, "parameter_invalid_integer"),
        ({"amount": "100000000"}, "amount_too_large"),
        ({"amount": ""}, "parameter_missing"),
        ({"currency": ""}, "parameter_missing"),
        ({"currency": "EURO"}, None),
        ({"payment_method": "pm_card_of_a_friend"}, "resource_missing"),
        ({"ammount": "5"}, "parameter_unknown"),
    ],
)
def test_a_wrong_parameter_is_refused_and_nothing_is_made(
    sandbox: Sandbox, shop: stripe.StripeClient, wrong: dict[str, str], code: str | None
) -> None:
    with pytest.raises(stripe.InvalidRequestError) as refused:
        shop.raw_request("post", "/v1/payment_intents", **{**ORDER, **wrong})
    assert refused.value.code == code
    assert shop.v1.payment_intents.list().data == []


def test_an_unknown_key_is_refused(sandbox: Sandbox) -> None:
    with pytest.raises(stripe.AuthenticationError):
        client_of(sandbox, key="sk_test_of_a_stranger").v1.payment_intents.list()


def test_an_unknown_intent_is_missing(shop: stripe.StripeClient) -> None:
    with pytest.raises(stripe.InvalidRequestError) as missing:
        shop.v1.payment_intents.retrieve("pi_nothing")
    assert (missing.value.http_status, missing.value.code) == (404, "resource_missing")


def test_a_customer_can_be_made_and_read(shop: stripe.StripeClient) -> None:
    customer = shop.v1.customers.create({"email": "ada@example.com"})
    assert shop.v1.customers.retrieve(customer.id).email == "ada@example.com"


# --- Refunds ----------------------------------------------------------------------------------------------------------


def test_money_is_given_back_in_parts_and_never_more_than_was_taken(
    sandbox: Sandbox, shop: stripe.StripeClient
) -> None:
    intent = shop.v1.payment_intents.create(PAY)
    first = shop.v1.refunds.create({"payment_intent": intent.id, "amount": 500})
    with pytest.raises(stripe.InvalidRequestError, match="greater than unrefunded amount"):
        shop.v1.refunds.create({"payment_intent": intent.id, "amount": 1500})
    rest = shop.v1.refunds.create({"payment_intent": intent.id})
    assert (first.amount, rest.amount) == (500, 1499)
    assert [refund.id for refund in shop.v1.refunds.list({"payment_intent": intent.id}).data] == [rest.id, first.id]
    assert sandbox.counts()["charges"]["5"]["refunded"] == 1999


def test_a_refunded_payment_is_not_refunded_again(shop: stripe.StripeClient) -> None:
    intent = shop.v1.payment_intents.create(PAY)
    shop.v1.refunds.create({"payment_intent": intent.id})
    with pytest.raises(stripe.InvalidRequestError) as refused:
        shop.v1.refunds.create({"payment_intent": intent.id})
    assert refused.value.code == "charge_already_refunded"


def test_an_unpaid_intent_has_nothing_to_refund(shop: stripe.StripeClient) -> None:
    intent = shop.v1.payment_intents.create(ORDER)
    with pytest.raises(stripe.InvalidRequestError):
        shop.v1.refunds.create({"payment_intent": intent.id})


# --- Idempotency keys -------------------------------------------------------------------------------------------------


def test_the_same_request_under_a_key_replays_the_first_answer(sandbox: Sandbox, shop: stripe.StripeClient) -> None:
    first = shop.v1.payment_intents.create(PAY, {"idempotency_key": "order-5"})
    again = shop.v1.payment_intents.create(PAY, {"idempotency_key": "order-5"})
    assert again.id == first.id
    assert again.last_response is not None
    assert again.last_response.headers["Idempotent-Replayed"] == "true"
    assert len(sandbox.charges(5)) == 1


def test_another_request_under_a_used_key_is_refused(shop: stripe.StripeClient) -> None:
    shop.v1.payment_intents.create(ORDER, {"idempotency_key": "order-5"})
    with pytest.raises(stripe.IdempotencyError) as refused:
        shop.v1.payment_intents.create({**ORDER, "amount": 1}, {"idempotency_key": "order-5"})
    assert refused.value.http_status == 400


def test_a_decline_is_replayed_as_well(sandbox: Sandbox, shop: stripe.StripeClient) -> None:
    intent = shop.v1.payment_intents.create({**ORDER, "payment_method": "pm_card_chargeDeclined"})
    for _ in range(2):
        with pytest.raises(stripe.CardError) as declined:
            shop.v1.payment_intents.confirm(intent.id, {}, {"idempotency_key": "confirm-5"})
    assert (declined.value.headers or {})["Idempotent-Replayed"] == "true"
    assert len([event for event in sandbox.events() if event["type"] == "payment_intent.payment_failed"]) == 1


def test_a_failure_after_the_work_is_replayed_and_the_work_can_be_found(
    sandbox: Sandbox, shop: stripe.StripeClient
) -> None:
    sandbox.fault("stripe", "error_after", count=1)
    for _ in range(2):
        with pytest.raises(stripe.APIError) as failed:
            shop.v1.payment_intents.create(PAY, {"idempotency_key": "order-5"})
    assert failed.value.http_status == 500
    assert (failed.value.headers or {})["Idempotent-Replayed"] == "true"
    found = shop.v1.payment_intents.search({"query": "metadata['order_id']:'5'"}).data
    assert [intent.status for intent in found] == ["succeeded"]
    assert len(sandbox.charges(5)) == 1


@pytest.mark.parametrize("mode", ["down", "error", "rate_limit"])
def test_a_refused_request_leaves_its_key_unused(sandbox: Sandbox, shop: stripe.StripeClient, mode: str) -> None:
    sandbox.fault("stripe", mode, count=1)
    with pytest.raises(stripe.StripeError):
        shop.v1.payment_intents.create(ORDER, {"idempotency_key": "order-5"})
    assert shop.v1.payment_intents.list().data == []
    assert shop.v1.payment_intents.create(ORDER, {"idempotency_key": "order-5"}).status == "requires_confirmation"


def test_a_wrong_parameter_leaves_its_key_unused(shop: stripe.StripeClient) -> None:
    with pytest.raises(stripe.InvalidRequestError):
        shop.v1.payment_intents.create({**ORDER, "amount": 0}, {"idempotency_key": "order-5"})
    assert shop.v1.payment_intents.create(ORDER, {"idempotency_key": "order-5"}).amount == 1999


def test_a_second_request_is_a_conflict_while_the_first_is_in_flight(
    sandbox: Sandbox, shop: stripe.StripeClient
) -> None:
    def create() -> stripe.PaymentIntent:
        return shop.v1.payment_intents.create(PAY, {"idempotency_key": "order-5"})

    sandbox.fault("stripe", "hang", count=1)
    with ThreadPoolExecutor(1) as pool:
        first: Future[stripe.PaymentIntent] = pool.submit(create)
        wait_until(lambda: sandbox.counts()["faults"] == {"stripe": {"hang": 1}})
        with pytest.raises(stripe.APIError) as conflict:
            create()
        sandbox.clear()
        assert first.result().id == create().id
    assert conflict.value.http_status == 409
    assert conflict.value.error is not None
    assert conflict.value.error.code == "idempotency_key_in_use"
    assert len(sandbox.charges(5)) == 1


def test_twenty_requests_at_once_under_one_key_charge_once(sandbox: Sandbox) -> None:
    def create(_: int) -> str:
        try:
            return client_of(sandbox).v1.payment_intents.create(PAY, {"idempotency_key": "order-5"}).id
        except stripe.APIError as error:
            return str(error.http_status)

    with ThreadPoolExecutor(20) as pool:
        outcomes = set(pool.map(create, range(20)))
    assert len(outcomes - {"409"}) == 1
    assert len(sandbox.charges(5)) == 1


def test_a_key_belongs_to_its_account(shop: stripe.StripeClient) -> None:
    first = shop.v1.payment_intents.create(ORDER, {"idempotency_key": "order-5"})
    other = shop.v1.payment_intents.create(ORDER, {"idempotency_key": "order-5", "stripe_account": "acct_other"})
    assert first.id != other.id


def test_a_forgotten_key_charges_twice_so_a_late_replay_must_look_first(
    sandbox: Sandbox, shop: stripe.StripeClient
) -> None:
    shop.v1.payment_intents.create(PAY, {"idempotency_key": "order-5"})
    sandbox.expire_idempotency_keys()
    assert len(shop.v1.payment_intents.search({"query": "metadata['order_id']:'5'"}).data) == 1
    shop.v1.payment_intents.create(PAY, {"idempotency_key": "order-5"})
    assert sandbox.counts()["charges"]["5"] == {"succeeded": 2, "amount": 3998, "refunded": 0}


# --- Faults -----------------------------------------------------------------------------------------------------------


def test_a_request_that_timed_out_takes_effect_after_its_caller_has_left(sandbox: Sandbox) -> None:
    impatient = client_of(sandbox, timeout=0.2)
    sandbox.fault("stripe", "hang", count=1)
    with pytest.raises(stripe.APIConnectionError):
        impatient.v1.payment_intents.create(PAY)
    assert sandbox.charges(5) == []
    sandbox.clear()
    wait_until(lambda: len(sandbox.charges(5)) == 1)


def test_a_connection_cut_in_the_answer_has_charged_and_the_key_tells_so(
    sandbox: Sandbox, shop: stripe.StripeClient
) -> None:
    sandbox.fault("stripe", "cut", count=1)
    with pytest.raises(stripe.APIConnectionError):
        shop.v1.payment_intents.create(PAY, {"idempotency_key": "order-5"})
    again = shop.v1.payment_intents.create(PAY, {"idempotency_key": "order-5"})
    assert again.status == "succeeded"
    assert len(sandbox.charges(5)) == 1


def test_a_refused_rate_says_when_to_come_back(sandbox: Sandbox, shop: stripe.StripeClient) -> None:
    sandbox.fault("stripe", "rate_limit", retry_after=7)
    with pytest.raises(stripe.RateLimitError) as limited:
        shop.v1.payment_intents.list()
    assert (limited.value.headers or {})["Retry-After"] == "7"


def test_a_fault_can_be_kept_to_one_kind_of_request(sandbox: Sandbox, shop: stripe.StripeClient) -> None:
    sandbox.fault("stripe", "error", matching="/confirm")
    intent = shop.v1.payment_intents.create(ORDER)
    with pytest.raises(stripe.APIError):
        shop.v1.payment_intents.confirm(intent.id)
    assert sandbox.counts()["asked"]["stripe"] == {"payment_intents.confirm": 1, "payment_intents.create": 1}


# --- Webhooks ---------------------------------------------------------------------------------------------------------


class Receiver:
    """A shop that takes webhooks; it answers with the statuses it was told to, then with 200."""

    def __init__(self) -> None:
        self.received: Queue[tuple[bytes, str]] = Queue()
        self.answers: Queue[int] = Queue()
        self._server = make_server("127.0.0.1", 0, Request.application(self._take), threaded=True)
        self.url = f"http://127.0.0.1:{self._server.port}/webhooks/stripe/"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def _take(self, request: Request) -> Response:
        self.received.put((request.get_data(), request.headers["Stripe-Signature"]))
        return Response(status=self.answers.get_nowait() if self.answers.qsize() else 200)

    def next_event(self) -> stripe.Event:
        payload, signature = self.received.get(timeout=10)
        secret = settings.STRIPE_WEBHOOK_SECRET
        event: stripe.Event = stripe.Webhook.construct_event(payload, signature, secret)
        return event

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def receiver(sandbox: Sandbox) -> Iterator[Receiver]:
    receiver = Receiver()
    sandbox.send_webhooks_to(receiver.url)
    yield receiver
    sandbox.send_webhooks_to("")
    receiver.stop()


def test_the_sdk_accepts_the_signature_of_a_webhook(receiver: Receiver, shop: stripe.StripeClient) -> None:
    intent = shop.v1.payment_intents.create(PAY)
    shop.v1.refunds.create({"payment_intent": intent.id})
    events = [receiver.next_event() for _ in range(3)]
    assert [event.type for event in events] == ["payment_intent.created", "payment_intent.succeeded", "charge.refunded"]
    assert events[1].data.object["metadata"]["order_id"] == "5"


def test_a_decline_is_told_as_well(receiver: Receiver, shop: stripe.StripeClient) -> None:
    with pytest.raises(stripe.CardError):
        shop.v1.payment_intents.create({**ORDER, "payment_method": "pm_card_chargeDeclined", "confirm": True})
    assert [receiver.next_event().type for _ in range(2)][1] == "payment_intent.payment_failed"


def test_a_webhook_that_was_not_taken_comes_again(receiver: Receiver, shop: stripe.StripeClient) -> None:
    receiver.answers.put(500)
    shop.v1.payment_intents.create(ORDER)
    first, second = receiver.next_event(), receiver.next_event()
    assert first.id == second.id


def test_an_event_can_be_sent_twice(sandbox: Sandbox, receiver: Receiver, shop: stripe.StripeClient) -> None:
    shop.v1.payment_intents.create(ORDER)
    first = receiver.next_event()
    assert sandbox.send_event_again(first.id)
    assert receiver.next_event().id == first.id


# --- Memory -----------------------------------------------------------------------------------------------------------


def test_charges_and_keys_outlive_the_process(tmp_path: Path) -> None:
    with running_sandbox(state=tmp_path / "state") as before:
        first = client_of(before).v1.payment_intents.create(PAY, {"idempotency_key": "order-5"})
    with running_sandbox(state=tmp_path / "state") as after:
        assert len(after.charges(5)) == 1
        assert client_of(after).v1.payment_intents.create(PAY, {"idempotency_key": "order-5"}).id == first.id
