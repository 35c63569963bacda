"""The project: `celery -A config …` finds the app here."""

from config.celery import app

__all__ = ["app"]
