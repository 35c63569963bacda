from django.urls import path

from apps.jobs import views

urlpatterns = [
    path("<uuid:job_id>/", views.status, name="job-status"),
    path("<uuid:job_id>/cancel/", views.cancel, name="job-cancel"),
]
