"""Money as people read it. It is kept, sent and added up in minor units (cents), always with its currency."""

from decimal import Decimal

# ISO 4217 currencies that have no minor unit, as far as Stripe takes them.
ZERO_DECIMAL_CURRENCIES = frozenset(
    ["bif", "clp", "djf", "gnf", "jpy", "kmf", "krw", "mga", "pyg", "rwf", "ugx", "vnd", "vuv", "xaf", "xof", "xpf"]
)


def formatted(amount_minor: int, currency: str) -> str:
    """`formatted(1250, "eur")` is `12.50 EUR`, `formatted(1250, "jpy")` is `1,250 JPY`."""
    places = 0 if currency.lower() in ZERO_DECIMAL_CURRENCIES else 2
    amount = Decimal(amount_minor).scaleb(-places)
    return f"{amount:,.{places}f} {currency.upper()}"
