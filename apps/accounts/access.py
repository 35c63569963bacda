from django.contrib.auth.models import User
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest


def signed_in(request: HttpRequest) -> User:
    """Return who is signed in, behind `login_required`."""
    if not isinstance(request.user, User):
        raise PermissionDenied("Please sign in.")
    return request.user


def member_of_staff(request: HttpRequest) -> User:
    """Return who is signed in, or refuse with a 403: only staff may start work."""
    user = signed_in(request)
    if not user.is_staff:
        raise PermissionDenied("Only members of staff may do this.")
    return user
