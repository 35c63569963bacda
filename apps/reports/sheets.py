"""Sales as files: CSV for programs, XLSX for people. Both are written row by row.

A product's name is typed by somebody, and a spreadsheet runs what starts with an equals sign. Text that would be taken
for a formula gets an apostrophe in front, as OWASP advises for both formats; numbers stay numbers.
"""

import csv
import io
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from apps.catalog.money import in_main_unit
from apps.orders.queries import Sales

HEADER = ("day", "sku", "product", "quantity", "amount", "currency")
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")
# XML 1.0 cannot hold them, and openpyxl refuses the whole sheet.
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")


@dataclass
class Totals:
    """What a report says at its head, added up while its rows pass by."""

    quantity: int = 0
    amount_minor: dict[str, int] = field(default_factory=dict)

    def add(self, sale: Sales) -> None:
        self.quantity += sale.quantity
        self.amount_minor[sale.currency] = self.amount_minor.get(sale.currency, 0) + sale.amount_minor


class Sheets:
    """A CSV and an XLSX with the same rows."""

    def __init__(self) -> None:
        self._text = io.StringIO(newline="")
        self._csv = csv.writer(self._text)
        # Imported here, or every process would pay a third of a second for it at its start.
        from openpyxl import Workbook

        # Write-only: rows go to a temporary file, not to memory.
        self._book = Workbook(write_only=True)
        self._sheet = self._book.create_sheet("Sales")
        self._write(HEADER)

    def add(self, sale: Sales) -> None:
        amount = in_main_unit(sale.amount_minor, sale.currency)
        self._write((sale.day, escaped(sale.sku), escaped(sale.name), sale.quantity, amount, sale.currency.upper()))

    def csv(self) -> io.BytesIO:
        # With the mark in front Excel takes it for UTF-8.
        return io.BytesIO(self._text.getvalue().encode("utf-8-sig"))

    def xlsx(self) -> io.BytesIO:
        out = io.BytesIO()
        self._book.save(out)
        out.seek(0)
        return out

    def _write(self, cells: Iterable[Any]) -> None:
        row = list(cells)
        self._csv.writerow(row)
        self._sheet.append(row)


def escaped(text: str) -> str:
    """Return the text as a cell that no spreadsheet takes for a formula."""
    printable = CONTROL.sub("", text)
    return f"'{printable}" if printable.lstrip(" ").startswith(FORMULA_STARTS) else printable
