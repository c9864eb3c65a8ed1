"""Markdown that people wrote, as far as our own text has to follow it: what is open at its end, and its headings."""

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from markdown_it.token import Token

_PROBE = "research-steps-probe"
# What ends a comment, a processing instruction, CDATA, a declaration and a script: the HTML that no blank line ends.
_HTML_ENDS = ("-->", "?>", "]]>", ">", "</pre>")
# HTML elements that hide or reshape all that follows for as long as they are open.
_ELEMENT = re.compile(r"<(?P<end>/?)(?P<name>details|summary|table|pre|script|style|textarea)\b", re.IGNORECASE)
_COMMENT = re.compile(r"<!--.*?(?:-->|\Z)", re.DOTALL)


def closing(data: bytes) -> str:
    """What has to come between this Markdown and a heading that is to be read as one: a blank line, and the end of
    whatever is still open."""
    text = _normalised(data)
    tokens = _parse(text)
    gap = "" if not text or text.endswith("\n\n") else "\n" if text.endswith("\n") else "\n\n"
    elements = "".join(f"</{name}>\n\n" for name in reversed(_open_elements(tokens)))
    last = next((token for token in reversed(tokens) if token.level == 0 and token.map), None)
    if last is None or last.map is None or last.type not in ("fence", "html_block"):
        # A blank line ends every other block, lists and quotations with all that is in them.
        return gap + elements
    tail = "\n".join(text.split("\n")[last.map[0] :])
    ends = ("", f"{last.markup}\n\n", *(f"{end}\n\n" for end in _HTML_ENDS))
    return next(gap + end + elements for end in ends if _reads_as_heading(tail + gap + end + elements))


def headings(data: bytes) -> list[str]:
    """The text of every heading, fences and comments left out."""
    tokens = _parse(_normalised(data))
    return [tokens[index + 1].content for index, token in enumerate(tokens) if token.type == "heading_open"]


def _normalised(data: bytes) -> str:
    return data.decode("utf-8-sig", "replace").replace("\r\n", "\n").replace("\r", "\n")


def _parse(text: str) -> "list[Token]":
    from markdown_it import MarkdownIt

    return MarkdownIt("commonmark").parse(text)


def _reads_as_heading(before: str) -> bool:
    tokens = _parse(f"{before}## {_PROBE}\n")
    return tokens[-1].type == "heading_close" and tokens[-1].level == 0 and tokens[-2].content == _PROBE


def _open_elements(tokens: "list[Token]") -> list[str]:
    """The names of the elements that are still open, outermost first."""
    elements: list[str] = []
    pieces = (piece for token in tokens for piece in token.children or [token])
    for html in (piece for piece in pieces if piece.type in ("html_block", "html_inline")):
        for match in _ELEMENT.finditer(_COMMENT.sub("", html.content)):
            name = match["name"].lower()
            if not match["end"]:
                elements.append(name)
            elif name in elements:
                del elements[len(elements) - 1 - elements[::-1].index(name) :]
    return elements
