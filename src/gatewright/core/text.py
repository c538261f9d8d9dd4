"""Text that came from outside, on its way to a terminal, a log or a person."""


def printable(text: str) -> str:
    """Return `text` without what a terminal would obey or an encoder refuse: such characters are shown escaped."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
