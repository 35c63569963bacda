from django.conf import settings
from django.db import models


class SentMail(models.Model):
    """A mail that the mail server took. Its key is what makes sending it a second time recognisable."""

    key = models.CharField(max_length=200, unique=True)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="+")
    template = models.CharField(max_length=50)
    sent_at = models.DateTimeField(auto_now_add=True, db_index=True)

    class Meta:
        ordering = ("-sent_at",)
        verbose_name_plural = "sent mail"

    def __str__(self) -> str:
        return f"{self.template} to user {self.user_id}"
