from django.contrib import admin
from django.urls import include, path

urlpatterns = [
    path("", include("apps.home.urls")),
    path("jobs/", include("apps.jobs.urls")),
    path("admin/", admin.site.urls),
]
