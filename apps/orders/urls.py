from django.urls import path

from apps.orders import views

app_name = "orders"

urlpatterns = [
    path("", views.orders, name="list"),
    path("place/", views.place, name="place"),
    path("<int:order_id>/", views.detail, name="detail"),
    path("<int:order_id>/charge-again/", views.retry_charge, name="charge-again"),
    path("<int:order_id>/refund/", views.refund, name="refund"),
    path("<int:order_id>/cancel/", views.cancel, name="cancel"),
]
