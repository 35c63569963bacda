from django.contrib.auth.forms import PasswordResetForm
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods

import tasks
from apps.accounts.services import user_to_reset


@require_http_methods(["GET", "HEAD", "POST"])
def password_reset(request: HttpRequest) -> HttpResponse:
    """Answer alike whether or not there is such a user. How often is the task's `unique_for`, not a counter here."""
    form = PasswordResetForm(request.POST or None)
    if request.method != "POST":
        return render(request, "registration/password_reset_form.html", {"form": form})
    if not form.is_valid():
        return render(request, "registration/password_reset_form.html", {"form": form}, status=422)
    with transaction.atomic():
        user = user_to_reset(form.cleaned_data["email"])
        if user is not None:
            tasks.critical_password_reset.delay(user_id=user.pk)
    return redirect("password_reset_done")
