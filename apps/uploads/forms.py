from typing import Any

from django import forms

from apps.uploads.kinds import ACCEPT, HEAD, UploadRejected, check_content, check_size, declared_kind
from apps.uploads.models import Upload


class UploadForm(forms.Form):
    """One file, with the checks that cost nothing. What takes reading the file is left to the task."""

    file = forms.FileField(
        label="Product list or picture",
        help_text="A CSV with the columns sku, name, price, currency, stock; or a JPEG, PNG or WebP. At most 10 MB.",
        widget=forms.FileInput(attrs={"accept": ACCEPT}),
        # Our own sentence for an empty file, the same one as in the task.
        allow_empty_file=True,
    )

    kind: Upload.Kind

    def clean_file(self) -> Any:
        file = self.cleaned_data["file"]
        try:
            self.kind = declared_kind(file.name or "", file.content_type)
            check_size(file.size or 0)
            check_content(self.kind, _head(file))
        except UploadRejected as refusal:
            raise forms.ValidationError(str(refusal)) from refusal
        return file


def _head(file: Any) -> bytes:
    head: bytes = file.read(HEAD)
    file.seek(0)
    return head
