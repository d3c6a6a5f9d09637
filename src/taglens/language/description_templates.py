"""Descriptions without a language model: sentences made of a tag's name, kind, parents and synonyms.

They say nothing about looks that the vocabulary does not say: they put a name into the places in which captions have
it, and tell what it is a kind of. Whoever writes them into a file says that they are templates.
"""

from __future__ import annotations

from itertools import chain

from taglens.language.description_prompts import Subject
from taglens.language.lemmas import singular, third_person
from taglens.results import Kind
from taglens.vocabulary import Entry

# {a}: the name behind its article; {}: the name alone; {does}: the verb in the third person.
_TEMPLATES: dict[Kind, tuple[str, ...]] = {
    "object": (
        "a photo that shows {a}",
        "{a} seen from close by",
        "{a} among other things in a photo",
        "{a} in the middle of the picture",
        "{a} seen from far away",
        "part of {a} at the edge of a photo",
        "several of them in one picture: {}",
        "a drawing or a sign that shows {a}",
    ),
    "scene": (
        "a photo whose surroundings are {a}",
        "a view of {a}",
        "people in a place that is {a}",
        "the background of the picture is {a}",
        "{a} seen from above",
        "{a} without anybody in it",
    ),
    "attribute": (
        "a photo of something {}",
        "something {} seen from close by",
        "somebody or something {}",
        "a photo in which something looks {}",
        "several things that are {}",
    ),
    "action": (
        "a photo of somebody who {does}",
        "a person who {does} in front of others",
        "an animal or a thing that {does}",
        "several people {}",
        "the moment in which somebody {does}",
    ),
}
_PARENT: dict[Kind, str] = {
    "object": "{a}, which is a kind of {parent}",
    "scene": "{a}, which is a kind of {parent}",
    "attribute": "something {}, which is a kind of {parent}",
    "action": "somebody who {does}, which is a kind of {parent}",
}
_SYNONYM = "{}, also called {synonym}"


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# English nouns of stuff, which take no article; the commonest in captions, and no complete list.
_STUFF: frozenset[str] = _words(
    """
    water grass sand snow ice food wood metal glass paper rice bread meat beef pork cheese butter milk coffee tea
    wine beer juice soup hair fur clothing equipment furniture luggage baggage traffic smoke fire fog mist rain mud
    dirt dust
    gravel concrete asphalt leather plastic fabric cotton wool silk straw hay corn fruit jewelry jewellery makeup
    footwear headwear eyewear foliage vegetation lightning sunlight sunshine pasta bacon garlic chocolate ketchup
    mustard broccoli spinach celery lettuce seaweed ivy moss bamboo ivory marble brick people cattle art graffiti
    pottery laundry machinery money cash air sky seafood hockey soccer football baseball basketball tennis golf rugby
    """
)


def from_templates(subject: Subject, *, count: int) -> tuple[str, ...]:
    """At most ``count`` descriptions of a tag, the most telling first; fewer where there is nothing more to say."""
    kind: Kind = "object" if subject.entry.kind == "typed" else subject.entry.kind
    first, *rest = _TEMPLATES[kind]
    made = chain(
        [_filled(first, subject.entry)],
        (_filled(_PARENT[kind], subject.entry, parent=parent) for parent in subject.parents),
        (_filled(_SYNONYM, subject.entry, synonym=name) for name in subject.names[1:]),
        (_filled(template, subject.entry) for template in rest),
    )
    return tuple(dict.fromkeys(made))[:count]


def _filled(template: str, entry: Entry, *, parent: str = "", synonym: str = "") -> str:
    # In one pass over the template: a name with braces in it stays as it is.
    parts = {
        "{a}": with_article(entry.name),
        "{}": entry.name,
        "{does}": _third_person(entry.name),
        "{parent}": parent,
        "{synonym}": synonym,
    }
    found = template
    pieces: list[str] = []
    while found:
        place, mark = min(
            ((found.find(mark), mark) for mark in parts if mark in found), default=(len(found), "")
        )
        pieces += [found[:place], parts.get(mark, "")]
        found = found[place + len(mark) :]
    return " ".join("".join(pieces).split())


def with_article(name: str) -> str:
    """ "owl" -> "an owl"; plurals, known nouns of stuff and names in capitals or other scripts stay as they are."""
    last = name.split()[-1].casefold() if name.split() else ""
    plural = singular(last) != last or (last.endswith("s") and not last.endswith(("ss", "us", "is")))
    if plural or last in _STUFF or not name[:1].isascii() or not name[:1].islower():
        return name
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _third_person(name: str) -> str:
    """ "play guitar" -> "plays guitar"."""
    verb, _, rest = name.partition(" ")
    return f"{third_person(verb)} {rest}".strip()
