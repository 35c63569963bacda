"""The shop's way to the sandbox's own page, which runs in another process and works while the shop does not."""

from django.conf import settings
from django.contrib.admin.views.decorators import staff_member_required
from django.http import Http404, HttpRequest, HttpResponseRedirect
from django.shortcuts import redirect
from django.views.decorators.http import require_safe


@require_safe
@staff_member_required(login_url=settings.LOGIN_URL)
def switches(request: HttpRequest) -> HttpResponseRedirect:  # noqa: ARG001
    if not settings.SANDBOX or not settings.SANDBOX_URL:
        raise Http404("The sandbox is off.")
    return redirect(settings.SANDBOX_URL)
