"""A file of the bucket as the answer to a request."""

from collections.abc import Mapping

from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render

from apps.uploads import bucket


def answer_with_file(
    request: HttpRequest, key: str, *, at_most: int, content_type: str, headers: Mapping[str, str]
) -> HttpResponse:
    """The caller has checked that whoever asks may have it. A store that is away is told in a sentence."""
    try:
        content = bucket.read(key, at_most=at_most)
    except bucket.FileMissing as missing:
        raise Http404 from missing
    except (bucket.BucketUnavailable, bucket.FileTooLarge) as error:
        return render(request, "uploads/unavailable.html", {"sentence": str(error)}, status=503)
    return HttpResponse(content, content_type=content_type, headers=dict(headers))
