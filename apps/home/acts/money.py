"""Charges: paid once, declined for good, replayed once."""

from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

from django.contrib.auth.models import User
from django.db import connection, transaction

from apps.home.act import CannotPlay, Seen, Started, attempts, once_ended, times
from apps.home.acts.cast import DECLINES, PAYS, charges_at_stripe, customer, misbehave, order_of
from apps.home.acts.mischief import deliver_again
from apps.jobs import dead_letters
from apps.jobs.models import DeadLetter, Job
from apps.orders.models import Customer, Order
from apps.orders.views import start_charge

DELIVERIES = 20


def charge(_: User) -> Started:
    order, job_id = _order_and_charge(customer(PAYS))
    return Started(f"Placed {order} and asked for {order.total}.", (job_id,))


def charge_under_fire(_: User) -> Started:
    """Stripe takes the money and its answer is lost; meanwhile the broker delivers the message again and again."""
    misbehave("stripe", "cut", count=1, matching="confirm")
    order, job_id = _order_and_charge(customer(PAYS))
    deliver_again(job_id, DELIVERIES)
    return Started(
        f"Placed {order}, cut Stripe's answer after it had taken the money, and delivered the message "
        f"{DELIVERIES} more times.",
        (job_id,),
    )


@once_ended
def paid_once(jobs: list[Job]) -> Seen:
    order = _order(jobs[0])
    count = charges_at_stripe(order)
    held = count == 1 and order.status == Order.Status.PAID
    return Seen(f"Stripe's books: {order} was charged {times(count)}, after {attempts(jobs[0])}.", held)


def decline(_: User) -> Started:
    order, job_id = _order_and_charge(customer(DECLINES))
    return Started(f"Charged {order} to a card that its bank declines.", (job_id,))


@once_ended
def declined_for_good(jobs: list[Job]) -> Seen:
    [job] = jobs
    letter = DeadLetter.objects.filter(job_id=job.pk).first()
    if letter is None:
        return Seen("The job ended without a dead letter.", held=False)
    return Seen(f"Dead after {attempts(job)}, and a letter says why: {letter.message}", held=True)


def replay_twice(user: User) -> Started:
    """A double click, or two operators who read the same letter: both replay it at the same moment."""
    letter = DeadLetter.objects.filter(
        task="tasks.charge_customer", exception="CardDeclined", state=DeadLetter.State.OPEN
    ).last()
    if letter is None:
        raise CannotPlay("There is no dead letter of a declined card to replay. Run it first.")
    with ThreadPoolExecutor(2) as clicks:
        made = list(clicks.map(_replay_on_own_connection, [letter.pk] * 2, [user] * 2))
    return Started("Replayed the dead letter of a declined card twice at once.", tuple(job for job in made if job))


def _replay_on_own_connection(letter_id: UUID, by: User) -> UUID | None:
    try:
        job_id: UUID | None = dead_letters.replay(letter_id, by=by)
        return job_id
    finally:
        connection.close()


@once_ended
def replayed_once(jobs: list[Job]) -> Seen:
    made = "one job" if len(jobs) == 1 else f"{len(jobs)} jobs"
    return Seen(f"Two replays made {made}. It ended as {jobs[0].state}: the bank still declines.", len(jobs) == 1)


def _order_and_charge(buyer: Customer) -> tuple[Order, UUID]:
    with transaction.atomic():
        order = order_of(buyer)
        start_charge(order.pk)
    order.refresh_from_db(fields=["charge_job"])
    return order, UUID(str(order.charge_job))


def _order(job: Job) -> Order:
    return Order.objects.get(pk=job.kwargs["order_id"])
