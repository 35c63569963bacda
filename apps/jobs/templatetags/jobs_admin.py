from datetime import timedelta

from django import template

from apps.jobs.spans import span

register = template.Library()


@register.filter
def seconds(value: float) -> str:
    return span(timedelta(seconds=value))
