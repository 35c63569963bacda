"""Django and Celery settings. Each number that someone chose has its reason beside it."""

from datetime import timedelta
from typing import Any

import django_stubs_ext
from django.core.exceptions import ImproperlyConfigured

from config.broker import NOTICES_A_DEAD_HOST, broker_of
from config.env import ROOT, env
from config.logging import LOGGING as LOGGING
from config.queues import DEFAULT_QUEUE, QUEUES, SQS_HANDLERS, TASK_ROUTES, task_queues
from config.schedule import SCHEDULE

# Lets classes say `ModelAdmin[Job]` at run time too, as the type checker wants it.
django_stubs_ext.monkeypatch()

# --- Django -----------------------------------------------------------------------------------------------------------

BASE_DIR = ROOT
DEBUG = env.flag("DEBUG", False)
SANDBOX = env.flag("SANDBOX", False)
INSECURE_SECRET_KEY = "insecure-key-for-a-laptop-only"  # noqa: S105 - it says what it is, and needs DEBUG
SECRET_KEY = env.str("SECRET_KEY", INSECURE_SECRET_KEY if DEBUG else "")
SECRET_KEY_FALLBACKS = env.list("SECRET_KEY_FALLBACKS", default=[])
ALLOWED_HOSTS = env.list("ALLOWED_HOSTS", default=["localhost", "127.0.0.1", "[::1]"])
CSRF_TRUSTED_ORIGINS = env.list("CSRF_TRUSTED_ORIGINS", default=[])

if not SECRET_KEY:
    raise ImproperlyConfigured(
        "SECRET_KEY is not set. Set it to a long random string, or set DEBUG=1 on a laptop (see .env.example)."
    )
if SANDBOX and not DEBUG:
    raise ImproperlyConfigured(
        "SANDBOX=1 pretends to be Stripe and the supplier, so it refuses to run in production. "
        "Unset SANDBOX, or set DEBUG=1 on a laptop."
    )

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "whitenoise.runserver_nostatic",
    "django.contrib.staticfiles",
    "django.contrib.humanize",
    "django.contrib.postgres",
    "django_celery_beat",
    "apps.home",
    "apps.jobs",
    "apps.accounts",
    "apps.orders",
    "apps.payments",
    "apps.catalog",
    "apps.uploads",
    "apps.reports",
    "apps.notifications",
    "apps.sandbox",
    "apps.local",
]

MIDDLEWARE = [
    "apps.jobs.origin.OriginMiddleware",
    "config.request_log.RequestLogMiddleware",
    "config.refusals.RefusalsMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "config.content_policy.ContentPolicyMiddleware",
    "config.static.StaticFilesMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "apps.jobs.backpressure.QueueFullMiddleware",
]

ROOT_URLCONF = "config.urls"
WSGI_APPLICATION = "config.wsgi.application"
ASGI_APPLICATION = "config.asgi.application"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [ROOT / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

DATABASE = env.database("DATABASE_URL", "postgres://nightshift@127.0.0.1:5432/nightshift")
DATABASES: dict[str, dict[str, Any]] = {
    "default": {
        **DATABASE,
        # Connections are kept for the life of the process, and checked before use: see apps/jobs/connections.py.
        "CONN_MAX_AGE": None,
        "CONN_HEALTH_CHECKS": True,
        "OPTIONS": {
            "application_name": "nightshift",
            # A database that does not answer a connection attempt in 5 s is down; a request must not wait for longer.
            "connect_timeout": 5,
            **NOTICES_A_DEAD_HOST,
            # What the URL asks for behind its question mark: sslmode=verify-full, above all.
            **DATABASE.get("OPTIONS", {}),
        },
    }
}
# Of a process that serves pages (config/asgi.py). Workers, relays and beats are few threads that keep theirs.
DATABASE_POOL = env.whole("DATABASE_POOL", 10)

LANGUAGE_CODE = "en-gb"
TIME_ZONE = "UTC"
USE_I18N = False
USE_TZ = True

STATIC_URL = "static/"
STATIC_ROOT = ROOT / "var" / "static"
STATICFILES_DIRS = [ROOT / "static"]
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
}
WHITENOISE_USE_FINDERS = True

LOGIN_URL = "login"
LOGIN_REDIRECT_URL = "home"
LOGOUT_REDIRECT_URL = "login"
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator"},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]

SECURE_CONTENT_TYPE_NOSNIFF = True
X_FRAME_OPTIONS = "DENY"
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = not DEBUG
SECURE_SSL_REDIRECT = env.flag("SECURE_SSL_REDIRECT", not DEBUG)
# A container's health check and a scrape ask this process itself, behind whatever ends TLS.
SECURE_REDIRECT_EXEMPT = [r"^health/", r"^metrics$"]
# For so long a browser that has seen the shop over https asks for nothing else. An hour until it is known to work; then
# a year. Whether that holds for the domain's other hosts too is not the shop's to say.
SECURE_HSTS_SECONDS = env.whole("SECURE_HSTS_SECONDS", 0 if DEBUG else 3600)
SILENCED_SYSTEM_CHECKS = ["security.W005", "security.W021"]
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if env.flag("BEHIND_PROXY", False) else None
# Of a form without its files. Of a file: apps/uploads/kinds.py. Of a whole request: config/body_limit.py.
DATA_UPLOAD_MAX_MEMORY_SIZE = 2_621_440

