from django.urls import path, register_converter
from django.urls.converters import StringConverter

from apps.reports import views

app_name = "reports"


class FileKind(StringConverter):
    regex = "csv|xlsx"


register_converter(FileKind, "report_file")

urlpatterns = [
    path("", views.reports, name="list"),
    path("new/", views.new, name="new"),
    path("<int:report_id>/", views.detail, name="detail"),
    path("<int:report_id>/send/", views.send, name="send"),
    path("<int:report_id>/sales.<report_file:kind>", views.download, name="download"),
]
