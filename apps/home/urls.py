from django.contrib.auth.views import LoginView, LogoutView
from django.urls import path

from apps.home import views

urlpatterns = [
    path("", views.home, name="home"),
    path("pulse/", views.pulse, name="pulse"),
    path("patterns/<slug:slug>/<slug:act>/", views.play, name="play"),
    path("patterns/<slug:slug>/<slug:act>/seen/", views.seen, name="seen"),
    path("login/", LoginView.as_view(redirect_authenticated_user=True), name="login"),
    path("logout/", LogoutView.as_view(), name="logout"),
]
