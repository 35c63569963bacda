from django.conf import settings
from django.contrib.auth.models import Group, Permission, User
from django.db.models import Q

# A customer who pays, one whose card declines, one whose supplier refuses her product.
CAST = ("ada", "bert", "cleo")
# What the buttons of the shop's own pages want.
ACTS = ("add_order", "change_order", "change_product")
SHOP = ("catalog", "orders", "payments", "uploads", "reports", "notifications")
# The sandbox refuses to run in production. Who starts a demo on its database all the same must not open it with this.
SANDBOX_PASSWORD = "nightshift"  # noqa: S105


def seed() -> None:
    """Create the cast: members of staff who look at everything in the shop, sell, refund, and act on its jobs."""
    shopkeepers, _ = Group.objects.get_or_create(name="shopkeepers")
    shopkeepers.permissions.set(_permissions())
    operators, _ = Group.objects.get_or_create(name="operators")
    password = SANDBOX_PASSWORD if settings.SANDBOX and not _has_others() else None
    for name in CAST:
        user, created = User.objects.get_or_create(
            username=name,
            defaults={"first_name": name.title(), "email": f"{name}@nightshift.example", "is_staff": True},
        )
        if created:
            user.set_password(password)
            user.save(update_fields=["password"])
        user.groups.add(shopkeepers, operators)


def _permissions() -> list[Permission]:
    wanted = Q(codename__startswith="view_") | Q(codename__in=ACTS)
    return list(Permission.objects.filter(wanted, content_type__app_label__in=SHOP))


def _has_others() -> bool:
    """Before the cast came: a database that somebody else uses."""
    return User.objects.exclude(username__in=[*CAST, "admin"]).exists()
