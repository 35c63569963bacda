"""The sandbox's page for people: what each party is doing, what it was asked, and buttons to make it fail."""

from flask import Blueprint, redirect, render_template, request, url_for
from werkzeug.wrappers import Response as AnyResponse

from apps.sandbox.control import counts, refuse, refuse_strangers
from apps.sandbox.faults import PARTIES, Fault, Mode
from apps.sandbox.supplier import publish, published
from apps.sandbox.world import world

page = Blueprint("page", __name__)
page.before_request(refuse_strangers)

TITLES = {"stripe": "Stripe", "supplier": "The supplier", "mail": "The mail server"}
WORDS = {
    Mode.DOWN: "hangs up at once",
    Mode.ERROR: "does nothing and says that it failed",
    Mode.RATE_LIMIT: "says: too many, come back later",
    Mode.HANG: "holds the request",
    Mode.ERROR_AFTER: "does the work, then says that it failed",
    Mode.CUT: "does the work, then hangs up",
    Mode.SLOW: "answers late",
}


@page.get("/")
def home() -> str:
    here = world()
    told = counts(here.store)
    charges = told["charges"].values()
    return render_template(
        "home.html",
        parties=[(party, TITLES[party]) for party in PARTIES],
        words=WORDS,
        active=here.switchboard.active(),
        told=told,
        orders=len(charges),
        twice=sum(order["succeeded"] > 1 for order in charges),
        taken=sum(order["amount"] for order in charges) / 100,
        events=here.store.find("event", limit=6),
        webhook_url=here.webhooks.url,
        limit=here.allowance.requests,
        published=published(here.store),
        messages=len(here.mailbox.messages()),
    )


@page.get("/mail/")
def mail() -> str:
    return render_template("mail.html", messages=world().mailbox.messages())


@page.post("/switch")
def switch() -> AnyResponse:
    try:
        world().switchboard.switch(request.form.get("party", ""), Fault.parse(request.form))
    except ValueError as error:
        refuse(422, str(error))
    return _back()


@page.post("/clear")
def clear() -> AnyResponse:
    world().switchboard.clear(request.form.get("party"))
    return _back()


@page.post("/forget-keys")
def forget_keys() -> AnyResponse:
    world().store.forget("idempotency_key")
    return _back()


@page.post("/send-again/<event_id>")
def send_again(event_id: str) -> AnyResponse:
    if event := world().store.get("event", event_id):
        world().webhooks.send_again(event)
    return _back()


@page.post("/limit")
def limit() -> AnyResponse:
    world().allowance.set(request.form.get("requests", type=int))
    return _back()


@page.post("/changes")
def changes() -> AnyResponse:
    publish(world().store, 25)
    return _back()


def _back() -> AnyResponse:
    return redirect(url_for("page.home"), code=303)
