"""Text of the data where people read it: on one line, not too long, and as text in a Markdown page."""

from __future__ import annotations

import html
import re

# An underscore inside a word is no emphasis, and names have many.
_MARKS = re.compile(r"[|\[\]*`~\\#$]|(?<![^\W_])_|_(?![^\W_])")


def one_line(text: str, most: int) -> str:
    """At most `most` characters; where there are more, the last is `…`."""
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 1]}…"


def markdown_text(text: str) -> str:
    """On one line, and nothing in it is a tag, a table's bar, a link, code, a formula or emphasis."""
    line = html.escape(" ".join(text.split()), quote=False)
    return _MARKS.sub(lambda mark: f"&#{ord(mark[0])};", line)
