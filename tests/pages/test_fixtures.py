"""What the tests of the pages stand on."""

from django.db import connection
from playwright.sync_api import Browser

from apps.local.waiting import wait_for


def test_beside_a_browser_this_process_has_one_connection(browser: Browser, db: None) -> None:
    assert wait_for(lambda: other_sessions() == 0, 10), "left open by who ran before the browser was there"


def other_sessions() -> int:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            " AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
        )
        return int(cursor.fetchone()[0])