EMAIL_CONFIG = env.mail_server("EMAIL_URL", "consolemail://")
vars().update(EMAIL_CONFIG)
EMAIL_TIMEOUT = 10
# Where a link in a mail leads: a job has no request whose host it could take.
SITE_URL = env.address("SITE_URL", "http://127.0.0.1:8000")
DEFAULT_FROM_EMAIL = env.str("DEFAULT_FROM_EMAIL", "Nightshift <shop@nightshift.example>")

# --- Third parties ----------------------------------------------------------------------------------------------------

STRIPE_API_KEY = env.str("STRIPE_API_KEY", "sk_test_nightshift")
STRIPE_API_BASE = env.address("STRIPE_API_BASE", "https://api.stripe.com")
STRIPE_WEBHOOK_SECRET = env.str("STRIPE_WEBHOOK_SECRET", "")
SUPPLIER_API_BASE = env.address("SUPPLIER_API_BASE", "https://supplier.example")
SUPPLIER_API_KEY = env.str("SUPPLIER_API_KEY", "supplier-test-key")
AWS_ACCESS_KEY_ID = env.str("AWS_ACCESS_KEY_ID", "")
AWS_SECRET_ACCESS_KEY = env.str("AWS_SECRET_ACCESS_KEY", "")
AWS_REGION = env.str("AWS_REGION", "eu-west-1")
AWS_ENDPOINT_URL = env.address("AWS_ENDPOINT_URL", "") or None
AWS_S3_BUCKET = env.str("AWS_S3_BUCKET", "nightshift")
FLOWER_URL = env.address("FLOWER_URL", "")
SANDBOX_URL = env.address("SANDBOX_URL", "")

# --- Celery -----------------------------------------------------------------------------------------------------------

REDIS_URL = env.str("REDIS_URL", "")
BROKER = broker_of(
    env.str("CELERY_BROKER_URL", "") or REDIS_URL or "redis://127.0.0.1:6379/0", database=DATABASES["default"]
)
# Limits and the locks of broker-only tasks are in Redis where there is one, and in PostgreSQL where there is none.
if BROKER.url.startswith(("redis://", "rediss://")):
    REDIS_URL = REDIS_URL or BROKER.url
# Celery takes these from the environment before it asks here: the results would be in another place than the ledger,
# and messages would go by a broker of which the relay knows nothing.
for _name in ("CELERY_RESULT_BACKEND", "CELERY_BROKER_READ_URL", "CELERY_BROKER_WRITE_URL"):
    if env.str(_name, ""):
        raise ImproperlyConfigured(
            f"{_name} is set, and Celery would heed it alone. Unset it: results are in the ledger, and "
            "CELERY_BROKER_URL names the broker."
        )
# Under these names too, because Celery takes CELERY_BROKER_URL from the environment, where pgmq:// alone names nothing.
CELERY_BROKER_URL = CELERY_BROKER_READ_URL = CELERY_BROKER_WRITE_URL = BROKER.url
CELERY_BROKER_TRANSPORT_OPTIONS = dict(BROKER.options)
CELERY_BROKER_USE_SSL = dict(BROKER.tls)
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
# A worker waits for its broker for ever: the supervisor should see a waiting worker, not a crash loop.
CELERY_BROKER_CONNECTION_MAX_RETRIES = None
CELERY_BROKER_CONNECTION_TIMEOUT = 2

# The ledger is the truth, so it is the result backend too: `AsyncResult` reads the job's row.
CELERY_RESULT_BACKEND = "apps.jobs.results:LedgerBackend"
# A result is kept only where someone reads it: `@shared_task(ignore_result=False)`.
CELERY_TASK_IGNORE_RESULT = True
# The default, which every `.delay()` asks for: a setting that is not here takes Celery 20 µs to find.
CELERY_TASK_ALWAYS_EAGER = False
# The ledger has its own retention (below), so Celery's nightly clean-up of results is not scheduled.
CELERY_RESULT_EXPIRES = None

CELERY_TASK_QUEUES = task_queues(BROKER.queue_arguments)
CELERY_TASK_ROUTES = TASK_ROUTES
CELERY_TASK_DEFAULT_QUEUE = DEFAULT_QUEUE
CELERY_TASK_DEFAULT_EXCHANGE_TYPE = "direct"
# A typo in a queue's name must be an error, not a queue that nobody reads.
CELERY_TASK_CREATE_MISSING_QUEUES = False

