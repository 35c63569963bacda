"""The product list: its header, its limits, and what each row may contain.

Rows come one at a time, so that a list of any length needs the memory of one row. A bad row is a result, not an
exception; only a file that cannot be read at all is refused.
"""

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass

from apps.uploads.kinds import NOT_UTF_8, UploadRejected

HEADER = ["sku", "name", "price", "currency", "stock"]
# All of them with two places: a price has at most two.
CURRENCIES = ("EUR", "GBP", "USD")
# More rows than that are another shop's whole catalogue: it should come in parts.
MAX_ROWS = 50_000
MAX_SKU = 40
MAX_NAME = 200
# Ten million in the currency's main unit; also well inside a 32-bit column of minor units.
PRICE = re.compile(r"[0-9]{1,7}(?:\.[0-9]{1,2})?")
STOCK = re.compile(r"[0-9]{1,7}")
CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True)
class ProductRow:
    line: int
    sku: str
    name: str
    price_minor: int
    currency: str
    stock: int


@dataclass(frozen=True)
class RowError:
    """A row that was left out, and why, in words for the person who typed it."""

    line: int
    reason: str


class BadRow(ValueError):
    """A row cannot become a product. The message says which cell and why."""


def count_rows(content: bytes) -> int:
    """Read the list to its end and return its number of rows; raises `UploadRejected` for a file that cannot be read.

    Done before the first row is written, so that a file which breaks at its end leaves nothing half-imported.
    """
    count = 0
    for count, (line, _) in enumerate(_records(content), start=1):
        if count > MAX_ROWS:
            raise UploadRejected(f"This list has more than {MAX_ROWS:,} rows (line {line}). Please split it.")
    return count


def read_rows(content: bytes) -> Iterator[ProductRow | RowError]:
    """Yield each row as a product or as an error. Of two rows with one sku the first counts."""
    first_seen: dict[str, int] = {}
    for line, cells in _records(content):
        row = _row(line, cells)
        if isinstance(row, ProductRow) and first_seen.setdefault(row.sku, line) != line:
            row = RowError(line, f"sku {row.sku} is already on line {first_seen[row.sku]}")
        yield row


def _records(content: bytes) -> Iterator[tuple[int, list[str]]]:
    # utf-8-sig also reads plain UTF-8; spreadsheets put the mark in front.
    text = io.TextIOWrapper(io.BytesIO(content), encoding="utf-8-sig", newline="")
    reader = csv.reader(text, strict=True)
    try:
        _check_header(next(reader, []))
        for cells in reader:
            if cells:
                yield reader.line_num, cells
    except UnicodeDecodeError as error:
        raise UploadRejected(NOT_UTF_8) from error
    except csv.Error as error:
        raise UploadRejected(f"This list cannot be read as CSV at line {reader.line_num}: {error}.") from error


def _check_header(cells: list[str]) -> None:
    found = [cell.strip().lower() for cell in cells]
    if found != HEADER:
        raise UploadRejected(
            f"The first line must be “{','.join(HEADER)}”, but it is “{_shortened(','.join(cells))}”. "
            "The columns must be separated by commas."
        )


def _row(line: int, cells: list[str]) -> ProductRow | RowError:
    try:
        return _product(line, [cell.strip() for cell in cells])
    except BadRow as bad:
        return RowError(line, str(bad))


def _product(line: int, cells: list[str]) -> ProductRow:
    if len(cells) != len(HEADER):
        raise BadRow(f"the row has {len(cells)} cells instead of {len(HEADER)}")
    sku, name, price, currency, stock = cells
    return ProductRow(
        line=line,
        sku=_text("sku", sku, MAX_SKU),
        name=_text("name", name, MAX_NAME),
        price_minor=_price(price),
        currency=_currency(currency),
        stock=_stock(stock),
    )


def _text(column: str, cell: str, longest: int) -> str:
    if not cell:
        raise BadRow(f"{column} is missing")
    if len(cell) > longest:
        raise BadRow(f"{column} is longer than {longest} characters")
    if CONTROL.search(cell):
        raise BadRow(f"{column} has a character that cannot be printed")
    return cell


def _price(cell: str) -> int:
    """Return minor units. Not by way of float: 100 times 0.29 is 28.999…"""
    if cell.startswith("-"):
        raise BadRow(f"price {_shortened(cell)} is negative")
    if not PRICE.fullmatch(cell):
        raise BadRow(f"price “{_shortened(cell)}” is not a number like 12.50")
    whole, _, cents = cell.partition(".")
    minor = int(whole) * 100 + int(cents.ljust(2, "0"))
    if minor == 0:
        raise BadRow("price is zero")
    return minor


def _currency(cell: str) -> str:
    # In capitals first: "ſ" is an S there, and stays itself in lower case.
    currency = cell.upper()
    if currency not in CURRENCIES:
        raise BadRow(f"currency “{_shortened(cell)}” is not one of {', '.join(CURRENCIES)}")
    return currency.lower()


def _stock(cell: str) -> int:
    if not STOCK.fullmatch(cell):
        raise BadRow(f"stock “{_shortened(cell)}” is not a whole number")
    return int(cell)


def _shortened(text: str) -> str:
    """A cell may hold anything of any length, and this ends in a page."""
    printable = CONTROL.sub(" ", text)
    return printable if len(printable) <= 60 else f"{printable[:59]}…"
