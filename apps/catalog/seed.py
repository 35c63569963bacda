"""Forty products. The last one's sku is one that the supplier refuses."""

from apps.catalog.models import Product

# Name and price in cents, in euro.
PRODUCTS = [
    ("Enamel mug, night blue", 1450),
    ("Enamel mug, cream", 1450),
    ("Teapot, cast iron, 0.8 l", 6900),
    ("Moka pot, three cups", 2990),
    ("Coffee beans, dark roast, 1 kg", 2190),
    ("Earl grey, loose leaf, 250 g", 1290),
    ("Linen tea towel, set of two", 1980),
    ("Oak chopping board, large", 4450),
    ("Paring knife, 9 cm", 1890),
    ("Bread knife, 24 cm", 3990),
    ("Storage jar, 1.5 l", 1150),
    ("Salad bowl, acacia", 3690),
    ("Desk lamp, brass", 8900),
    ("Reading light, clip-on", 2450),
    ("Night light, moon", 1995),
    ("Candle, beeswax, pair", 1350),
    ("Lantern, galvanised", 3250),
    ("Wool blanket, charcoal", 11900),
    ("Cushion cover, mustard", 2400),
    ("Hot-water bottle with knitted cover", 2750),
    ("Slippers, felt, size 41", 4200),
    ("Umbrella, folding", 2990),
    ("Canvas tote bag", 1600),
    ("Backpack, 22 l", 7900),
    ("Water bottle, steel, 0.75 l", 2390),
    ("Lunch box, two tiers", 2690),
    ("Notebook, dotted, A5", 1290),
    ("Fountain pen, fine", 3450),
    ("Ink, blue-black, 50 ml", 1090),
    ("Pencil set, twelve grades", 1750),
    ("Wall calendar", 1890),
    ("Alarm clock, mechanical", 3990),
    ("Kitchen timer", 1490),
    ("Pocket radio", 5450),
    ("Star chart, northern sky", 1980),
    ("Binoculars, 8x32", 12900),
    ("Jigsaw, 1,000 pieces", 2290),
    ("Playing cards", 890),
    ("Kite, two lines", 3390),
    ("Compass, pocket", 2590),
]
REFUSED_BY_SUPPLIER = "BAD-0040"


def seed() -> None:
    """Safe to run twice: a product that is there stays as it is."""
    Product.objects.bulk_create(
        [
            Product(sku=_sku(number), name=name, price_minor=price, currency="eur", stock=20 + number * 7 % 180)
            for number, (name, price) in enumerate(PRODUCTS, start=1)
        ],
        ignore_conflicts=True,
    )


def _sku(number: int) -> str:
    return REFUSED_BY_SUPPLIER if number == len(PRODUCTS) else f"NS-{number:04d}"
