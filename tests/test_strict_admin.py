"""Whatever is typed into the address of a list of ours, or sent as its choice, is no error of the server."""

import pytest
from django.contrib.admin.sites import site
from django.db.models import Model
from django.test import Client
from django.urls import reverse

from apps.jobs.admin.strict import StrictAdmin
from apps.jobs.models import QueuePause
from apps.orders.models import Order

pytestmark = pytest.mark.django_db

OURS = {
    f"{model._meta.app_label}_{model._meta.model_name}": model
    for model, table in site._registry.items()
    if type(table).__module__.startswith("apps.") and model is not QueuePause  # its list has no filters and no choice
}
DATED = ["orders_order", "payments_charge", "payments_webhookevent", "reports_report", "uploads_upload"]


def address_of(of: str) -> str:
    return reverse(f"admin:{of}_changelist")


@pytest.mark.parametrize("model", OURS.values(), ids=OURS)
def test_every_list_of_ours_is_strict(model: type[Model]) -> None:
    assert isinstance(site.get_model_admin(model), StrictAdmin)


@pytest.mark.parametrize(
    "lookup",
    ["attempts__range", "task__trigram_similar", "task__unaccent", "task__regex", "traceback__icontains", "kwargs__x"],
)
def test_a_lookup_that_no_filter_makes_is_a_400(admin_client: Client, lookup: str) -> None:
    assert admin_client.get(address_of("jobs_deadletter"), {lookup: "1"}).status_code == 400


@pytest.mark.parametrize("of", DATED)
def test_a_date_of_which_there_is_no_next_one_is_a_400(admin_client: Client, of: str) -> None:
    column = site.get_model_admin(OURS[of]).date_hierarchy
    far = "9" * 20
    for dated in (
        {"year": "9999"},
        {"year": "9999", "month": "12"},
        {"year": far},
        {"year": "2026", "month": far},
        {"year": "2026", "month": "1", "day": far},
    ):
        query = {f"{column}__{part}": value for part, value in dated.items()}
        assert admin_client.get(address_of(of), query).status_code == 400
    assert admin_client.get(address_of(of), {f"{column}__year": "9998", f"{column}__month": "12"}).status_code == 200


def test_a_year_of_a_column_that_the_list_does_not_page_by_is_a_400(admin_client: Client) -> None:
    assert admin_client.get(address_of("orders_order"), {"paid_at__year": "99999"}).status_code == 400


@pytest.mark.parametrize("of", OURS)
def test_a_choice_that_is_no_id_is_a_400(admin_client: Client, of: str) -> None:
    if OURS[of]._meta.pk.get_internal_type() != "CharField":  # any text is an id there
        chosen = {"action": "delete_selected", "_selected_action": "x"}
        assert admin_client.post(address_of(of), chosen).status_code == 400


def test_what_the_filters_of_a_list_make_is_answered(admin_client: Client) -> None:
    for query in (
        {"status__exact": Order.Status.PAID},
        {"status__in": "paid,declined"},
        {"placed_at__gte": "2026-01-01 00:00:00+00:00", "placed_at__lt": "2026-02-01 00:00:00+00:00"},
        {"paid_at__isnull": "True"},
        {"placed_at__year": "2026", "placed_at__month": "2", "placed_at__day": "28"},
    ):
        assert admin_client.get(address_of("orders_order"), query).status_code == 200
    assert admin_client.get(address_of("catalog_supplierchange"), {"applied_at__isempty": "1"}).status_code == 200
