"""How values and choices stand in a one-line message."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def shown(value: object) -> str:
    """`value` as it stands in a message: quoted, on one line, shortened."""
    text = '"' + value + '"' if isinstance(value, str) else str(value)
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return text if len(text) <= 80 else text[:77] + "..."


def nearest(word: str, choices: Iterable[str], limit: int = 12, unlisted: Iterable[str] = ()) -> str:
    """The end of a message about an unknown `word`: the close matches, `unlisted` ones too, if there are any, else the
    choices."""
    names = [str(choice) for choice in choices]
    close = difflib.get_close_matches(word, [*names, *unlisted], n=3, cutoff=0.6)
    if close:
        return "did you mean " + " or ".join(close) + "?"
    rest = f" and {len(names) - limit} more" if len(names) > limit else ""
    return "choices: " + (", ".join(sorted(names)[:limit]) + rest if names else "none")
