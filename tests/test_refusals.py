"""What no view answers still gets a sentence."""

import pytest
from django.test import Client


@pytest.mark.parametrize(
    "address", ["/admin/orders/order/?status__exact=%00", "/login/?next=%00", "/admin/jobs/queuepause/%00/change/"]
)
def test_an_address_with_a_nul_in_it_is_a_400(admin_client: Client, address: str) -> None:
    response = admin_client.get(address)
    assert response.status_code == 400
    assert "made no sense" in response.text


@pytest.mark.django_db
@pytest.mark.parametrize("address", ["/login/", "/health/ready"])
def test_a_cookie_with_a_nul_in_it_is_a_400(client: Client, address: str) -> None:
    assert client.get(address, headers={"cookie": 'sessionid="\\000aaaaaaaa"'}).status_code == 400


@pytest.mark.django_db
def test_a_form_in_another_encoding_is_a_400(client: Client) -> None:
    response = client.post("/login/", b"name=x", content_type="application/x-www-form-urlencoded; charset=utf-16")
    assert response.status_code == 400


@pytest.mark.django_db
@pytest.mark.parametrize(("charset", "text"), [("base64", "x"), ("unicode_escape", r"\ud800")])
def test_a_form_of_parts_in_another_encoding_is_a_400(client: Client, charset: str, text: str) -> None:
    parts = [
        f'--x\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{text}\r\n' for name in ("username", "password")
    ]
    kind = f"multipart/form-data; boundary=x; charset={charset}"
    # Its `post` would encode the body itself.
    assert client.generic("POST", "/login/", f"{''.join(parts)}--x--\r\n", kind).status_code == 400


@pytest.mark.django_db
def test_an_address_in_another_encoding_is_a_400(client: Client) -> None:
    headers = {"content-type": "text/plain; charset=unicode_escape"}
    assert client.get(r"/login/?next=\ud800", headers=headers).status_code == 400


@pytest.mark.django_db
@pytest.mark.parametrize("charset", ["utf-8", "UTF8", "no-such-charset"])
def test_utf_8_by_any_name_is_read(client: Client, charset: str) -> None:
    assert client.get("/login/?next=x", headers={"content-type": f"text/plain; charset={charset}"}).status_code == 200


@pytest.mark.parametrize("address", ["/webhooks/stripe/", "/logout/", "/orders/1/refund/", "/catalog/pull/"])
def test_an_address_that_only_takes_what_a_button_sends_says_so(admin_client: Client, address: str) -> None:
    response = admin_client.get(address)
    assert response.status_code == 405
    assert "press it again" in response.text
    assert response["Content-Length"] == str(len(response.content)), "or a server would send none of it"
