"""What a broker says of a message that is larger than it takes."""


class MessageTooLarge(ValueError):
    """Raised before it is sent: no later try can fare better, and the broker's own refusal would end the batch."""

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(
            f"The message has {size:,} bytes, and the broker takes {limit:,}."
            " Pass an id, and let the task load the data itself."
        )


def check(size: int, limit: int) -> None:
    """In bytes, as encoded for the broker. Raises `MessageTooLarge`."""
    if size > limit:
        raise MessageTooLarge(size, limit)
