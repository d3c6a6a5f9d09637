"""XMP packets: what is added, what stays as it was byte for byte, and that taking back takes exactly that."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taglens.collection.writers.choosing import key
from taglens.collection.writers.xml_places import DEEPEST, LONGEST, XmlError, parse
from taglens.collection.writers.xmp import (
    LISTS,
    NAMESPACES,
    OURS,
    RDF,
    ListName,
    Packet,
    XmpForm,
    XmpTag,
    merged,
    models,
    unmerged,
)

MODEL = "toy@0123456789ab"


def tags(*names: str, model: str = MODEL) -> list[XmpTag]:
    return [XmpTag(f"object:{name}", name, 0.5, model, "words@1") for name in names]


def values(data: bytes, which: ListName = "subject") -> list[str]:
    """What a list holds, read by another parser than ours."""
    prefix, local, *_ = LISTS[which]
    found = ET.fromstring(data).findall(f".//{{{NAMESPACES[prefix]}}}{local}/*/{{{RDF}}}li")
    return [item.text or "" for item in found]


def packet(body: str = "", *, rdf: str = "rdf", attributes: str = "") -> bytes:
    """A packet of somebody else's with one description."""
    spaces = 'xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:xmp="http://ns.adobe.com/xap/1.0/"'
    return (
        f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><{rdf}:RDF xmlns:{rdf}="{RDF}">\n'
        f'  <{rdf}:Description {rdf}:about="" {spaces}{attributes}>{body}</{rdf}:Description>\n'
        f"</{rdf}:RDF></x:xmpmeta>"
    ).encode()


def subject(*names: str, rdf: str = "rdf", space: str = "\n    ") -> str:
    items = "".join(f"{space}<{rdf}:li>{name}</{rdf}:li>" for name in names)
    return f"<dc:subject><{rdf}:Bag>{items}\n  </{rdf}:Bag></dc:subject>"


# -- adding ----------------------------------------------------------------------------------------


def test_a_new_packet_holds_three_lists_and_goes_when_taken_back() -> None:
    data = merged(None, tags("cat", "red car"), XmpForm())
    assert data is not None
    assert values(data) == ["cat", "red car"]
    assert values(data, "hierarchy") == ["taglens|cat", "taglens|red car"]
    assert values(data, "path") == ["taglens/cat", "taglens/red car"]
    assert models(data) == {MODEL}
    assert unmerged(data) == (None, 2)


def test_subject_can_be_left_alone_and_the_root_be_another_or_none() -> None:
    data = merged(None, tags("cat"), XmpForm(subject=False, root="auto|machine"))
    assert data is not None and values(data) == []
    assert (values(data, "hierarchy"), values(data, "path")) == (["auto|machine|cat"], ["auto/machine/cat"])
    data = merged(None, tags("cat"), XmpForm(root=""))
    assert data is not None and values(data, "hierarchy") == ["cat"] == values(data, "path")


def test_signs_that_part_levels_are_not_levels() -> None:
    data = merged(None, tags("and/or|not"), XmpForm())
    assert data is not None and values(data) == ["and/or|not"]
    assert values(data, "hierarchy") == ["taglens|and/or¦not"]
    assert values(data, "path") == ["taglens/and∕or|not"]


def test_what_is_there_is_not_added_again_whatever_its_case() -> None:
    before = packet(subject("Cat", "mine"))
    after = merged(before, tags("cat", "red_car", "red car"), XmpForm())
    assert after is not None
    assert values(after) == ["Cat", "mine", "red_car"]
    assert unmerged(after) == (before, 2)


def test_adding_twice_changes_nothing() -> None:
    once = merged(packet(), tags("cat", "dog"), XmpForm())
    assert once is not None
    assert merged(once, tags("dog", "cat"), XmpForm()) is None
    more = merged(once, tags("cat", "dog", "sofa"), XmpForm())
    assert more is not None and values(more) == ["cat", "dog", "sofa"]
    assert unmerged(more) == (packet(), 3)


