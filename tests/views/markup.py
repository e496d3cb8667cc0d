"""Reads HTML as a browser would: elements, attributes and text."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser


@dataclass
class Markup:
    """What an HTML text holds."""

    elements: list[str] = field(default_factory=list)
    attributes: list[tuple[str, str | None]] = field(default_factory=list)
    text: str = ""

    def values(self, attribute: str) -> list[str | None]:
        """Return the values of all attributes of that name."""
        return [value for name, value in self.attributes if name == attribute]


def parse(html: str) -> Markup:
    """Parse HTML. Text in ``style`` is no text."""
    found = Markup()

    class Reader(HTMLParser):
        within_style = False

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            found.elements.append(tag)
            found.attributes += attrs
            self.within_style = tag == "style"

        def handle_endtag(self, tag: str) -> None:
            self.within_style = self.within_style and tag != "style"

        def handle_data(self, data: str) -> None:
            if not self.within_style:
                found.text += data

    reader = Reader()
    reader.feed(html)
    reader.close()
    return found
