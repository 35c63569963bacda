"""The form that places an order: who pays, and lines of a product and a quantity."""

from typing import Any
from uuid import uuid4

from django import forms
from django.http import QueryDict

from apps.orders.models import Customer
from apps.orders.services import MOST_OF_ONE_PRODUCT

# Nobody fills in more by hand; what a script sends beyond it is refused.
MOST_LINES = 50


class LineForm(forms.Form):
    sku = forms.CharField(max_length=40)
    quantity = forms.IntegerField(min_value=1, max_value=MOST_OF_ONE_PRODUCT)


class PlaceOrderForm(forms.Form):
    """`lines` in the cleaned data maps each sku to its quantity. The fields `sku` and `quantity` come once a line."""

    customer = forms.ModelChoiceField(Customer.objects.select_related("user"), empty_label="—")
    # Made with the page: the same page sent twice, by an impatient finger or a proxy, is the same order.
    request_key = forms.CharField(max_length=64, widget=forms.HiddenInput, initial=lambda: str(uuid4()))

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        cleaned["lines"] = self._lines()
        return cleaned

    def _lines(self) -> dict[str, int]:
        lines: dict[str, int] = {}
        for line in self._line_forms():
            if not line.is_valid():
                raise forms.ValidationError(f"Each line needs a product and a quantity of 1 to {MOST_OF_ONE_PRODUCT}.")
            sku = line.cleaned_data["sku"]
            lines[sku] = lines.get(sku, 0) + line.cleaned_data["quantity"]
        return lines

    def _line_forms(self) -> list[LineForm]:
        """One form a line; lines whose product was left empty are not meant."""
        data = self.data if isinstance(self.data, QueryDict) else QueryDict()
        skus, quantities = data.getlist("sku"), data.getlist("quantity")
        if len(skus) != len(quantities) or len(skus) > MOST_LINES:
            raise forms.ValidationError(f"An order has up to {MOST_LINES} lines of one product and one quantity each.")
        pairs = zip(skus, quantities, strict=True)
        return [LineForm({"sku": sku, "quantity": quantity}) for sku, quantity in pairs if sku.strip()]
