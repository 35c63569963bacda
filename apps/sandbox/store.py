"""What the sandbox remembers: documents and tallies, in one SQLite database.

Without a path it is kept in memory. With one it survives `kill -9` of the process, because each request is one
transaction and the operating system already has the pages. It may lose the last moments in a power cut, which a
pretended bank can afford: `synchronous=OFF` spares every request an fsync.
"""

import json
import re
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

Document: TypeAlias = dict[str, Any]

# The fields that the shop looks things up by; without an index a search reads every document.
INDEXED = ("metadata.order_id", "customer", "payment_intent", "pending_webhooks")
EVERY: Mapping[str, object] = {}


class Store:
    """One connection behind one lock: a test double needs no concurrency, and all must see one order of events."""

    def __init__(self, path: Path | None = None) -> None:
        self._lock = threading.RLock()
        self._database = sqlite3.connect(path or ":memory:", isolation_level=None, check_same_thread=False)
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = OFF")
        self._lay_out()

    def _lay_out(self) -> None:
        self._database.executescript(
            """
            CREATE TABLE IF NOT EXISTS document (
                seq INTEGER PRIMARY KEY, kind TEXT NOT NULL, id TEXT NOT NULL, body TEXT NOT NULL, UNIQUE (kind, id)
            );
            CREATE TABLE IF NOT EXISTS tally (
                book TEXT NOT NULL, party TEXT NOT NULL, what TEXT NOT NULL, times INTEGER NOT NULL,
                PRIMARY KEY (book, party, what)
            );
            """
        )
        for name in INDEXED:
            index = name.replace(".", "_")
            self._database.execute(f"CREATE INDEX IF NOT EXISTS by_{index} ON document (kind, {_field(name)})")

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing, one at a time. A transaction inside another belongs to the outer one."""
        with self._lock:
            if self._database.in_transaction:
                yield
                return
            self._database.execute("BEGIN")
            try:
                yield
            except BaseException:
                self._database.execute("ROLLBACK")
                raise
            self._database.execute("COMMIT")

    def put(self, kind: str, document: Document) -> None:
        """Keep a document under its `id`; a second time replaces the first and keeps its place in the order."""
        self.rows(
            "INSERT INTO document (kind, id, body) VALUES (?, ?, ?)"
            " ON CONFLICT (kind, id) DO UPDATE SET body = excluded.body",
            kind,
            document["id"],
            json.dumps(document),
        )

    def get(self, kind: str, named: str) -> Document | None:
        rows = self.rows("SELECT body FROM document WHERE kind = ? AND id = ?", kind, named)
        return json.loads(rows[0][0]) if rows else None

    def find(self, kind: str, where: Mapping[str, object] = EVERY, limit: int = -1) -> list[Document]:
        """The newest first. `where` names fields and their values: `{"metadata.order_id": "5"}`."""
        conditions = "".join(f" AND {_field(name)} = ?" for name in where)
        rows = self.rows(
            # Only names that `_field` has checked get into the text.
            f"SELECT body FROM document WHERE kind = ?{conditions} ORDER BY seq DESC LIMIT ?",  # noqa: S608
            kind,
            *where.values(),
            limit,
        )
        return [json.loads(body) for (body,) in rows]

    def forget(self, kind: str) -> None:
        self.rows("DELETE FROM document WHERE kind = ?", kind)

    def forget_everything(self) -> None:
        with self.transaction():
            self.rows("DELETE FROM document")
            self.rows("DELETE FROM tally")

    def count(self, book: str, party: str, what: str) -> None:
        self.rows(
            "INSERT INTO tally VALUES (?, ?, ?, 1) ON CONFLICT DO UPDATE SET times = times + 1", book, party, what
        )

    def counted(self, book: str) -> dict[str, dict[str, int]]:
        counts: dict[str, dict[str, int]] = {}
        for party, what, times in self.rows("SELECT party, what, times FROM tally WHERE book = ? ORDER BY what", book):
            counts.setdefault(party, {})[what] = times
        return counts

    def rows(self, sql: str, *values: object) -> list[Any]:
        with self._lock:
            return self._database.execute(sql, values).fetchall()

    def close(self) -> None:
        with self._lock:
            self._database.close()


def _field(name: str) -> str:
    """SQL for a field of the document. An index is only used when the path is written out, not bound."""
    if not re.fullmatch(r"[\w.]+", name):
        raise ValueError(f"{name!r} is not the name of a field")
    return f"json_extract(body, '$.{name}')"
