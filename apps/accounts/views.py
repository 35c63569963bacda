from django.contrib.auth.forms import PasswordResetForm
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods

import tasks
from apps.accounts.services import users_to_reset
from apps.jobs.backpressure import admit


@require_http_methods(["GET", "HEAD", "POST"])
def password_reset(request: HttpRequest) -> HttpResponse:
    """Answer alike whether or not there is such a user. How often is the task's `unique_for`, not a counter here."""
    form = PasswordResetForm(request.POST or None)
    if request.method != "POST":
        return render(request, "registration/password_reset_form.html", {"form": form})
    if not form.is_valid():
        return render(request, "registration/password_reset_form.html", {"form": form}, status=422)
    with transaction.atomic():
        users = users_to_reset(form.cleaned_data["email"])
        tasks.critical_password_reset.delay_many({"user_id": user.pk} for user in users)
        if not users:
            admit("high")  # a full queue refuses nobody's mail too, or its 503 would say who has an account
    return redirect("password_reset_done")
