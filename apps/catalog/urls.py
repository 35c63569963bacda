from django.urls import path

from apps.catalog import views

app_name = "catalog"

urlpatterns = [
    path("", views.products, name="list"),
    path("pull/", views.pull, name="pull"),
    path("<int:product_id>/push/", views.push, name="push"),
]
