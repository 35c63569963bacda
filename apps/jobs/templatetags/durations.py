"""Times as people say them."""

from django import template

register = template.Library()

# From the largest unit: how many seconds it has, and from how many on it is used.
UNITS = [("d", 86_400, 172_800), ("h", 3_600, 7_200), ("min", 60, 120), ("s", 1, 0.9995)]


@register.filter
def duration(seconds: float | None) -> str:
    """`350 ms`, `4.2 s`, `50 s`, `3 min`; a dash for none. The same words as `inSeconds` of static/dashboard.js."""
    if seconds is None:
        return "–"
    for unit, size, least in UNITS:
        if seconds >= least:
            number = seconds / size
            return f"{number:.1f} {unit}" if unit == "s" and number < 10 else f"{number:.0f} {unit}"
    return f"{seconds * 1000:.0f} ms"


@register.filter
def percent(share: float | None) -> str:
    """`3.5 %` of 0.035; a dash for none."""
    if share is None:
        return "–"
    return f"{share:.1%}".replace("%", " %") if 0 < share < 0.1 else f"{share:.0%}".replace("%", " %")
