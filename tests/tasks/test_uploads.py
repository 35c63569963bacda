"""Uploads as jobs: each broken file is one dead letter, and a message delivered twice has the effects of one."""

import pytest
from django.contrib.auth.models import User
from pytest_django import Settings

import tasks
from apps.catalog.models import Product
from apps.jobs.models import DeadLetter, Job
from apps.uploads.models import ImportPart, Upload
from tests.cast import SAMPLES, shopkeeper, uploaded
from tests.jobs.bench import Bench
from tests.nobody import NOBODY

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("s3")]


@pytest.fixture
def ada() -> User:
    return shopkeeper("ada")


def state_of(upload: Upload) -> tuple[str, int, int]:
    upload.refresh_from_db()
    return upload.state, upload.imported, upload.rejected


@pytest.mark.parametrize(
    "sample",
    ["empty.csv", "products-wrong-header.csv", "latin1.csv", "corrupt.jpg", "bomb.png", "not-a-picture.jpg"],
)
def test_a_broken_file_is_a_dead_letter_at_once_with_the_reason_that_its_owner_sees(
    ada: User, bench: Bench, sample: str
) -> None:
    upload = uploaded(ada, sample)
    result = tasks.process_upload.delay(upload_id=upload.pk)
    bench.run_all()
    upload.refresh_from_db()
    letter = bench.letter(result)
    assert upload.state == Upload.State.FAILED
    assert (letter.kind, letter.message) == (DeadLetter.Kind.PERMANENT, upload.reason)
    assert bench.job(result).attempts == 1


@pytest.mark.django_db(transaction=True)
def test_an_upload_delivered_twice_is_imported_once_and_reports_its_progress(ada: User, bench: Bench) -> None:
    upload = uploaded(ada, "products-small.csv")
    result = tasks.process_upload.delay(upload_id=upload.pk)
    [message] = bench.send()
    bench.deliver(message)
    bench.deliver(message)
    assert state_of(upload) == ("done", 7, 1)
    job = bench.job(result)
    progress = job.progress or {}
    assert (job.attempts, progress["done"], progress["total"]) == (1, 8, 8)


def test_a_store_that_is_away_is_tried_again_and_the_file_is_imported_when_it_returns(
    ada: User, bench: Bench, settings: Settings
) -> None:
    upload = uploaded(ada, "products-small.csv")
    address = settings.AWS_ENDPOINT_URL
    result = tasks.process_upload.delay(upload_id=upload.pk)
    settings.AWS_ENDPOINT_URL = f"http://{NOBODY}"
    bench.run_due()
    assert (bench.job(result).state, state_of(upload)) == (Job.State.QUEUED, ("received", 0, 0))
    settings.AWS_ENDPOINT_URL = address
    bench.run_all()
    assert state_of(upload) == ("done", 7, 1)


def test_an_upload_that_was_deleted_is_a_dead_letter_without_retries(bench: Bench) -> None:
    result = tasks.process_upload.delay(upload_id=404)
    bench.run_all()
    assert bench.letter(result).kind == DeadLetter.Kind.PERMANENT
    assert bench.job(result).attempts == 1


def test_a_long_list_is_imported_in_parts_and_summed_up_once(ada: User, bench: Bench) -> None:
    upload = uploaded(ada, "products-5000.csv")
    tasks.batch_import_products.delay(upload_id=upload.pk)
    bench.run_all()
    assert state_of(upload) == ("done", 4_988, 12)
    assert Product.objects.count() == 4_988
    assert Job.objects.filter(task=tasks.summarise_import.name).count() == 1
    assert not Job.objects.exclude(state=Job.State.SUCCEEDED).exists()


def test_a_long_list_whose_messages_all_come_twice_has_one_summary(ada: User, bench: Bench) -> None:
    upload = uploaded(ada, "products-5000.csv")
    tasks.batch_import_products.delay(upload_id=upload.pk)
    while messages := bench.send():
        for message in messages * 2:
            bench.deliver(message)
    assert state_of(upload) == ("done", 4_988, 12)
    assert Job.objects.filter(task=tasks.summarise_import.name).count() == 1


def test_the_rows_never_travel_in_a_message(ada: User, bench: Bench) -> None:
    upload = uploaded(ada, "products-5000.csv")
    tasks.batch_import_products.delay(upload_id=upload.pk)
    bench.run_due()
    parts = Job.objects.filter(task=tasks.batch_import_part.name)
    assert sorted(job.kwargs["first_row"] for job in parts) == [0, 1_000, 2_000, 3_000, 4_000]
    assert all(set(job.kwargs) == {"upload_id", "first_row", "rows"} for job in parts)
    assert {job.queue for job in parts} == {"low"}


def test_a_list_without_rows_is_imported_by_a_batch_as_well(ada: User, bench: Bench) -> None:
    upload = uploaded(ada, "products-small.csv", content=b"sku,name,price,currency,stock\n")
    tasks.batch_import_products.delay(upload_id=upload.pk)
    bench.run_all()
    assert state_of(upload) == ("done", 0, 0)


def test_a_batch_that_was_done_is_not_started_again(ada: User, bench: Bench) -> None:
    upload = uploaded(ada, "products-5000.csv")
    for _ in range(2):
        tasks.batch_import_products.delay(upload_id=upload.pk)
        bench.run_all()
    assert Job.objects.filter(task=tasks.batch_import_part.name).count() == 5
    assert state_of(upload) == ("done", 4_988, 12)


def test_a_broken_list_is_refused_before_it_is_divided(ada: User, bench: Bench) -> None:
    upload = uploaded(ada, "products-wrong-header.csv")
    result = tasks.batch_import_products.delay(upload_id=upload.pk)
    bench.run_all()
    assert bench.letter(result).kind == DeadLetter.Kind.PERMANENT
    assert state_of(upload) == ("failed", 0, 0)
    assert not ImportPart.objects.exists()


def test_a_part_that_dies_closes_the_upload_and_says_so(ada: User, bench: Bench) -> None:
    upload = uploaded(ada, "products-5000.csv")
    tasks.batch_import_products.delay(upload_id=upload.pk)
    bench.run_due()
    ImportPart.objects.filter(upload=upload, first_row=3_000).delete()
    bench.run_all()
    upload.refresh_from_db()
    assert upload.state == Upload.State.FAILED
    assert "A part of this list could not be imported" in upload.reason
    assert not Job.objects.filter(task=tasks.summarise_import.name).exists()


def test_the_samples_are_small_enough_for_the_form() -> None:
    assert all(sample.stat().st_size < 300_000 for sample in SAMPLES.iterdir())