def test_what_somebody_removed_stays_removed() -> None:
    data = merged(packet(), tags("cat", "dog"), XmpForm())
    assert data is not None
    edited = data.replace(b"\n     <rdf:li>cat</rdf:li>", b"")
    assert values(edited) == ["dog"]
    assert merged(edited, tags("cat", "dog"), XmpForm()) is None
    assert unmerged(edited) == (packet(), 2)


def test_what_somebody_had_and_removed_stays_removed() -> None:
    """The hierarchical lists got the tag, dc:subject had it: that is known later on."""
    data = merged(packet(subject("cat")), tags("cat"), XmpForm())
    assert data is not None
    edited = data.replace(b"<rdf:li>cat</rdf:li>", b"")
    assert merged(edited, tags("cat"), XmpForm()) is None


def test_a_tag_that_somebody_adds_afterwards_stays() -> None:
    data = merged(packet(), tags("cat"), XmpForm())
    assert data is not None
    edited = data.replace(b"<rdf:li>cat</rdf:li>", b"<rdf:li>cat</rdf:li><rdf:li>mine</rdf:li>", 1)
    after, count = unmerged(edited)
    assert after is not None and count == 1
    assert values(after) == ["mine"]
    assert OURS.encode() not in after.replace(f'xmlns:taglens="{OURS}"'.encode(), b"")


def test_of_two_equal_entries_one_is_somebodys() -> None:
    data = merged(packet(), tags("cat"), XmpForm())
    assert data is not None
    after, _ = unmerged(data.replace(b"<rdf:li>cat</rdf:li>", b"<rdf:li>cat</rdf:li><rdf:li>cat</rdf:li>", 1))
    assert after is not None and values(after) == ["cat"]


def test_only_one_models_tags() -> None:
    once = merged(packet(subject("mine")), tags("cat"), XmpForm())
    twice = merged(once, tags("dog", model="other@1"), XmpForm())
    assert twice is not None and models(twice) == {MODEL, "other@1"}
    after, count = unmerged(twice, [MODEL])
    assert after is not None and count == 1
    assert values(after) == ["mine", "dog"] and models(after) == {"other@1"}
    assert unmerged(twice, ["nobody@0"]) == (twice, 0)
    last, _ = unmerged(after)
    assert last is not None and values(last) == ["mine"] and not models(last)


@pytest.mark.parametrize("first", ["one@1", "two@2", "three@3"])
@pytest.mark.parametrize("by_another", [None, False, True])
def test_lists_and_packets_go_with_the_last_model(first: str, by_another: bool | None) -> None:
    """Whichever goes first, and in whichever way another program has written the structs meanwhile."""
    for before in (None, packet(), packet(subject("mine"))):
        data = merged(before, tags("cat", "dog", model="one@1"), XmpForm(subject=False))
        data = merged(data, tags("sofa", model="two@2"), XmpForm())
        data = merged(data, tags("a & b", model="three@3"), XmpForm())
        assert data is not None
        data = data if by_another is None else rewritten(data, compact=by_another)
        for model in [first, *sorted({"one@1", "two@2", "three@3"} - {first})]:
            assert data is not None
            data, count = unmerged(data, [model])
            assert count == 1 + (model == "one@1")
        if by_another is None or before is None:
            assert data == before
        else:
            assert data is not None and b"taglens" not in data.partition(b"Description")[2].partition(b">")[2]
            assert [values(data, which) for which in LISTS] == [values(before, which) for which in LISTS]
            assert b"Bag" not in data or values(data) == ["mine"]


# -- any packet, any names --------------------------------------------------------------------------

NAMES = st.text(
    st.characters(exclude_categories=["Cs", "Cc", "Cn", "Zl", "Zp"]) | st.sampled_from("<>&\"'|/]["),
    min_size=1,
).filter(lambda name: name.strip() == name)
SPACES = st.sampled_from(["", " ", "\n", "\n\t ", "\r\n   "])


