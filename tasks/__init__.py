"""The catalogue of every job: each task's name is `tasks.<function>`, whatever module it lives in."""

from django.conf import settings

from tasks.accounts import critical_password_reset as critical_password_reset
from tasks.catalog import apply_supplier_change as apply_supplier_change
from tasks.catalog import call_external_api as call_external_api
from tasks.catalog import sync_external_data as sync_external_data
from tasks.catalog import sync_to_external_api as sync_to_external_api
from tasks.maintenance import cleanup_old_records as cleanup_old_records
from tasks.messages import send_sqs_message as send_sqs_message
from tasks.notifications import send_email as send_email
from tasks.notifications import send_reminder as send_reminder
from tasks.notifications import send_welcome_email as send_welcome_email
from tasks.payments import charge_customer as charge_customer
from tasks.payments import refund_charge as refund_charge
from tasks.products import batch_import_part as batch_import_part
from tasks.products import batch_import_products as batch_import_products
from tasks.products import fail_import as fail_import
from tasks.products import summarise_import as summarise_import
from tasks.reports import generate_report as generate_report
from tasks.reports import send_report as send_report
from tasks.uploads import process_upload as process_upload

if settings.SANDBOX:
    # Tasks that misbehave on request: whoever can write to the broker could ask for them.
    from tasks.lab import lab_atomic as lab_atomic
    from tasks.lab import lab_cancel as lab_cancel
    from tasks.lab import lab_crash as lab_crash
    from tasks.lab import lab_crash_once as lab_crash_once
    from tasks.lab import lab_limited as lab_limited
    from tasks.lab import lab_nothing as lab_nothing
    from tasks.lab import lab_sleep as lab_sleep
    from tasks.lab import lab_snooze as lab_snooze
