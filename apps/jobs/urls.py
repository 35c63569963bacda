from django.urls import path

from apps.jobs import views
from apps.jobs.dashboard import views as dashboard

urlpatterns = [
    path("", dashboard.dashboard, name="dashboard"),
    path("events/", dashboard.events, name="dashboard-events"),
    path("<uuid:job_id>/", views.status, name="job-status"),
    path("<uuid:job_id>/events/", views.events, name="job-events"),
    path("<uuid:job_id>/cancel/", views.cancel, name="job-cancel"),
]
