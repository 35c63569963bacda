from django.contrib.auth.models import User
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest


def signed_in(request: HttpRequest) -> User:
    """Return who is signed in, behind `login_required`."""
    if not isinstance(request.user, User):
        raise PermissionDenied("Please sign in.")
    return request.user


def member_of_staff(request: HttpRequest, permission: str | None = None) -> User:
    """Return who is signed in, or refuse with a 403: only staff may start work, and what moves money or a third party
    wants the permission that the admin asks for, like "orders.change_order".
    """
    user = signed_in(request)
    if not user.is_staff:
        raise PermissionDenied("Only members of staff may do this.")
    if permission and not user.has_perm(permission):
        raise PermissionDenied
    return user
