"""The catalogue of patterns: what each is for, where it lives, and how to see it hold.

The home page, the README's table, the docs and `manage.py tour` all read it here.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from apps.home.act import Act, succeeded
from apps.home.acts import crashes, files, ledger, money, queues, third_parties, waiting
from apps.jobs.backpressure import QueueFull


@dataclass(frozen=True)
class Pattern:
    """`without` and `with_` are one sentence each: what the usual code does, and what this project does instead.

    `module`, `task` and `proof` are the three doors into the code: the machinery, a use of it, the test of its failure.
    """

    slug: str
    title: str
    when: str
    without: str
    with_: str
    module: str
    task: str
    proof: str
    run: Act
    break_: Act


@dataclass(frozen=True)
class Chapter:
    slug: str
    title: str
    patterns: tuple[Pattern, ...]


MONEY = Chapter(
    "money",
    "Money and third parties",
    (
        Pattern(
            slug="idempotent-charge",
            title="Idempotent charge",
            when="the work costs money, or cannot be taken back",
            without="Two workers see an unpaid order and both charge it; a crash before the save charges it again.",
            with_="The charge is recorded before Stripe hears of it, under a key that no attempt changes, and a lost "
            "answer is looked up before anything is asked for again.",
            module="apps/payments/services.py",
            task="tasks.charge_customer",
            proof="tests/apps/test_payments.py",
            run=Act(money.charge, money.paid_once),
            break_=Act(money.charge_under_fire, money.paid_once, seconds=40),
        ),
        Pattern(
            slug="retry",
            title="Retry with backoff and jitter",
            when="a third party fails now and then",
            without="Every failed call is repeated after the same pause, so a thousand jobs hit a struggling supplier "
            "in step; and a bug is retried like an outage.",
            with_="Only named, passing errors are retried: ever later, at random moments, and not for ever. The ledger "
            "does the waiting, not a worker.",
            module="apps/jobs/task.py",
            task="tasks.sync_to_external_api",
            proof="tests/jobs/test_task.py",
            run=Act(third_parties.sync, succeeded),
            break_=Act(third_parties.sync_through_errors, third_parties.recovered, seconds=60),
        ),
        Pattern(
            slug="retry-after",
            title="Retry-After",
            when="a third party says when to come back",
            without="The answer names a time, nobody listens, and the knocking makes the limit last longer.",
            with_="The job waits for as long as the answer said, whatever its backoff would have been.",
            module="apps/jobs/retry_after.py",
            task="tasks.sync_to_external_api",
            proof="tests/jobs/test_retry_after.py",
            run=Act(third_parties.sync_when_told, third_parties.waited_as_told, seconds=30),
            break_=Act(third_parties.sync_many_when_told, third_parties.waited_as_told, seconds=60),
        ),
        Pattern(
            slug="dead-letter",
            title="Dead letters and replay",
            when="a job cannot succeed by itself",
            without="After the last retry the failure is logged, the job counts as done, and nobody can repeat it.",
            with_="Every end that is neither success nor a cancel is a row with its reason and its arguments; a "
            "replay is one click, and a double click is one replay.",
            module="apps/jobs/dead_letters.py",
            task="tasks.charge_customer",
            proof="tests/jobs/test_dead_letters.py",
            run=Act(money.decline, money.declined_for_good),
            break_=Act(money.replay_twice, money.replayed_once),
        ),
        Pattern(
            slug="rate-limit",
            title="Rate limits, a worker's and the fleet's",
            when="a third party allows so many calls a minute",
            without="Celery's rate_limit counts in each worker for itself: ten workers make ten times the calls.",
            with_="One limit for all workers by key; a job that is refused waits in the ledger and holds nobody up.",
            module="apps/jobs/limits.py",
            task="tasks.call_external_api",
            proof="tests/jobs/test_limits.py",
            run=Act(third_parties.call, succeeded, seconds=60),
            break_=Act(third_parties.call_in_a_burst, third_parties.kept_to_the_limit, seconds=90),
        ),
        Pattern(
            slug="concurrency",
            title="A hundred calls at once",
            when="jobs mostly wait for somebody else",
            without="Each process waits for one slow answer; a hundred of them take a hundred times as long.",
            with_="The io queue has a worker of a hundred green threads, with time-outs on every call.",
            module="config/queues.py",
            task="tasks.sync_to_external_api",
            proof="tests/acceptance/test_gevent.py",
            run=Act(third_parties.a_hundred_slow_calls, third_parties.all_at_once, seconds=40),
            break_=Act(third_parties.slow_calls_by_processes, third_parties.one_after_the_other, seconds=60),
        ),
    ),
)

NEVER_LOST = Chapter(
    "never-lost",
    "Accepted means done",
    (
        Pattern(
            slug="transactional-enqueue",
            title="Enqueue in a transaction",
            when="a row and its job belong together",
            without="The job runs before the commit and finds no row, or after a rollback and works on nothing.",
            with_="The job is a row in the same transaction: it exists if and only if the transaction committed.",
            module="apps/jobs/ledger.py",
            task="tasks.charge_customer",
            proof="tests/jobs/test_task.py",
            run=Act(money.charge, money.paid_once),
            break_=Act(ledger.enqueue_and_roll_back, ledger.left_nothing),
        ),
        Pattern(
            slug="database-events",
            title="Database events",
            when="a job should start as soon as it is committed",
            without="A poll every few seconds makes each job late, and a faster one keeps the database busy.",
            with_="The commit itself wakes the relay by NOTIFY; a poll each second stands behind it, for the wake-up "
            "that gets lost.",
            module="apps/jobs/relay.py",
            task="tasks.lab_sleep",
            proof="tests/jobs/test_ledger.py",
            run=Act(ledger.commit_and_start, ledger.started_soon),
            break_=Act(ledger.lose_the_wake_up, ledger.started_by_the_poll),
        ),
        Pattern(
            slug="wiped-broker",
            title="A wiped broker",
            when="Redis is restarted, flushed or full",
            without="What was in the queue is gone, and nobody knows what that was.",
            with_="The broker only carries copies: the relay sees that it was emptied, and sends them again.",
            module="apps/jobs/relay.py",
            task="tasks.lab_sleep",
            proof="tests/acceptance/test_brokers_that_forget.py",
            run=Act(ledger.twenty_jobs, succeeded, seconds=30),
            break_=Act(ledger.twenty_jobs_and_a_wiped_broker, succeeded, seconds=60),
        ),
        Pattern(
            slug="unique",
            title="Unique jobs",
            when="the same wish may be made twice",
            without="A lock with a time limit ends before its job, or outlives it by an hour; anyone may delete it.",
            with_="The key is a column of the job under a unique index: it comes and goes with the job, and with the "
            "transaction.",
            module="apps/jobs/unique.py",
            task="tasks.send_welcome_email",
            proof="tests/jobs/test_unique.py",
            run=Act(ledger.welcome_twice, ledger.one_job),
            break_=Act(ledger.welcome_from_ten_threads, ledger.one_job),
        ),
        Pattern(
            slug="atomic",
            title="Exactly once, in the database",
            when="a job's only effect is in our own tables",
            without="The work is committed and the crash comes before the acknowledgement: it is done again.",
            with_="The task's rows and the job's success commit in one transaction, or neither does.",
            module="apps/jobs/task.py",
            task="tasks.lab_atomic",
            proof="tests/jobs/test_task.py",
            run=Act(ledger.count_once, ledger.counted_once),
            break_=Act(ledger.count_and_crash, ledger.counted_once, seconds=60),
        ),
        Pattern(
            slug="crash",
            title="A worker that dies",
            when="always: out of memory, kill -9, a lost host",
            without="The message was acknowledged when it arrived, so the job is gone; or it comes back after an hour.",
            with_="A running job holds a lease that its worker renews. When the worker dies the job is handed on, and "
            "a zombie's late answer changes nothing.",
            module="apps/jobs/lease.py",
            task="tasks.lab_crash",
            proof="tests/acceptance/test_workers_that_die.py",
            run=Act(crashes.crash_once, crashes.survived, seconds=30),
            break_=Act(crashes.crash_always, crashes.buried_as_poison, seconds=90),
        ),
        Pattern(
            slug="poison-message",
            title="A poison message",
            when="something else writes to the broker",
            without="A message that cannot be read stops the worker, returns, and stops the next one.",
            with_="Every envelope is checked before it is opened; what cannot be read becomes a dead letter and is "
            "acknowledged.",
            module="apps/jobs/consumer.py",
            task="none: it never became one",
            proof="tests/jobs/test_consumer.py",
            run=Act(crashes.unknown_task, crashes.kept_as_letters),
            break_=Act(crashes.malformed_messages, crashes.kept_as_letters),
        ),
    ),
)

TIME = Chapter(
    "time",
    "Time",
    (
        Pattern(
            slug="delayed",
            title="Delayed jobs",
            when="the work is for later",
            without="A countdown waits in a worker's memory; past the broker's time-out it runs twice, and it cannot "
            "be cancelled.",
            with_="It waits in the ledger until it is due, and until then a cancel is final.",
            module="apps/jobs/ledger.py",
            task="tasks.send_reminder",
            proof="tests/jobs/test_task.py",
            run=Act(waiting.remind_later, waiting.on_time, seconds=30),
            break_=Act(waiting.remind_and_cancel, waiting.cancelled),
        ),
        Pattern(
            slug="snooze",
            title="Snooze",
            when="a job finds that it is too early",
            without="The worker sleeps, or the job fails and uses its retries up with waiting.",
            with_="The job says when it wants to come back; that costs no retry, and no worker waits.",
            module="apps/jobs/snooze.py",
            task="tasks.lab_snooze",
            proof="tests/jobs/test_task.py",
            run=Act(waiting.snooze, waiting.came_back, seconds=30),
            break_=Act(waiting.snooze_together, waiting.came_back, seconds=40),
        ),
        Pattern(
            slug="schedule",
            title="Schedules",
            when="work is due every night, or every five minutes",
            without="Two beats double every run, no beat runs nothing, and a slow run piles the next ones up.",
            with_="A leader lock makes a second beat a stand-by, each tick is one unique job, and a tick is skipped "
            "while the last run is live.",
            module="apps/jobs/scheduler.py",
            task="tasks.sync_external_data",
            proof="tests/jobs/test_scheduler.py",
            run=Act(waiting.tick_now, waiting.ticked),
            break_=Act(waiting.tick_twice, waiting.ticked),
        ),
    ),
)

QUEUES = Chapter(
    "queues",
    "Queues",
    (
        Pattern(
            slug="priority",
            title="Queues by urgency",
            when="a password reset must not wait for an import",
            without="One queue for everything: a thousand slow jobs stand in front of the one that somebody waits for.",
            with_="Queues are named by how soon their jobs must start, each has workers of its own, and a typo in a "
            "queue's name is an error.",
            module="config/queues.py",
            task="tasks.critical_password_reset",
            proof="tests/acceptance/test_operators.py",
            run=Act(queues.urgent, queues.urgent_was_quick),
            break_=Act(queues.urgent_behind_a_flood, queues.urgent_was_quick, seconds=40),
        ),
        Pattern(
            slug="backpressure",
            title="Backpressure",
            when="producers are faster than workers",
            without="The queue grows until memory, patience or the disk ends.",
            with_="A queue has a maximum depth; past it nothing is written, and the caller hears 503 and when to "
            "come back.",
            module="apps/jobs/backpressure.py",
            task="tasks.lab_sleep",
            proof="tests/jobs/test_backpressure.py",
            run=Act(queues.fifty_at_once, succeeded, seconds=30),
            break_=Act(queues.more_than_fits, succeeded, refusal=QueueFull),
        ),
        Pattern(
            slug="pause",
            title="Pause and resume",
            when="a third party is down for maintenance",
            without="The worker is stopped, and with it everything else that it did.",
            with_="A paused queue's jobs stay in the ledger, even those on their way, and resume by themselves.",
            module="apps/jobs/queues.py",
            task="tasks.batch_import_products",
            proof="tests/jobs/test_queues.py",
            run=Act(queues.start_while_paused, queues.waited_for_the_resume, seconds=30),
            break_=Act(queues.pause_in_full_flight, queues.waited_for_the_resume, seconds=40),
        ),
    ),
)

FILES = Chapter(
    "files",
    "Long work and files",
    (
        Pattern(
            slug="progress",
            title="Progress and cancel",
            when="a person waits for the end",
            without="A write for every item, a bar that jumps back on a retry, and a page that polls for ever.",
            with_="At most one write a second, a share that never falls, and each write is a place to stop.",
            module="apps/jobs/progress.py",
            task="tasks.generate_report",
            proof="tests/jobs/test_progress.py",
            run=Act(files.report, files.reported, seconds=60),
            break_=Act(files.cancel_in_the_middle, files.stopped, seconds=60),
        ),
        Pattern(
            slug="upload",
            title="Files from strangers",
            when="somebody uploads something",
            without="A corrupt file, or a small one that unpacks to gigabytes, takes the worker down, again and again.",
            with_="Type, size and content are checked first; what cannot be read ends at once, with a reason that the "
            "sender understands.",
            module="apps/uploads/services.py",
            task="tasks.process_upload",
            proof="tests/tasks/test_uploads.py",
            run=Act(files.good_upload, succeeded, seconds=40),
            break_=Act(files.broken_upload, files.refused_with_a_reason, seconds=40),
        ),
        Pattern(
            slug="fan-out",
            title="Fan-out, and one summary",
            when="one big job is many small ones",
            without="A hundred subtasks, and no one knows when the last is done; or a chord whose body never comes.",
            with_="The ledger counts the parts down in the transaction that ends each, and starts the summary once.",
            module="apps/jobs/chords.py",
            task="tasks.batch_import_products",
            proof="tests/jobs/test_chords.py",
            run=Act(files.long_list, files.summed_up_once, seconds=90),
            break_=Act(files.long_list_delivered_twice, files.summed_up_once, seconds=90),
        ),
    ),
)

CHAPTERS = (MONEY, NEVER_LOST, TIME, QUEUES, FILES)


def patterns() -> Iterator[Pattern]:
    for chapter in CHAPTERS:
        yield from chapter.patterns


def find(slug: str) -> Pattern | None:
    return next((pattern for pattern in patterns() if pattern.slug == slug), None)
