"""Tags in XMP: adding what a packet lacks, and taking exactly that out again. Bytes in, bytes out.

Knows dc:subject, lr:hierarchicalSubject, digiKam:TagsList and a namespace of its own that says which tags came from
here. Refuses to know files (`taglens.collection.writers.sidecars`). All else in a packet keeps its bytes.

Each tag that was added has a struct in ``taglens:Tags``: Id, Name, Score, Model, Vocabulary, and

    Subject, Hierarchy, Path    what was added to which list; absent where nothing was
    Had                         the lists that had it already, as ``subject hierarchy path``
    Made                        the lists that did not exist before

What a struct speaks of and a list no longer holds was removed by someone, and is not added again. Programs that
rewrite a packet keep the structs (as properties of a namespace that they do not know), so taking back works on
meaning and not on places; where nobody has rewritten it, the bytes are those of before.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from taglens.collection.writers.choosing import key
from taglens.collection.writers.xml_places import (
    Edit,
    Element,
    Name,
    XmlError,
    apply,
    escaped,
    inserted,
    parse,
    removed,
)

RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
NAMESPACES = {
    "dc": "http://purl.org/dc/elements/1.1/",
    "lr": "http://ns.adobe.com/lightroom/1.0/",
    "digiKam": "http://www.digikam.org/ns/1.0/",
    "taglens": "https://github.com/taglens/taglens/ns/1.0/",
}
OURS = NAMESPACES["taglens"]

ListName = Literal["subject", "hierarchy", "path"]
# What each list is called, what kind of array it is, and the field of a struct that says what was added to it.
LISTS: Mapping[ListName, tuple[str, str, str, str]] = {
    "subject": ("dc", "subject", "Bag", "Subject"),
    "hierarchy": ("lr", "hierarchicalSubject", "Bag", "Hierarchy"),
    "path": ("digiKam", "TagsList", "Seq", "Path"),
}
_PACKET = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n'
    '<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="taglens">\n'
    f' <rdf:RDF xmlns:rdf="{RDF}">\n </rdf:RDF>\n'
    '</x:xmpmeta>\n<?xpacket end="w"?>\n'
).encode()


@dataclass(frozen=True, slots=True)
class XmpTag:
    """One tag to add."""

    id: str
    name: str
    score: float
    model: str
    vocabulary: str


@dataclass(frozen=True, slots=True)
class XmpForm:
    """Which lists get tags, and below which root the hierarchical ones stand (empty: none)."""

    root: str = "taglens"
    subject: bool = True

    def values(self, name: str) -> dict[ListName, str]:
        """What a tag is called in each list. ``|`` and ``/``, which part levels there, become ``¦`` and ``∕``."""
        lr, path = name.replace("|", "¦"), name.replace("/", "∕")
        values: dict[ListName, str] = {"subject": name} if self.subject else {}
        values["hierarchy"] = f"{self.root.replace('/', '|')}|{lr}" if self.root else lr
        values["path"] = f"{self.root.replace('|', '/')}/{path}" if self.root else path
        return values


@dataclass(frozen=True, slots=True)
class _Struct:
    """What is known of a tag that was added."""

    element: Element
    fields: Mapping[str, str]

    def added(self) -> dict[ListName, str]:
        return {name: self.fields[field] for name, (*_, field) in LISTS.items() if field in self.fields}

    def words(self, field: str) -> set[str]:
        return set(self.fields.get(field, "").split())


class Packet:
    """A parsed packet. Raises XmlError where there is no RDF in it, or a tag list that is no list."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        root = parse(data)
        found = [element for element in root.walk() if element.name == (RDF, "RDF")]
        if len(found) != 1:
            raise XmlError(f"is no XMP: expected one rdf:RDF, found {len(found)}")
        self.rdf = found[0]
        self.descriptions = self.rdf.named((RDF, "Description"))

    def properties(self, name: Name) -> list[Element]:
        return [element for one in self.descriptions for element in one.named(name)]

    def array(self, name: Name) -> Element | None:
        """The array of a property; None where there is no such property."""
        there = self.properties(name)
        if not there:
            return None
        arrays = [
            child
            for child in there[0].children
            if child.name[0] == RDF and child.name[1] in ("Bag", "Seq", "Alt")
        ]
        if len(there) > 1 or len(arrays) != 1:
            raise XmlError(f"has a {there[0].qname} that is no list")
        return arrays[0]

    def tag_list(self, which: ListName) -> Element | None:
        prefix, local, *_ = LISTS[which]
        return self.array((NAMESPACES[prefix], local))

    def structs(self) -> list[_Struct]:
        """What was added here, in any of the ways in which RDF may write it."""
        array = self.array((OURS, "Tags"))
        return [] if array is None else [_Struct(item, _fields(item)) for item in array.named((RDF, "li"))]

    def about(self) -> str:
        """What the packet is about; every description must say the same."""
        for one in self.descriptions:
            for name in ((RDF, "about"), ("", "about")):
                if name in one.attributes:
                    return one.attributes[name]
        return ""


