"""Text of the data in a Markdown page reads as it was: held against a Markdown parser."""

from html import escape

from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from umer1_core.text import markdown_text, one_line

MARKDOWN = MarkdownIt("commonmark").enable(["table", "strikethrough"])
TEXTS = st.text("ab _*`~|[](){}<>&;#!\\$'\"\n\t-+.:/=1é", max_size=30)


def shown(text):
    """What a page shows of it: in a table's cell, where also a bar and a line's end count."""
    page = MARKDOWN.render(f"| a | b |\n|---|---|\n| x{text}x | {text} |\n")
    return page.partition("<td>")[2].partition("</td>")[0], page.count("<td>"), page.count("<tr>")


@given(TEXTS)
def test_a_cell_shows_the_text_itself(text):
    line = " ".join(text.split())
    assert shown(markdown_text(text)) == (escape(f"x{line}x", quote=False).replace('"', "&quot;"), 2, 2)


def test_without_it_a_cell_would_show_something_else():
    assert shown("*a*")[0] == "x<em>a</em>x" and shown("a|b")[0] == "xa" and shown("<b>")[0] == "x<b>x"


def test_what_needs_nothing_stays_readable():
    assert markdown_text("llava_hound/caption_retrieval, it's 3 > 2") == "llava_hound/caption_retrieval, it's 3 &gt; 2"
    assert markdown_text("_a_ $x$ # b") == "&#95;a&#95; &#36;x&#36; &#35; b"


@given(TEXTS, st.integers(1, 40))
def test_a_line_has_no_breaks_and_no_more_than_it_may(text, most):
    line, whole = one_line(text, most), " ".join(text.split())
    assert line == whole if len(whole) <= most else len(line) == most and line[:-1] == whole[: most - 1]
