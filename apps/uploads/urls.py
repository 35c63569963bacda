from django.urls import path

from apps.uploads import views

app_name = "uploads"

urlpatterns = [
    path("", views.uploads, name="list"),
    path("new/", views.new, name="new"),
    path("<int:upload_id>/", views.detail, name="detail"),
    path("<int:upload_id>/thumbnail-<int:side>.webp", views.thumbnail, name="thumbnail"),
]
