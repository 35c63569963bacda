from django.conf import settings

from apps.uploads import bucket


def seed() -> None:
    """Create the bucket of a stand-in for S3. A real one has a policy, and an owner who makes it."""
    if settings.AWS_ENDPOINT_URL:
        bucket.ensure()
