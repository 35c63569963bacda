"""What becomes of an uploaded file, good or broken, whichever way it came."""

import io
import re
import tracemalloc
from collections.abc import Iterable

import pytest
from django.contrib.auth.models import User
from PIL import Image
from pytest_django import Settings

from apps.catalog.models import Product
from apps.uploads import bucket, imports, services
from apps.uploads.files import store
from apps.uploads.kinds import UploadRejected
from apps.uploads.models import Upload
from apps.uploads.pictures import MAX_THUMBNAIL_BYTES, THUMBNAIL_SIDES, thumbnail_key, thumbnails
from apps.uploads.product_csv import RowError, count_rows, read_rows
from tests.cast import SAMPLES, shopkeeper, uploaded
from tests.nobody import NOBODY

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("s3")]


@pytest.fixture
def ada() -> User:
    return shopkeeper("ada")


def silently(rows: Iterable[imports.Row], total: int | None = None) -> Iterable[imports.Row]:
    return rows


def processed(upload: Upload) -> Upload:
    services.process(upload.pk, track=silently)
    upload.refresh_from_db()
    return upload


def stored_list(owner: User, content: bytes) -> Upload:
    upload = store(owner, Upload.Kind.CSV, "list.csv", io.BytesIO(content))
    upload.save()
    return upload


def thumbnail(upload: Upload, side: int) -> Image.Image:
    return Image.open(io.BytesIO(bucket.read(thumbnail_key(upload.key, side), MAX_THUMBNAIL_BYTES)))


def test_good_rows_are_imported_and_a_bad_one_is_reported_with_its_line(ada: User) -> None:
    upload = processed(uploaded(ada, "products-small.csv"))
    assert (upload.state, upload.imported, upload.rejected) == (Upload.State.DONE, 7, 1)
    assert upload.row_errors == [{"line": 7, "reason": "price -31.00 is negative"}]
    lamp = Product.objects.get(sku="NS-LAMP")
    assert (lamp.name, lamp.price_minor, lamp.currency, lamp.stock) == ("Night Lamp", 2490, "eur", 120)


def test_a_currency_with_a_letter_that_only_looks_like_ascii_in_capitals_breaks_no_list(ada: User) -> None:
    content = "sku,name,price,currency,stock\nA,Lamp,1,u\u017fd,1\nB,Kite,2,eur,2\n".encode()
    upload = processed(stored_list(ada, content))
    assert (upload.state, upload.imported) == (Upload.State.DONE, 2)
    assert Product.objects.get(sku="A").currency == "usd"


def test_each_kind_of_bad_row_says_what_is_wrong_with_it() -> None:
    rows = read_rows((SAMPLES / "products-5000.csv").read_bytes())
    reasons = {row.line: row.reason for row in rows if isinstance(row, RowError)}
    assert reasons == {
        119: "price -221.12 is negative",
        642: "sku is missing",
        1205: "sku NS-00042 is already on line 43",
        2001: "price “twelve” is not a number like 12.50",
        2502: "stock “many” is not a whole number",
        2720: "price “344,91” is not a number like 12.50",
        3143: "name is missing",
        3602: "currency “DOUBLOON” is not one of EUR, GBP, USD",
        4098: "the row has 4 cells instead of 5",
        4446: "price is zero",
        4802: "sku NS-00002 is already on line 3",
        5001: "name is longer than 200 characters",
    }


def test_a_list_imported_twice_has_the_effects_of_one(ada: User) -> None:
    upload = processed(uploaded(ada, "products-small.csv"))
    once = list(Product.objects.values("pk", "sku", "price_minor", "updated_at"))
    assert processed(upload).imported == 7
    assert list(Product.objects.values("pk", "sku", "price_minor", "updated_at")) == once


def test_a_list_sent_again_updates_its_products(ada: User) -> None:
    processed(uploaded(ada, "products-small.csv"))
    Product.objects.filter(sku="NS-LAMP").update(price_minor=1, name="Typo")
    processed(uploaded(ada, "products-small.csv"))
    assert Product.objects.get(sku="NS-LAMP").price_minor == 2490
    assert Product.objects.count() == 7


def test_an_import_that_died_on_the_way_is_finished_by_the_next_attempt(ada: User) -> None:
    upload = uploaded(ada, "products-5000.csv")

    def dying(rows: Iterable[imports.Row], total: int | None = None) -> Iterable[imports.Row]:
        for number, row in enumerate(rows):
            if number == 3_000:
                raise KeyboardInterrupt
            yield row

    with pytest.raises(KeyboardInterrupt):
        services.process(upload.pk, track=dying)
    assert 0 < Product.objects.count() < 4_988
    assert (processed(upload).imported, Product.objects.count()) == (4_988, 4_988)


@pytest.mark.parametrize(
    ("sample", "reason"),
    [
        ("empty.csv", "empty (0 bytes)"),
        ("products-wrong-header.csv", "The first line must be “sku,name,price,currency,stock”"),
        ("latin1.csv", "not in UTF-8"),
        ("corrupt.jpg", "damaged or cut off"),
        ("bomb.png", "more than 40 million pixels"),
        ("not-a-picture.jpg", "not a picture"),
    ],
)
def test_a_broken_file_is_refused_with_a_reason_that_its_owner_can_read(ada: User, sample: str, reason: str) -> None:
    upload = uploaded(ada, sample)
    with pytest.raises(UploadRejected, match=re.escape(reason)) as refused:
        processed(upload)
    upload.refresh_from_db()
    assert (upload.state, upload.reason) == (Upload.State.FAILED, str(refused.value))
    assert not Product.objects.exists()