@st.composite
def packets(draw: st.DrawFn) -> bytes:
    """Packets as different programs lay them out."""
    rdf = draw(st.sampled_from(["rdf", "r", "RDF"]))
    space = draw(SPACES)
    own = draw(st.lists(st.sampled_from(["mine", "cat", "Ünï", "a &amp; b"]), unique=True, max_size=3))
    lr = f"<{rdf}:li>a|b</{rdf}:li>"
    parts = [
        "<!-- > kept -->",
        '<xmp:Label>a > b "c" &#13;&#10; &lt;</xmp:Label>',
        f'<other:Thing xmlns:other="urn:o" other:a=\'x > "y"\'><{rdf}:Seq/></other:Thing>',
        subject(*own, rdf=rdf, space=space),
        f'<l:hierarchicalSubject xmlns:l="{NAMESPACES["lr"]}"><{rdf}:Bag>{lr}</{rdf}:Bag></l:hierarchicalSubject>',
        f'<d:TagsList xmlns:d="{NAMESPACES["digiKam"]}"><{rdf}:Seq></{rdf}:Seq></d:TagsList>',
    ]
    body = space.join(draw(st.permutations(parts))[: draw(st.integers(0, len(parts)))])
    data = packet(
        body, rdf=rdf, attributes=draw(st.sampled_from(["", ' xmp:Rating="3"', "\n  xmp:Label='a>b'"]))
    )
    if draw(st.booleans()):
        data = (
            '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'.encode()
            + data
            + b'\n<?xpacket end="w"?>'
        )
    elif draw(st.booleans()):
        data = '\ufeff<?xml version="1.0" encoding="UTF-8"?>\n'.encode() + data + b"<!-- end -->\n"
    return data


@settings(max_examples=50)
@given(packets(), st.lists(NAMES, max_size=5, unique=True), st.booleans())
def test_taking_back_gives_the_bytes_of_before(
    before: bytes, names: Sequence[str], with_subject: bool
) -> None:
    form = XmpForm(subject=with_subject)
    after = merged(before, tags(*names), form)
    if after is None:
        assert not names
        return
    assert unmerged(after)[0] == before
    for which in LISTS:
        new = values(after, which)
        assert new[: len(values(before, which))] == values(before, which)
        assert len(new) == len(set(new))
    there = {key(value) for value in values(after, "path")}
    assert {key("taglens/" + name.replace("/", "∕")) for name in names} <= there
    # Nothing of the old packet is gone: it can be had by leaving bytes out.
    rest = iter(after)
    assert all(byte in rest for byte in before)


@settings(max_examples=50)
@given(packets(), st.lists(st.lists(NAMES, max_size=3), min_size=2, max_size=4))
def test_several_rounds_are_taken_back_at_once(before: bytes, rounds: list[list[str]]) -> None:
    data = before
    for names in rounds:
        data = merged(data, tags(*names), XmpForm()) or data
    assert unmerged(data)[0] == before


def rewritten(data: bytes, *, compact: bool = False) -> bytes:
    """The same packet from another program's hands: other prefixes and places, structs as attributes."""
    root = ET.fromstring(data)
    if compact:
        for item in root.findall(f".//{{{OURS}}}Tags/*/{{{RDF}}}li"):
            inner = ET.Element(f"{{{RDF}}}Description", {child.tag: child.text or "" for child in item})
            item.attrib.clear()
            item[:] = [inner]
    rdf = root.find(f".//{{{RDF}}}RDF")
    assert rdf is not None
    first, *others = list(rdf)
    for one in others:
        first.extend(list(one))
        rdf.remove(one)
    return ET.tostring(root, "utf-8")


