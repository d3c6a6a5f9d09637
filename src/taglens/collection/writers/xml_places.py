"""XML with the byte at which everything stands, so that a file can be changed and the rest of it left as it is.

Knows elements, namespaces and byte offsets; refuses document types (and with them every entity), deep nesting, long
files and encodings other than UTF-8. Refuses to know XMP (`taglens.collection.writers.xmp`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from xml.parsers import expat

LONGEST = 16 << 20
DEEPEST = 100
_SPACE = b" \t\r\n"
_ENCODINGS = frozenset({"utf-8", "utf8", "us-ascii", "ascii"})

Name = tuple[str, str]  # namespace, local name


class XmlError(Exception):
    """A file that cannot be read as the XML that is expected."""


@dataclass(slots=True, eq=False)
class Element:
    """One element.

    Attributes:
        qname: as written; name: its namespace and local name.
        attributes: by namespace and local name, without the declarations.
        scope: prefix -> namespace, as seen inside.
        start, opened, closing, end: offsets of the start tag, of what follows it, of the end tag, and of what follows
            that. Of an element without content (``<a/>``) the last three are equal.
        text: what stands in it outside of other elements.
    """

    qname: str
    name: Name
    attributes: Mapping[Name, str]
    scope: Mapping[str, str]
    start: int
    opened: int
    closing: int = 0
    end: int = 0
    text: str = ""
    children: list[Element] = field(default_factory=list)

    @property
    def prefix(self) -> str:
        """``"rdf:"`` or nothing."""
        return self.qname[: self.qname.rfind(":") + 1]

    @property
    def bare(self) -> bool:
        """Written as ``<a/>``."""
        return self.opened == self.end

    def named(self, name: Name) -> list[Element]:
        return [child for child in self.children if child.name == name]

    def walk(self) -> Iterator[Element]:
        yield self
        for child in self.children:
            yield from child.walk()


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._parser = expat.ParserCreate()
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._text
        self._parser.StartDoctypeDeclHandler = self._doctype
        self._parser.XmlDeclHandler = self._declared
        self._parser.buffer_text = True
        self._open: list[Element] = []
        self._root: Element | None = None

    def read(self) -> Element:
        try:
            self._parser.Parse(self._data, True)
        except expat.ExpatError as error:
            raise XmlError(f"is no well-formed XML ({error})") from None
        if self._root is None:
            raise XmlError("holds no element")
        return self._root

    def _doctype(self, *_: object) -> None:
        raise XmlError("declares a document type, which could name other files; it is not read")

    def _declared(self, _version: str, encoding: str | None, _standalone: int) -> None:
        if encoding is not None and encoding.lower() not in _ENCODINGS:
            raise XmlError(f"is in {encoding}; expected UTF-8")

    def _start(self, qname: str, attributes: Mapping[str, str]) -> None:
        if len(self._open) >= DEEPEST:
            raise XmlError(f"nests more than {DEEPEST} levels deep")
        scope = self._open[-1].scope if self._open else {"xml": "http://www.w3.org/XML/1998/namespace"}
        declared = {
            name[6:]: value
            for name, value in attributes.items()
            if name == "xmlns" or name.startswith("xmlns:")
        }
        if declared:
            scope = {**scope, **declared}
        start = self._parser.CurrentByteIndex
        element = Element(
            qname=qname,
            name=_resolved(qname, scope, default=True),
            attributes={
                _resolved(name, scope, default=False): value
                for name, value in attributes.items()
                if name != "xmlns" and not name.startswith("xmlns:")
            },
            scope=scope,
            start=start,
            opened=_tag_end(self._data, start),
        )
        if self._open:
            self._open[-1].children.append(element)
        elif self._root is None:
            self._root = element
        self._open.append(element)

    def _end(self, _qname: str) -> None:
        element = self._open.pop()
        if self._data[element.opened - 2 : element.opened] == b"/>":
            element.closing = element.end = element.opened
        else:
            element.closing = self._parser.CurrentByteIndex
            element.end = self._data.index(b">", element.closing) + 1

    def _text(self, text: str) -> None:
        if self._open:
            self._open[-1].text += text


def _resolved(qname: str, scope: Mapping[str, str], *, default: bool) -> Name:
    prefix, colon, local = qname.rpartition(":")
    if not colon:
        return (scope.get("", "") if default else "", local)
    if prefix not in scope:
        raise XmlError(f"uses the prefix {prefix!r} without declaring it")
    return scope[prefix], local


def _tag_end(data: bytes, start: int) -> int:
    """The offset after a start tag's ``>``, which may also stand in its quotes."""
    quote = 0
    for place in range(start, len(data)):
        byte = data[place]
        if quote:
            if byte == quote:
                quote = 0
        elif byte in b"\"'":
            quote = byte
        elif byte == 0x3E:
            return place + 1
    raise XmlError("ends within a tag")


def parse(data: bytes) -> Element:
    """The root element.

    Raises:
        XmlError: the bytes are not well-formed XML in UTF-8, or use what is refused (see the top of this file).
    """
    if len(data) > LONGEST:
        raise XmlError(f"has {len(data)} bytes, more than {LONGEST}")
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise XmlError("is in UTF-16; expected UTF-8")
    return _Reader(data).read()


# -- changing --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Edit:
    """``data[start:end]`` becomes ``text``."""

    start: int
    end: int
    text: str


def apply(data: bytes, edits: Iterable[Edit]) -> bytes:
    """All edits at once; those at one place follow each other in their order. None may overlap."""
    parts: list[bytes] = []
    place = 0
    for edit in sorted(edits, key=lambda edit: (edit.start, edit.end)):
        if edit.start < place:
            raise ValueError("edits overlap")
        parts += [data[place : edit.start], edit.text.encode()]
        place = edit.end
    return b"".join([*parts, data[place:]])


def space_before(data: bytes, place: int) -> int:
    """The offset at which the white space before ``place`` begins."""
    while place and data[place - 1] in _SPACE:
        place -= 1
    return place


def removed(data: bytes, element: Element) -> Edit:
    """Without an element and the white space before it: what `inserted` has put there."""
    return Edit(space_before(data, element.start), element.end, "")


def inserted(data: bytes, parent: Element, items: Iterable[str]) -> Edit:
    """New last children, each after the white space that stands before the present last one."""
    if parent.bare:
        return Edit(parent.opened - 2, parent.opened, f">{''.join(items)}</{parent.qname}>")
    if not parent.children:
        return Edit(parent.opened, parent.opened, "".join(items))
    last = parent.children[-1]
    space = data[space_before(data, last.start) : last.start].decode()
    return Edit(last.end, last.end, "".join(space + item for item in items))


_ESCAPED = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "\r": "&#13;", "\n": "&#10;", "\t": "&#9;"}
_TO_ESCAPE = re.compile("[" + "".join(_ESCAPED) + "]")


def escaped(text: str) -> str:
    """Text as it may stand in an element or in double quotes."""
    return _TO_ESCAPE.sub(lambda match: _ESCAPED[match[0]], text)