def _fields(item: Element) -> dict[str, str]:
    fields: dict[str, str] = {}
    for element in (item, *item.named((RDF, "Description"))):
        fields |= {name: value for (space, name), value in element.attributes.items() if space == OURS}
        fields |= {child.name[1]: child.text.strip() for child in element.children if child.name[0] == OURS}
    return fields


def merged(before: bytes | None, tags: Sequence[XmpTag], form: XmpForm) -> bytes | None:
    """A packet with the tags that it lacks; None where there is nothing to add.

    Args:
        before: the packet; None makes a new one.

    Raises:
        XmlError: it cannot be read.
    """
    packet = Packet(_PACKET if before is None else before)
    arrays = {which: packet.tag_list(which) for which in LISTS}
    there = {
        which: set() if array is None else {key(item.text.strip()) for item in array.children}
        for which, array in arrays.items()
    }
    known: dict[str, set[str]] = {}
    for struct in packet.structs():
        known.setdefault(struct.fields.get("Id", ""), set()).update(struct.added(), struct.words("Had"))
    new: dict[ListName, list[str]] = {which: [] for which in LISTS}
    structs: list[dict[str, str]] = []
    for tag in tags:
        fields: dict[str, str] = {}
        had: list[str] = []
        for which, value in form.values(tag.name).items():
            if which in known.get(tag.id, ()):
                continue
            if key(value) in there[which]:
                had.append(which)
                continue
            there[which].add(key(value))
            new[which].append(value)
            fields[LISTS[which][3]] = value
        if fields:
            made = [which for which in LISTS if arrays[which] is None and len(new[which]) == 1]
            made = [which for which in made if LISTS[which][3] in fields]
            structs.append(_struct(tag, fields, had=had, made=made))
    if not structs:
        return None
    return _with(packet, new, structs, arrays, created=before is None)


def _struct(
    tag: XmpTag, fields: Mapping[str, str], *, had: Sequence[str], made: Sequence[str]
) -> dict[str, str]:
    struct = {
        "Id": tag.id,
        "Name": tag.name,
        "Score": f"{tag.score:.7g}",
        "Model": tag.model,
        "Vocabulary": tag.vocabulary,
        **fields,
    }
    if had:
        struct["Had"] = " ".join(had)
    if made:
        struct["Made"] = " ".join(made)
    return struct


def _with(
    packet: Packet,
    new: Mapping[ListName, Sequence[str]],
    structs: Sequence[Mapping[str, str]],
    arrays: Mapping[ListName, Element | None],
    *,
    created: bool,
) -> bytes:
    edits: list[Edit] = []
    block: list[str] = []
    # In a block of our own the usual prefix is declared, unless the packet calls RDF something else.
    rdf = packet.rdf.prefix or "rdf:"
    for which, values in new.items():
        array = arrays[which]
        if array is not None and values:
            items = [f"<{array.prefix}li>{escaped(value)}</{array.prefix}li>" for value in values]
            edits.append(inserted(packet.data, array, items))
        elif values:
            prefix, local, kind, _ = LISTS[which]
            items = [f"<{rdf}li>{escaped(value)}</{rdf}li>" for value in values]
            block += _property(f"{prefix}:{local}", f"{rdf}{kind}", items)
    ours = packet.array((OURS, "Tags"))
    if ours is not None:
        prefix = packet.properties((OURS, "Tags"))[0].prefix or "taglens:"
        edits.append(
            inserted(
                packet.data, ours, [_struct_text(one, rdf=ours.prefix or rdf, ours=prefix) for one in structs]
            )
        )
    else:
        items = [_struct_text(one, rdf=rdf, ours="taglens:") for one in structs]
        block += _property("taglens:Tags", f"{rdf}Bag", items)
    if created:
        block.append("   <taglens:Created>True</taglens:Created>")
    if block:
        edits.append(_block(packet, block, rdf))
    return apply(packet.data, edits)


def _property(name: str, array: str, items: Sequence[str]) -> list[str]:
    return [
        f"   <{name}>",
        f"    <{array}>",
        *(f"     {item}" for item in items),
        f"    </{array}>",
        f"   </{name}>",
    ]


def _struct_text(struct: Mapping[str, str], *, rdf: str, ours: str) -> str:
    fields = "".join(f"<{ours}{name}>{escaped(value)}</{ours}{name}>" for name, value in struct.items())
    return f'<{rdf}li {rdf}parseType="Resource">{fields}</{rdf}li>'


