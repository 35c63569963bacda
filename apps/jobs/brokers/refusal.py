"""What a broker does not take: never, which is found out before it is sent, or not now, which it answers."""


class NoRoom(Exception):
    """The queue takes no message now, whichever it is. It may a moment later."""


class MessageRefused(ValueError):
    """No later try can fare better, and a refusal in the middle of a batch would be the end of all of it."""


class MessageTooLarge(MessageRefused):
    def __init__(self, size: int, limit: int, what: str = "The message has") -> None:
        super().__init__(
            f"{what} {size:,} bytes, and the broker takes {limit:,}. Pass an id, and let the task load the data itself."
        )


def check_size(size: int, limit: int, what: str = "The message has") -> None:
    """In bytes, as encoded for the broker. Raises `MessageTooLarge`."""
    if size > limit:
        raise MessageTooLarge(size, limit, what)
