from django.contrib import admin
from django.urls import include, path

from apps.jobs.health import probes
from apps.jobs.metrics.exposition import metrics

urlpatterns = [
    path("", include("apps.home.urls")),
    path("jobs/", include("apps.jobs.urls")),
    path("health/live", probes.live, name="health-live"),
    path("health/ready", probes.ready, name="health-ready"),
    path("health/workers", probes.workers, name="health-workers"),
    path("metrics", metrics, name="metrics"),
    path("orders/", include("apps.orders.urls")),
    path("catalog/", include("apps.catalog.urls")),
    path("uploads/", include("apps.uploads.urls")),
    path("reports/", include("apps.reports.urls")),
    path("accounts/", include("apps.accounts.urls")),
    path("webhooks/", include("apps.payments.urls")),
    path("sandbox/", include("apps.sandbox.urls")),
    path("admin/", admin.site.urls),
]
