"""The upload form and pages: what is refused at the door, who may look, and that a file and its job are one thing."""

from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from pytest_django import Settings

import tasks
from apps.jobs.models import Job
from apps.uploads import bucket, imports, services
from apps.uploads.kinds import MAX_BYTES
from apps.uploads.models import Upload
from tests.cast import SAMPLES, permit, shopkeeper, uploaded
from tests.nobody import NOBODY

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("s3")]

CONTENT_TYPES = {"csv": "text/csv", "jpg": "image/jpeg", "png": "image/png"}


@pytest.fixture
def ada(client: Client) -> User:
    user = shopkeeper("ada")
    permit(user, "change_product")
    client.force_login(user)
    return user


def post(client: Client, name: str, content: bytes, content_type: str) -> Any:
    return client.post(reverse("uploads:new"), {"file": SimpleUploadedFile(name, content, content_type)})


def post_sample(client: Client, name: str) -> Any:
    return post(client, name, (SAMPLES / name).read_bytes(), CONTENT_TYPES[name.rpartition(".")[2]])


def stored() -> list[str]:
    return list(bucket.keys_before("uploads/", timezone.now() + timedelta(days=1)))


def test_a_file_is_received_together_with_its_job(client: Client, ada: User) -> None:
    response = post_sample(client, "products-small.csv")
    upload = Upload.objects.get()
    assert (response.status_code, response["Location"]) == (302, reverse("uploads:detail", args=[upload.pk]))
    assert (upload.owner, upload.original_name, upload.size) == (ada, "products-small.csv", 314)
    job = Job.objects.get(pk=upload.job_id)
    assert (job.task, job.kwargs) == (tasks.process_upload.name, {"upload_id": upload.pk})


@pytest.mark.usefixtures("ada")
def test_a_long_list_goes_to_the_queue_for_batches(client: Client) -> None:
    post_sample(client, "products-5000.csv")
    job = Job.objects.get(pk=Upload.objects.get().job_id)
    assert (job.task, job.queue) == (tasks.batch_import_products.name, "low")


@pytest.mark.usefixtures("ada")
@pytest.mark.parametrize(
    ("name", "content", "content_type", "sentence"),
    [
        ("empty.csv", b"", "text/csv", "This file is empty"),
        ("lamp.svg", b"<svg/>", "image/svg+xml", "Only product lists"),
        ("lamp.exe", b"MZ", "application/octet-stream", "Only product lists"),
        ("lamp.jpg", b"\xff\xd8\xff", "text/html", "sent as another type"),
        ("lamp.jpg", b"just text", "image/jpeg", "This is not a picture"),
        ("list.csv", b"\x89PNG\r\n\x1a\n", "text/csv", "This is not a product list"),
        ("list.csv", "sku,name".encode("utf-16"), "text/csv", "This list is not in UTF-8"),
    ],
)
def test_what_the_form_can_see_is_refused_at_once(
    client: Client, name: str, content: bytes, content_type: str, sentence: str
) -> None:
    response = post(client, name, content, content_type)
    assert response.status_code == 422
    assert sentence in response.content.decode()
    assert not Upload.objects.exists()


@pytest.mark.usefixtures("ada")
def test_a_form_without_a_file_is_answered_with_a_sentence(client: Client) -> None:
    response = client.post(reverse("uploads:new"))
    assert response.status_code == 422
    assert "This field is required" in response.content.decode()


@pytest.mark.usefixtures("ada")
def test_a_body_that_is_too_large_is_refused_before_it_is_read(client: Client) -> None:
    response = client.generic(
        "POST",
        reverse("uploads:new"),
        b"not even a form",
        content_type="multipart/form-data; boundary=x",
        CONTENT_LENGTH=str(MAX_BYTES * 2),
    )
    assert response.status_code == 413
    assert "too large" in response.content.decode()


@pytest.mark.usefixtures("ada")
def test_a_file_over_the_limit_is_refused_by_the_form_as_well(client: Client) -> None:
    response = post(client, "list.csv", b"x" * (MAX_BYTES + 1), "text/csv")
    assert response.status_code == 422
    assert "at most 10 MB" in response.content.decode()