CELERY_TASK_SERIALIZER = CELERY_RESULT_SERIALIZER = "json"
CELERY_ACCEPT_CONTENT = CELERY_RESULT_ACCEPT_CONTENT = ["json"]

# A message is acknowledged when its job has ended, never before.
CELERY_TASK_ACKS_LATE = True
# A lost child is seen by the main process, which hands the job back through the ledger at once and counts the crash. A
# redelivered message would know no count, and meet a live lease.
CELERY_TASK_REJECT_ON_WORKER_LOST = False
# The relay is the retry. A web request must not wait for a broker.
CELERY_TASK_PUBLISH_RETRY = False
CELERY_WORKER_PREFETCH_MULTIPLIER = BROKER.prefetch_multiplier
# After a lost connection Celery would fetch only for the processes that there are, and a pool that grows by what is
# fetched would grow no more. What is fetched for processes that are still busy is handed back after a second.
CELERY_WORKER_ENABLE_PREFETCH_COUNT_REDUCTION = False
# Every job has an end: in prefork; with gevent the hard limit alone works, with `solo` and `threads` none. A task that
# may take longer says so itself.
CELERY_TASK_SOFT_TIME_LIMIT = 240
CELERY_TASK_TIME_LIMIT = 300
# Memory that leaks is given back after this many jobs, or when a child holds 400 MB (the unit is kB).
CELERY_WORKER_MAX_TASKS_PER_CHILD = 5_000
CELERY_WORKER_MAX_MEMORY_PER_CHILD = 400_000
# Checks every message before Celery does: see apps/jobs/consumer.py.
CELERY_WORKER_CONSUMER = "apps.jobs.consumer:JobConsumer"
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_WORKER_ENABLE_REMOTE_CONTROL = BROKER.has_events
# For a short job a third of what the worker's main process does, so they are sent only while somebody listens: Flower
# switches them on by itself, and again in each worker that starts.
CELERY_WORKER_SEND_TASK_EVENTS = False
CELERY_TIMEZONE = "UTC"
CELERY_ENABLE_UTC = True

CELERY_BEAT_SCHEDULER = "apps.jobs.scheduler:LedgerScheduler"
CELERY_BEAT_SYNC_EVERY = 1

# --- Jobs -------------------------------------------------------------------------------------------------------------

JOBS_QUEUES = QUEUES
JOBS_SCHEDULE = SCHEDULE
JOBS_SQS_HANDLERS = SQS_HANDLERS
# A worker that has not renewed a job's lease for this long is dead; it renews at least three times in that time.
JOBS_LEASE = env.seconds("JOBS_LEASE_SECONDS", 30)
# A job may take its worker down this many times more than it may fail, before it is a poison job.
JOBS_SPARE_CRASHES = 2
# How often a relay looks for dead workers' jobs and for messages that the broker lost.
JOBS_RESCUE_EVERY = env.seconds("JOBS_RESCUE_SECONDS", 5)
# A message that nobody has claimed for this long is taken for lost, whatever the broker says.
JOBS_SENT_TIMEOUT = env.seconds("JOBS_SENT_TIMEOUT_SECONDS", 3600)
# What a deploy grants running jobs before they are handed back: under the usual 30 s between SIGTERM and SIGKILL.
JOBS_SHUTDOWN_GRACE = env.seconds("JOBS_SHUTDOWN_GRACE_SECONDS", 20)
# A job whose task no worker knows waits this long for a worker with newer code.
JOBS_UNKNOWN_TASK_GRACE = env.seconds("JOBS_UNKNOWN_TASK_GRACE_SECONDS", 3600)
# … and is offered again this often: a rolling deploy takes minutes, and each offer costs one message.
JOBS_UNKNOWN_TASK_EVERY = env.seconds("JOBS_UNKNOWN_TASK_SECONDS", 10)
# A job that says "not now" for so long without a try that went further is a dead letter. A third party that asks for
# patience for a day needs a person, and the backlog of a limit that a day does not clear grows for ever.
JOBS_SNOOZE_LIMIT = env.seconds("JOBS_SNOOZE_LIMIT_SECONDS", 86_400)
# Off behind a connection pooler in transaction mode that does not know prepared statements.
JOBS_PREPARE_STATEMENTS = env.flag("JOBS_PREPARE_STATEMENTS", True)
# Touched by workers, relays and beats as long as they live, for a container's health check. Empty: none.
JOBS_HEARTBEAT_FILE = env.str("JOBS_HEARTBEAT_FILE", "")
# Whoever shows it as a bearer may read /metrics and the details of /health; empty: signed-in staff alone.
METRICS_TOKEN = env.str("METRICS_TOKEN", "")
JOBS_KEEP_SUCCEEDED = timedelta(days=7)
JOBS_KEEP_DEAD = timedelta(days=90)