def test_a_list_that_breaks_at_its_end_leaves_nothing_half_imported(ada: User) -> None:
    content = (SAMPLES / "products-small.csv").read_bytes() + b'NS-LAST,"never closed,1.00,EUR,1\n'
    upload = stored_list(ada, content)
    with pytest.raises(UploadRejected, match="cannot be read as CSV"):
        processed(upload)
    assert not Product.objects.exists()


def test_a_bomb_is_refused_by_its_header_without_unpacking_it() -> None:
    content = (SAMPLES / "bomb.png").read_bytes()
    thumbnails((SAMPLES / "picture.png").read_bytes())
    tracemalloc.start()
    with pytest.raises(UploadRejected):
        thumbnails(content)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


def test_a_photo_is_shown_upright_and_without_its_exif(ada: User) -> None:
    upload = processed(uploaded(ada, "picture.jpg"))
    for side in THUMBNAIL_SIDES:
        small = thumbnail(upload, side)
        assert small.format == "WEBP"
        assert (small.width, small.height) == (side, round(side * 2 / 3))
        assert not small.getexif()


def test_a_transparent_picture_stays_transparent(ada: User) -> None:
    assert thumbnail(processed(uploaded(ada, "picture.png")), 160).mode == "RGBA"


def test_a_file_that_changed_in_the_store_is_refused(ada: User) -> None:
    upload = uploaded(ada, "products-small.csv")
    bucket.put(upload.key, io.BytesIO(b"sku,name,price,currency,stock\n"), "text/csv")
    with pytest.raises(UploadRejected, match="changed after it was received"):
        processed(upload)


def test_a_store_that_is_away_is_not_the_files_fault(ada: User, settings: Settings) -> None:
    upload = uploaded(ada, "products-small.csv")
    settings.AWS_ENDPOINT_URL = f"http://{NOBODY}"
    with pytest.raises(bucket.BucketUnavailable):
        processed(upload)
    upload.refresh_from_db()
    assert upload.state == Upload.State.RECEIVED


def test_a_list_without_rows_is_no_error(ada: User) -> None:
    assert count_rows(b"sku,name,price,currency,stock\n") == 0
    assert list(read_rows(b"\xef\xbb\xbfSKU, Name ,price,currency,stock\r\n\r\n")) == []


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        ("A,Lamp,1e3,EUR,1", "price “1e3” is not a number like 12.50"),
        ("A,Lamp,NaN,EUR,1", "price “NaN” is not a number like 12.50"),
        ("A,Lamp,٣,EUR,1", "price “٣” is not a number like 12.50"),
        ("A,Lamp,1.999,EUR,1", "price “1.999” is not a number like 12.50"),
        ("A,Lamp,0,EUR,1", "price is zero"),
        ("A,La\x00mp,1,EUR,1", "name has a character that cannot be printed"),
        ("A,Lamp,1,JPY,1", "currency “JPY” is not one of EUR, GBP, USD"),
        ("A,Lamp,1,EUR,-1", "stock “-1” is not a whole number"),
        (f"{'A' * 41},Lamp,1,EUR,1", "sku is longer than 40 characters"),
        ("A,Lamp,1,EUR,1,more", "the row has 6 cells instead of 5"),
    ],
)
def test_a_cell_that_would_break_the_shop_is_only_a_bad_row(cells: str, reason: str) -> None:
    content = f"sku,name,price,currency,stock\n{cells}\n".encode()
    assert list(read_rows(content)) == [RowError(2, reason)]


def test_a_price_is_read_to_the_cent() -> None:
    [row] = read_rows(b"sku,name,price,currency,stock\nA,Lamp,0.29,gbp,0\n")
    assert not isinstance(row, RowError)
    assert (row.price_minor, row.currency) == (29, "gbp")


def test_more_errors_than_anybody_reads_are_counted_and_not_kept(ada: User) -> None:
    content = b"sku,name,price,currency,stock\n" + b"A,Lamp,-1,EUR,1\n" * 250
    upload = processed(stored_list(ada, content))
    assert (upload.rejected, len(upload.row_errors)) == (250, imports.SHOWN_ERRORS)


def test_a_long_list_is_divided_once_and_summed_up_once(ada: User) -> None:
    upload = uploaded(ada, "products-5000.csv")
    parts = imports.plan_parts(upload.pk)
    assert [part.pk for part in imports.plan_parts(upload.pk)] == [part.pk for part in parts]
    assert [(part.first_row, part.rows) for part in parts] == [(first, 1_000) for first in range(0, 5_000, 1_000)]
    # In any order, and each twice.
    for part in [*reversed(parts), *parts]:
        imports.import_part(upload.pk, part.first_row, part.rows)
    imports.summarise_parts(upload.pk)
    imports.summarise_parts(upload.pk)
    upload.refresh_from_db()
    assert (upload.imported, upload.rejected, len(upload.row_errors)) == (4_988, 12, 12)
    assert Product.objects.count() == 4_988


def test_a_summary_does_not_come_before_the_last_part(ada: User) -> None:
    upload = uploaded(ada, "products-5000.csv")
    first, *_ = imports.plan_parts(upload.pk)
    imports.import_part(upload.pk, first.first_row, first.rows)
    with pytest.raises(imports.PartsMissing):
        imports.summarise_parts(upload.pk)


def test_a_list_without_rows_has_one_part_so_that_its_import_ends(ada: User) -> None:
    upload = stored_list(ada, b"sku,name,price,currency,stock\n")
    [part] = imports.plan_parts(upload.pk)
    imports.import_part(upload.pk, part.first_row, part.rows)
    assert imports.summarise_parts(upload.pk) == imports.Outcome()