@settings(max_examples=50)
@given(packets(), st.lists(NAMES, min_size=1, max_size=4, unique=True), st.booleans())
def test_taking_back_after_another_program_rewrote_the_packet(
    before: bytes, names: list[str], compact: bool
) -> None:
    after = merged(before, tags(*names), XmpForm())
    assert after is not None
    left, count = unmerged(rewritten(after, compact=compact))
    assert left is not None and count == len(Packet(after).structs())
    for which in LISTS:
        assert values(left, which) == values(before, which)
    assert not Packet(left).structs()


def test_a_created_packet_that_another_program_filled_is_kept() -> None:
    data = merged(None, tags("cat"), XmpForm())
    assert data is not None
    filled = data.replace(
        b"<dc:subject>", b'<x:Rating xmlns:x="http://ns.adobe.com/xap/1.0/">4</x:Rating><dc:subject>'
    )
    left, _ = unmerged(filled)
    assert left is not None and b">4<" in left and b"cat" not in left


def test_an_empty_array_is_filled_and_emptied() -> None:
    before = packet("<dc:subject><rdf:Bag /></dc:subject>")
    after = merged(before, tags("cat"), XmpForm())
    assert after is not None and values(after) == ["cat"]
    left, _ = unmerged(after)
    assert left == before.replace(b"<rdf:Bag />", b"<rdf:Bag ></rdf:Bag>")


def test_a_packet_without_a_description_and_with_another_about() -> None:
    bare = f'<rdf:RDF xmlns:rdf="{RDF}"/>'.encode()
    after = merged(bare, tags("cat"), XmpForm())
    assert after is not None and values(after) == ["cat"]
    about = packet().replace(b'rdf:about=""', b'rdf:about="uuid:&lt;1>"')
    after = merged(about, tags("cat"), XmpForm())
    assert after is not None and after.count(b'rdf:about="uuid:&lt;1') == 2
    default = f'<RDF xmlns="{RDF}"><Description about=""/></RDF>'.encode()
    after = merged(default, tags("cat"), XmpForm())
    assert after is not None and values(after) == ["cat"] and unmerged(after)[0] == default


# -- what is refused --------------------------------------------------------------------------------

BOMB = b'<!DOCTYPE a [<!ENTITY b "bbbb"><!ENTITY c "&b;&b;&b;&b;">]>'
EXTERNAL = b'<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]>'


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "no well-formed XML"),
        (packet()[:-5], "no well-formed XML"),
        (BOMB + packet("&c;"), "document type"),
        (EXTERNAL + packet("&b;"), "document type"),
        ("<?xml version='1.0' encoding='UTF-16'?><a/>".encode("utf-16"), "UTF-16"),
        (b'<?xml version="1.0" encoding="latin-1"?>' + packet(), "latin-1"),
        (b"<a>" * (DEEPEST + 1) + b"</a>" * (DEEPEST + 1), "levels deep"),
        (b" " * (LONGEST + 1), "bytes, more than"),
        (b"<a/>", "expected one rdf:RDF, found 0"),
        (packet("<dc:subject>cat</dc:subject>"), "no list"),
        (packet(subject("a") + subject("b")), "no list"),
        (b"<x:a/>", "prefix 'x'"),
    ],
)
def test_a_file_that_cannot_be_trusted_or_read_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(XmlError, match=why):
        merged(data, tags("cat"), XmpForm())
    if why != "no list":  # which matters only where something is to be added
        with pytest.raises(XmlError, match=why):
            unmerged(data)


def test_places_are_those_of_the_bytes() -> None:
    data = "\ufeff<a é='>'><b/>ü<c></c ></a>".encode()
    root = parse(data)
    first, second = root.children
    assert data[root.start : root.opened] == "<a é='>'>".encode()
    assert (data[first.start : first.end], first.bare) == (b"<b/>", True)
    assert (data[second.start : second.end], second.bare) == (b"<c></c >", False)
    assert root.text == "ü" and root.end == len(data)
