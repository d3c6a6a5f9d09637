"""Classes that cannot appear in each other's pictures, so that what a picture is not labelled with is not there.

Knows a judgement, made by hand class by class, over the leaf classes of small public sets (objects, animals, rooms,
goods), and the rule that picks a vocabulary from it. Refuses to know pictures.

Why it is needed: a set with one label a picture says nothing of the rest. A lion's picture may hold a gazelle, a
street's a car, anything a person and what the person wears. Such a truth is incomplete, and a precision measured
against it is wrong. Complete truth needs a vocabulary in which no class can be in a picture of another. It is not
enough to keep two classes out of one mosaic: while both are in the vocabulary, a tile of the one may hold the other
unsaid.

How it is reached
- Leaf classes only. "animal", "food", "vehicle" are true of many pictures that are not labelled with them.
- What is seen nearly anywhere is out: `ANYWHERE`.
- Of each company in `COMPANIES`, things that people photograph together, one is kept: the first in the order of
  `JUDGED` that meets nothing kept before it.
- A class that nobody judged is out.
- Whoever has sets of their own judges them, and says so in a file: `read_exclusive`.

What remains is the error of the sets' own labels, which no rule here can see.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from taglens.errors import DataError
from taglens.vocabulary import normalise

# Theme -> its classes. The order is the order of preference; a theme is a company invented for mosaics, so that
# some classes come together more often than others.
JUDGED: Mapping[str, tuple[str, ...]] = {
    "zoo": (
        "elephant", "bison", "camel", "orangutan", "gorilla", "chimpanzee", "koala", "red panda", "cougar",
        "black stork", "lion", "gazelle", "baboon", "brown bear", "bighorn sheep",
    ),
    "vivarium": (
        "goldfish", "salamander", "alligator", "boa constrictor", "jellyfish", "dugong", "sea cucumber", "snail",
        "slug", "sea slug", "lobster", "spiny lobster", "brain coral", "coral reef", "bullfrog",
    ),
    "cabinet": (
        "scorpion", "tarantula", "centipede", "monarch butterfly", "trilobite", "acorn", "bee", "dragonfly",
        "ladybug", "fly", "grasshopper", "mantis", "stick insect", "cockroach", "spider web", "mushroom",
    ),
    "outing": (
        "school bus", "train", "gondola", "go-kart", "cannon", "dam", "glacier", "tractor", "ox", "goose", "pig",
        "obelisk", "triumphal arch", "lawn mower", "parking meter", "pay phone", "cash machine", "king penguin",
        "albatross",
    ),
    "club": (
        "basketball", "rugby ball", "oboe", "gas mask", "binoculars", "barbershop", "potter's wheel", "volleyball",
        "scoreboard", "punching bag", "dumbbell", "pipe organ", "drumstick",
    ),
    "table": (
        "pizza", "cabbage", "milk", "abacus", "hourglass", "syringe", "ipod", "bedroom", "cauliflower",
        "pretzel", "ice cream", "guacamole", "espresso", "pineapple", "garlic", "ginger", "banana", "orange", "lemon",
        "juice", "yoghurt", "kitchen", "bathroom", "compass", "stopwatch", "beaker", "pill bottle", "remote control",
        "cd player", "sewing machine", "teddy bear",
    ),
}  # fmt: skip

# Where -> classes that people photograph together. One group: any two of it may share a picture. Two: any of the
# first with any of the second.
COMPANIES: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "at a waterhole": (("elephant", "lion", "gazelle", "baboon", "black stork"),),
    "in a national park": (("bison", "brown bear", "bighorn sheep"),),
    "in a meadow of bison": (("bison",), ("ox",)),
    "on the forest's floor": (("salamander", "snail", "slug", "mushroom", "acorn", "bullfrog"),),
    "in a reef": (
        ("lobster", "spiny lobster", "sea cucumber", "sea slug", "brain coral", "coral reef"),
    ),
    "in warm seas": (("dugong", "jellyfish"), ("sea slug", "brain coral", "coral reef", "lobster")),
    "on one blossom": (
        ("monarch butterfly", "bee", "dragonfly", "ladybug", "fly", "grasshopper", "mantis", "stick insect",
         "spider web"),
    ),
    "as hunter and prey": (
        ("scorpion", "tarantula", "centipede", "salamander", "spider web"),
        ("grasshopper", "cockroach", "mantis", "bee", "fly", "ladybug", "stick insect", "snail", "slug"),
    ),
    "on a farm": (("tractor", "ox", "goose", "pig"),),
    "on a lawn": (("lawn mower",), ("tractor", "goose", "school bus")),
    "in a city": (
        ("school bus", "obelisk", "triumphal arch", "parking meter", "pay phone", "cash machine"),
    ),
    "on a memorial's lawn": (("cannon",), ("obelisk", "triumphal arch", "lawn mower")),
    "in ice and snow": (("glacier",), ("king penguin", "albatross", "brown bear", "bighorn sheep")),
    "at the sea": (("albatross", "king penguin", "goose"),),
    "in a sports hall": (("basketball", "volleyball", "scoreboard", "punching bag", "dumbbell"),),
    "on a playing field": (("rugby ball",), ("scoreboard", "volleyball")),
    "in a concert": (("oboe", "pipe organ", "drumstick"),),
    "on a laid table": (
        ("pizza", "pretzel", "ice cream", "guacamole", "espresso", "garlic", "pineapple", "lemon", "juice", "lobster",
         "spiny lobster"),
    ),
    "in a greengrocer's": (
        ("cabbage", "cauliflower", "pineapple", "garlic", "ginger", "banana", "orange", "lemon", "mushroom"),
    ),
    "in a refrigerated shelf": (("milk", "juice", "yoghurt"),),
    "in a kitchen": (
        ("kitchen",),
        ("pizza", "cabbage", "milk", "cauliflower", "pretzel", "ice cream", "guacamole", "espresso", "pineapple",
         "garlic", "ginger", "banana", "orange", "lemon", "juice", "yoghurt"),
    ),
    "through an open door": (("bedroom", "bathroom", "kitchen"),),
    "in a bedroom": (("bedroom",), ("sewing machine", "teddy bear", "remote control", "cd player")),
    "in a nursery": (("teddy bear",), ("abacus",)),
    "among instruments": (("hourglass", "compass", "stopwatch"),),
    "on an outing": (("binoculars",), ("compass", "stopwatch")),
    "in a laboratory": (("syringe", "beaker", "pill bottle"),),
    "among electronics": (("ipod", "remote control", "cd player"),),
}  # fmt: skip

ANYWHERE: Mapping[str, str] = {
    **dict.fromkeys(("comic book",), "what is drawn on it may be anything"),
    **dict.fromkeys(("person",), "people are in pictures of nearly anything"),
    **dict.fromkeys(
        (
            "dress", "hat", "long sleeve shirt", "jacket", "trousers", "shirt", "shoes", "shorts", "skirt", "t-shirt",
            "sock", "sandal", "sunglasses", "backpack", "umbrella", "apron", "cardigan", "bow tie", "kimono",
            "poncho", "fur coat", "miniskirt", "military uniform", "academic gown", "sombrero", "bikini",
        ),
        "people wear or carry it, and people are in pictures of nearly anything",
    ),
    **dict.fromkeys(
        ("cat", "tabby cat", "persian cat", "egyptian cat", "poodle", "chihuahua", "guinea pig"),
        "pets are in rooms, in cars and in arms",
    ),
    **dict.fromkeys(
        ("pole", "metal chain", "metal nail", "picket fence", "flagpole", "bucket", "barrel"),
        "it stands about in pictures of other things",
    ),
    **dict.fromkeys(
        ("forest", "mountain", "sea", "street", "building", "house", "car", "bus"),
        "it is the background of much that is outdoors",
    ),
}  # fmt: skip

SCENES = frozenset({"glacier", "bedroom", "bathroom", "kitchen", "coral reef", "barbershop"})


@dataclass(frozen=True, slots=True)
class Sense:
    """A class whose name, or whose look, is taken for something else, and what tells it apart.

    Attributes:
        others: what it is taken for; some of it in the vocabulary and some not.
        super_category: what it is a kind of.
        phrase: says it without a second meaning.
    """

    others: tuple[str, ...]
    super_category: str
    phrase: str


SENSES: Mapping[str, Sense] = {
    "basketball": Sense(("rugby ball",), "ball", "the round orange ball of basketball"),
    "bison": Sense(("ox",), "wild cattle", "a shaggy wild bison"),
    "boa constrictor": Sense(("feather boa",), "snake", "a large living snake"),
    "cannon": Sense(("camera",), "weapon", "an old artillery gun"),
    "chimpanzee": Sense(("gorilla", "orangutan"), "ape", "a black ape with large ears"),
    "dam": Sense(("beaver's lodge",), "structure", "a wall that holds back a river"),
    "dugong": Sense(("manatee", "elephant"), "sea mammal", "a sea cow with a forked tail"),
    "gas mask": Sense(("diving mask",), "protective equipment", "a mask against poisonous gas"),
    "gondola": Sense(("cable car",), "boat", "a long rowing boat of Venice"),
    "gorilla": Sense(("chimpanzee",), "ape", "a very large black ape"),
    "lobster": Sense(("scorpion",), "sea animal", "a sea animal with two large claws"),
    "milk": Sense(("white paint",), "drink", "a carton of milk"),
    "orangutan": Sense(("chimpanzee",), "ape", "an ape with long red hair"),
    "ox": Sense(("bison",), "cattle", "a tame working ox"),
    "rugby ball": Sense(("basketball",), "ball", "the oval ball of rugby"),
    "scorpion": Sense(("tarantula", "lobster"), "arachnid", "an arachnid with a sting on its tail"),
    "syringe": Sense(("oboe",), "medical instrument", "a medical syringe with a needle"),
    "tarantula": Sense(("scorpion",), "spider", "a large hairy spider"),
    "train": Sense(("school bus", "bridal train"), "rail vehicle", "a railway train"),
}


@dataclass(frozen=True, slots=True)
class Exclusive:
    """A vocabulary whose classes cannot be in each other's pictures.

    Attributes:
        themes: class -> the company it is put in, in order of preference.
        left_out: class -> why it is not among them.
        senses: class -> what it is taken for, where it is.
    """

    themes: Mapping[str, str]
    left_out: Mapping[str, str] = field(default_factory=dict)
    senses: Mapping[str, Sense] = field(default_factory=dict)


def choose(names: Iterable[str]) -> Exclusive:
    """The judged classes among names that can stand in one vocabulary; whatever the order of the names."""
    present = dict.fromkeys(names)
    theme_of = {name: theme for theme, members in JUDGED.items() for name in members}
    kept: dict[str, str] = {}
    left_out: dict[str, str] = {}
    for name, theme in theme_of.items():
        if name not in present:
            continue
        met = next(((other, where) for other in kept if (where := meet(name, other))), None)
        if met is None:
            kept[name] = theme
        else:
            left_out[name] = f"may be in a picture with {met[0]}, {met[1]}"
    for name in present:
        if name not in theme_of:
            left_out[name] = ANYWHERE.get(
                name, "not judged: it may be a parent of others, or in their pictures"
            )
    return Exclusive(kept, left_out, {name: SENSES[name] for name in kept if name in SENSES})


def meet(first: str, second: str) -> str | None:
    """Where two judged classes may share a picture; None when nowhere."""
    for where, groups in COMPANIES.items():
        ours, theirs = groups[0], groups[-1]
        if (first in ours and second in theirs) or (second in ours and first in theirs):
            return where
    return None


def read_exclusive(path: Path) -> Exclusive:
    """A judgement of one's own: a class a line, and after a tab its theme, if it has one ("all" otherwise).

    Who writes it vouches that none of the classes can be in a picture of another.

    Raises:
        DataError: the file cannot be read, or names no class, fewer than two, or one twice.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path}: {error}") from None
    themes: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        name, _, theme = (part.strip() for part in line.partition("\t"))
        if not name or name.startswith("#"):
            continue
        if normalise(name) in map(normalise, themes):
            raise DataError(f"{path}, line {number}: {name!r} stands there before; keep one")
        themes[name] = theme or "all"
    if len(themes) < 2:
        raise DataError(f"{path} names {len(themes)} classes: expected at least two, one a line")
    return Exclusive(themes)
