"""The sandbox's switches: what they do, who may turn them, and the process that they live in."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
import requests
from django.conf import settings
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.http import Http404
from django.test import RequestFactory, override_settings
from django.urls import reverse

from apps.sandbox.client import HEADER, Sandbox
from apps.sandbox.faults import Fault, Mode, Switchboard
from apps.sandbox.testing import running_sandbox
from apps.sandbox.views import switches
from tests.nobody import NOBODY

# Any request that Stripe's switches can hit; without a key the answer is 401.
PROBE = "/v1/payment_intents"


@pytest.fixture(scope="module")
def running() -> Iterator[Sandbox]:
    with running_sandbox() as sandbox:
        yield sandbox


@pytest.fixture
def sandbox(running: Sandbox) -> Sandbox:
    running.reset()
    return running


def probe(sandbox: Sandbox) -> int:
    return requests.get(sandbox.url + PROBE, timeout=5).status_code


# --- Faults -----------------------------------------------------------------------------------------------------------


def test_a_fault_with_a_count_hits_the_next_requests_only(sandbox: Sandbox) -> None:
    sandbox.fault("stripe", "error", count=2)
    assert [probe(sandbox) for _ in range(3)] == [500, 500, 401]
    assert sandbox.counts()["faults"] == {"stripe": {"error": 2}}
    assert sandbox.faults()["stripe"] == []


def test_a_fault_with_a_rate_hits_its_share() -> None:
    switchboard = Switchboard(Random(1))
    switchboard.switch("stripe", Fault(Mode.ERROR, rate=0.3))
    hits = sum(switchboard.draw("stripe", "GET /").has(Mode.ERROR) for _ in range(1000))
    assert 250 < hits < 350


def test_a_fault_with_seconds_ends_by_itself() -> None:
    now = [0.0]
    switchboard = Switchboard(Random(1), clock=lambda: now[0])
    switchboard.switch("mail", Fault(Mode.DOWN, seconds=20))
    assert switchboard.draw("mail", "").has(Mode.DOWN)
    now[0] = 20.0
    assert not switchboard.draw("mail", "").has(Mode.DOWN)
    assert switchboard.active()["mail"] == []


def test_slowness_goes_together_with_another_fault() -> None:
    switchboard = Switchboard(Random(1))
    switchboard.switch("stripe", Fault(Mode.SLOW, latency_ms=250))
    switchboard.switch("stripe", Fault(Mode.ERROR))
    trouble = switchboard.draw("stripe", "GET /")
    assert (trouble.latency, trouble.has(Mode.ERROR)) == (0.25, True)


def test_one_party_fails_and_the_others_do_not(sandbox: Sandbox) -> None:
    sandbox.fault("supplier", "error")
    assert probe(sandbox) == 401
    sandbox.fault("stripe", "error")
    sandbox.clear("supplier")
    assert (probe(sandbox), list(sandbox.faults()["supplier"])) == (500, [])


def test_a_rate_of_nothing_hits_nothing(sandbox: Sandbox) -> None:
    sandbox.fault("stripe", "error", rate=0)
    assert [probe(sandbox) for _ in range(5)] == [401] * 5


@pytest.mark.parametrize(
    "asked",
    [
        {"party": "paypal", "mode": "error"},
        {"party": "stripe", "mode": "sulk"},
        {"party": "stripe", "mode": "error", "rate": 2},
        {"party": "stripe", "mode": "error", "rate": "often"},
        {"party": "stripe", "mode": "error", "count": [1]},
        {"party": "stripe", "mode": "error", "count": "1e999"},
    ],
)
def test_a_switch_that_does_not_exist_is_refused_with_a_sentence(sandbox: Sandbox, asked: dict[str, object]) -> None:
    refused = requests.post(f"{sandbox.url}/_/faults", json=asked, headers={HEADER: "1"}, timeout=5)
    assert refused.status_code == 422
    assert refused.json()["error"].endswith(".")


# --- Who may turn them ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/_/faults", "/_/reset", "/switch", "/clear"])
def test_a_page_of_another_site_cannot_turn_a_switch(sandbox: Sandbox, path: str) -> None:
    form = {"party": "stripe", "mode": "down"}
    for headers in ({}, {"Origin": "https://elsewhere.example"}, {"Origin": "null"}):
        refused = requests.post(sandbox.url + path, data=form, headers=headers, timeout=5)
        assert refused.status_code == 403
    assert sandbox.faults()["stripe"] == []


def test_a_name_that_somebody_points_at_this_machine_opens_nothing(sandbox: Sandbox) -> None:
    for path in ("/", "/_/counts", "/_/mail"):
        refused = requests.get(sandbox.url + path, headers={"Host": "elsewhere.example:8787"}, timeout=5)
        assert refused.status_code == 403


def test_the_sandboxs_own_page_turns_switches(sandbox: Sandbox) -> None:
    form = {"party": "stripe", "mode": "error", "rate": "1", "count": "1", "seconds": ""}
    page = requests.post(f"{sandbox.url}/switch", data=form, headers={"Origin": sandbox.url}, timeout=5)
    assert page.status_code == 200
    assert "switched to fail" in page.text
    assert probe(sandbox) == 500
    assert requests.post(f"{sandbox.url}/clear", data=form, headers={"Origin": sandbox.url}, timeout=5).ok


def test_the_pages_show_what_was_asked(sandbox: Sandbox) -> None:
    probe(sandbox)
    assert "payment_intents.list" in requests.get(sandbox.url, timeout=5).text
    assert "No message yet." in requests.get(f"{sandbox.url}/mail/", timeout=5).text


@override_settings(SANDBOX=True, SANDBOX_URL="http://127.0.0.1:8787")
def test_the_shop_leads_its_staff_to_the_page_and_nobody_else(rf: RequestFactory) -> None:
    request = rf.get("/sandbox/")
    for staff, address in ((True, "http://127.0.0.1:8787"), (False, reverse("login"))):
        request.user = User(username="ada", is_staff=staff)
        assert switches(request)["Location"].startswith(address)


@override_settings(SANDBOX=False)
def test_the_shop_knows_no_page_when_the_sandbox_is_off(rf: RequestFactory) -> None:
    request = rf.get("/sandbox/")
    request.user = User(username="ada", is_staff=True)
    with pytest.raises(Http404):
        switches(request)


# --- The process ------------------------------------------------------------------------------------------------------


def started(*arguments: str) -> tuple["subprocess.Popen[str]", dict[str, str]]:
    """A sandbox in a process of its own, on a machine whose database is down, and the addresses that it printed."""
    command = [sys.executable, str(settings.BASE_DIR / "manage.py"), "sandbox", *arguments]
    environment = os.environ | {"DATABASE_URL": f"postgres://nobody:x@{NOBODY}/nothing"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    printed = (process.stdout.readline().strip().partition("=") for _ in range(2))
    return process, {name: address for name, _, address in printed}


def test_a_killed_sandbox_remembers_and_a_dead_database_does_not_matter(tmp_path: Path) -> None:
    state = str(tmp_path / "deep" / "state")
    for killed_by, times in ((signal.SIGKILL, 1), (signal.SIGTERM, 2)):
        process, addresses = started("--port", "0", "--state", state)
        with process:
            sandbox = Sandbox(addresses["SANDBOX_URL"])
            assert addresses["EMAIL_URL"].startswith("smtp://127.0.0.1:")
            assert probe(sandbox) == 401
            assert sandbox.counts()["asked"] == {"stripe": {"payment_intents.list": times}}
            process.send_signal(killed_by)
            assert process.wait(timeout=10) == (0 if killed_by == signal.SIGTERM else -signal.SIGKILL)


def test_a_busy_port_is_one_sentence(sandbox: Sandbox) -> None:
    port = sandbox.url.rpartition(":")[2]
    sentence = f"The sandbox cannot listen on 127.0.0.1:{port}: Address already in use. Choose others"
    with pytest.raises(CommandError, match=sentence):
        call_command("sandbox", "--port", port)


@override_settings(SANDBOX=False)
def test_it_is_off_unless_asked_for() -> None:
    with pytest.raises(CommandError, match="The sandbox is off"):
        call_command("sandbox")


@override_settings(STRIPE_WEBHOOK_SECRET="")
def test_it_does_not_send_webhooks_that_nobody_can_check() -> None:
    with pytest.raises(CommandError, match="set STRIPE_WEBHOOK_SECRET"):
        call_command("sandbox", "--webhooks", "http://127.0.0.1:1/webhooks/stripe/")