def _block(packet: Packet, lines: Sequence[str], rdf: str) -> Edit:
    """A description of our own behind the others."""
    spaces = [f'xmlns:{prefix}="{uri}"' for prefix, uri in NAMESPACES.items()]
    if not packet.rdf.prefix:
        spaces.append(f'xmlns:rdf="{RDF}"')
    head = f'<{rdf}Description {rdf}about="{escaped(packet.about())}"\n    ' + "\n    ".join(spaces) + ">"
    text = "\n".join([head, *lines, f"  </{rdf}Description>"])
    if packet.rdf.bare or packet.rdf.children:
        return inserted(packet.data, packet.rdf, [text])
    return Edit(packet.rdf.opened, packet.rdf.opened, "\n  " + text)


# -- taking back -----------------------------------------------------------------------------------


def unmerged(data: bytes, wanted: Iterable[str] | None = None) -> tuple[bytes | None, int]:
    """A packet without what was added, and how many tags that were.

    Args:
        wanted: only tags of these models, each a ``name@fingerprint``; None: all.

    Returns:
        None instead of a packet that was made here and holds nothing else.

    Raises:
        XmlError: it cannot be read.
    """
    packet = Packet(data)
    structs = packet.structs()
    models = None if wanted is None else frozenset(wanted)
    taken = [one for one in structs if models is None or one.fields.get("Model", "") in models]
    if not taken:
        return data, 0
    gone: list[Element] = []
    emptied: set[Element] = set()
    staying = [one for one in structs if one not in taken]
    handed: dict[int, set[str]] = {}
    for which in LISTS:
        gone += _unlisted(packet, which, taken)
        heir = next((place for place, one in enumerate(staying) if which in one.added()), None)
        if heir is not None and any(which in one.words("Made") for one in taken):
            handed.setdefault(heir, set()).add(which)
    if len(taken) == len(structs):
        gone += packet.properties((OURS, "Tags"))
        created = packet.properties((OURS, "Created"))
        gone += created
        by_us = bool(created) or any((OURS, "Created") in one.attributes for one in packet.descriptions)
    else:
        gone += [one.element for one in taken]
        by_us = False
    lost = set(gone)
    for one in packet.descriptions:
        if one.children and all(child in lost for child in one.children) and not _says_more(one):
            lost -= set(one.children)
            emptied.add(one)
    left = [one for one in packet.descriptions if one not in emptied and (one.children or _says_more(one))]
    if by_us and not left:
        return None, len(taken)
    edits = [removed(data, element) for element in lost | emptied]
    edits += [_made_by(data, staying[place], words) for place, words in handed.items()]
    return apply(data, edits), len(taken)


def _made_by(data: bytes, struct: _Struct, lists: set[str]) -> Edit:
    """Let a struct that stays say that lists did not exist before, since the one that said so goes."""
    words = struct.words("Made") | lists
    text = " ".join(which for which in LISTS if which in words)
    for element in (struct.element, *struct.element.named((RDF, "Description"))):
        fields = [child for child in element.children if child.name[0] == OURS]
        for made in element.named((OURS, "Made")):
            if not made.bare:
                return Edit(made.opened, made.closing, text)
            return Edit(made.start, made.end, f"<{made.qname}>{text}</{made.qname}>")
        if fields and (OURS, "Made") not in element.attributes:
            name = f"{fields[0].prefix}Made"
            return inserted(data, element, [f"<{name}>{text}</{name}>"])
        if any(space == OURS for space, _ in element.attributes):
            prefix = next(one for one, space in element.scope.items() if one and space == OURS)
            tag = data[element.start : element.opened].decode()
            found = re.search(rf"""\s{re.escape(prefix)}:Made\s*=\s*("[^"]*"|'[^']*')""", tag)
            begin, end = found.span() if found else (1 + len(element.qname),) * 2
            begin, end = (element.start + len(tag[:place].encode()) for place in (begin, end))
            return Edit(begin, end, f' {prefix}:Made="{text}"')
    raise XmlError("has a taglens:Tags that is written in no known way")


def _unlisted(packet: Packet, which: ListName, taken: Sequence[_Struct]) -> list[Element]:
    """The items that were added to a list and are still there; or all of it, if it was made for them."""
    array = packet.tag_list(which)
    if array is None:
        return []
    left = list(array.children)
    gone = []
    for struct in taken:
        value = struct.added().get(which)
        found = [item for item in left if item.text.strip() == (value or "").strip()] if value else []
        if found:
            left.remove(found[-1])
            gone.append(found[-1])
    made = any(which in struct.words("Made") for struct in taken)
    if made and not left:
        prefix, local, *_ = LISTS[which]
        return packet.properties((NAMESPACES[prefix], local))
    return gone


def _says_more(description: Element) -> bool:
    """Whether a description has properties written as attributes, other than ours."""
    return any(
        name != (RDF, "about") and name != ("", "about") and name != (OURS, "Created")
        for name in description.attributes
    )


def models(data: bytes) -> set[str]:
    """The models whose tags were added here, as ``name@fingerprint``."""
    return {struct.fields.get("Model", "") for struct in Packet(data).structs()}
