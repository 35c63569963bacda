"""Money as people read it. It is kept, sent and added up in minor units (cents), always with its currency."""

from decimal import Decimal

# Currencies without a minor unit, as Stripe takes them: Uganda's shilling has none either, but Stripe asks for cents.
ZERO_DECIMAL_CURRENCIES = frozenset(
    ["bif", "clp", "djf", "gnf", "jpy", "kmf", "krw", "mga", "pyg", "rwf", "vnd", "vuv", "xaf", "xof", "xpf"]
)
# A dinar has a thousand fils. (Stripe wants the last digit to be 0, and refuses another.)
THREE_DECIMAL_CURRENCIES = frozenset(["bhd", "jod", "kwd", "omr", "tnd"])


def formatted(amount_minor: int, currency: str) -> str:
    """`formatted(1250, "eur")` is `12.50 EUR`, `formatted(1250, "jpy")` is `1,250 JPY`."""
    return f"{in_main_unit(amount_minor, currency):,f} {currency.upper()}"


def in_main_unit(amount_minor: int, currency: str) -> Decimal:
    """With all its places: `in_main_unit(1250, "eur")` is `Decimal("12.50")`."""
    return Decimal(amount_minor).scaleb(-_places(currency.lower()))


def _places(currency: str) -> int:
    if currency in ZERO_DECIMAL_CURRENCIES:
        return 0
    return 3 if currency in THREE_DECIMAL_CURRENCIES else 2