@pytest.mark.usefixtures("ada")
def test_a_store_that_is_away_is_answered_with_a_sentence(client: Client, settings: Settings) -> None:
    settings.AWS_ENDPOINT_URL = f"http://{NOBODY}"
    response = post_sample(client, "products-small.csv")
    assert response.status_code == 503
    assert "Please try again" in response.content.decode()
    assert not Upload.objects.exists()


def test_an_upload_needs_the_forms_own_token(ada: User) -> None:
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(ada)
    assert post_sample(strict, "products-small.csv").status_code == 403
    assert not Upload.objects.exists()


def test_a_stranger_is_sent_to_sign_in_and_a_customer_is_refused(client: Client) -> None:
    assert post_sample(client, "products-small.csv").status_code == 302
    client.force_login(User.objects.create_user("dora"))
    assert post_sample(client, "products-small.csv").status_code == 403
    assert not Upload.objects.exists()


def test_a_product_list_wants_the_permission_to_change_products_and_a_picture_does_not(
    client: Client, ada: User
) -> None:
    ada.user_permissions.clear()
    assert "pictures only" in client.get(reverse("uploads:new")).text
    response = post_sample(client, "products-small.csv")
    assert response.status_code == 403
    assert "A product list changes products, which your account may not do." in response.text
    assert (Upload.objects.count(), Job.objects.count(), stored()) == (0, 0, [])
    assert post_sample(client, "picture.jpg").status_code == 302
    assert stored() == [Upload.objects.get().key]


def test_anothers_upload_is_not_there(client: Client, ada: User) -> None:
    upload = uploaded(shopkeeper("bert"), "picture.jpg")
    services.process(upload.pk, track=lambda rows, **_: rows)
    for address in (
        reverse("uploads:detail", args=[upload.pk]),
        reverse("uploads:thumbnail", args=[upload.pk, 160]),
    ):
        assert client.get(address).status_code == 404
    assert "picture.jpg" not in client.get(reverse("uploads:list")).content.decode()


def test_a_thumbnail_is_shown_to_its_owner_as_what_it_is(client: Client, ada: User) -> None:
    upload = uploaded(ada, "picture.jpg")
    services.process(upload.pk, track=lambda rows, **_: rows)
    response = client.get(reverse("uploads:thumbnail", args=[upload.pk, 160]))
    assert (response.status_code, response["Content-Type"]) == (200, "image/webp")
    assert response["X-Content-Type-Options"] == "nosniff"
    assert client.get(reverse("uploads:thumbnail", args=[upload.pk, 161])).status_code == 404


def test_a_name_with_markup_is_shown_as_text(client: Client, ada: User) -> None:
    upload = uploaded(ada, "products-small.csv")
    Upload.objects.filter(pk=upload.pk).update(original_name="<script>alert(1)</script>.csv")
    for address in (reverse("uploads:list"), reverse("uploads:detail", args=[upload.pk])):
        page = client.get(address).content.decode()
        assert "&lt;script&gt;" in page
        assert "<script>alert" not in page


def test_a_name_of_any_length_and_shape_is_only_a_label(client: Client, ada: User) -> None:
    post(client, "../../etc/" + "x" * 300 + ".csv", (SAMPLES / "products-small.csv").read_bytes(), "text/csv")
    upload = Upload.objects.get()
    assert len(upload.original_name) <= 255
    assert "etc" not in upload.key
    assert "xxx" not in upload.key


def test_the_page_says_why_rows_were_left_out(client: Client, ada: User) -> None:
    upload = uploaded(ada, "products-small.csv")
    services.process(upload.pk, track=lambda rows, **_: rows)
    page = client.get(reverse("uploads:detail", args=[upload.pk])).content.decode()
    assert "price -31.00 is negative" in page


def test_the_page_of_a_list_in_parts_asks_again_until_it_is_settled(client: Client, ada: User) -> None:
    upload = uploaded(ada, "products-5000.csv")
    parts = imports.plan_parts(upload.pk)
    address = reverse("uploads:detail", args=[upload.pk])
    assert "0 of 5 parts" in client.get(address).content.decode()
    assert client.get(address)["Refresh"] == "2"
    for part in parts:
        imports.import_part(upload.pk, part.first_row, part.rows)
    imports.summarise_parts(upload.pk)
    assert "Refresh" not in client.get(address)
