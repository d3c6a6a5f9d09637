"""The small closed word classes that a caption's reader needs: numbers, prepositions, places on things, scenes.

Knows words only; refuses to know captions. Everything open-ended is learnt (see ``tagger``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

from taglens.language.tokens import NUMBERS


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Words for how many, where no number can be given.
VAGUE_COUNTS = _words("several many multiple numerous few dozens hundreds")

# Places a picture can show as a whole; the last word of a compound decides ("city street").
SCENES = _words(
    """
    airport aisle alley amphitheater apartment aquarium arena attic auditorium backyard bakery balcony
    ballroom barn basement bathroom bay bayou beach bedroom boardwalk bridge cabin cafe cafeteria
    campground campsite campus canal canyon carnival castle cathedral cave cemetery church circus city
    cityscape classroom cliff closet coast coastline concert corridor corral countryside court courthouse
    courtyard creek crosswalk deck den desert diner dock downtown driveway dune factory fair fairground
    farm farmland field forest garage garden gym gymnasium hall hallway harbor harbour highway hill
    hillside hospital hotel indoors intersection island jungle kitchen lab laboratory lake landscape
    laundromat lawn library lobby lot mall market marketplace marsh meadow monastery mountain mountainside
    mountaintop museum nightclub nursery ocean office orchard outdoors palace parade park parking path
    patio pasture pavilion pier plain playground playroom plaza pond pool porch port prairie pub racetrack
    railroad ranch rapids ravine reservoir resort restaurant rink river riverbank road roadside room
    rooftop ruins runway savanna savannah school sea seashore seaside shop shore shoreline sidewalk
    skatepark skyline slope snowfield square stable stadium stage station store stream street studio
    suburb subway supermarket swamp temple terminal theater theatre town track trail tundra tunnel
    underwater valley veranda village vineyard warehouse waterfall waterfront wetland wilderness woodland
    woods workshop yard zoo
    """
)

# Never an object, whatever stands around them.
NO_OBJECTS = _words(
    """
    other others another each one ones something anything nothing everything it its their his her hers i
    me my mine we us our you your yours this that these those which what where here there itself himself
    herself themselves myself yourself same way various both is are was were be been being am has have had
    do does did not n't 's 'm 're 've 'll 'd and or but the a an of to as with
    """
)
NO_ATTRIBUTES = _words(
    """
    a an the and or of other another each own same is are in on at with very group piece part slice pair
    's next such various some any all both every no
    """
)
# One quality, spelled in several ways: as captions have it, and as most of them, graphs and vocabularies do.
SPELLED = {
    "wood": "wooden",
    "blond": "blonde",
    "rusted": "rusty",
    "middle aged": "middle-aged",
    "multicolor": "multi-colored",
    "multicolored": "multi-colored",
    "multicoloured": "multi-colored",
    "multi-color": "multi-colored",
    "multi-coloured": "multi-colored",
    "multi color": "multi-colored",
    "multi colored": "multi-colored",
    "multi coloured": "multi-colored",
}
NO_ACTIONS = frozenset(("be", "have", "do", "can", "will", "may", "there", "it"))

# What is done, not what one does: a graph makes "doing a trick" a verb.
DONE = _words("trick tricks stunt stunts")

# In -ing and yet no participles.
NO_PARTICIPLES = _words(
    """
    during including following morning evening something nothing anything everything thing king ring string
    wing spring ceiling building clothing railing wedding sing bring according being having
    """
)

# Parts and places of things. A graph may write them into its predicates; none is an action.
PLACES = _words(
    """
    top front back side sides middle center centre edge end bottom rear left right inside outside corner
    opposite indoors outdoors background foreground both either far away part face rim
    """
)

# -- what a word does between the labelled ones ------------------------------------------------------------
NOTHING, JOINS, PASSES, LEADS, OF, PREPOSITION, BREAKS, WHO, IS, HAS, SILENT, POSSESSES = range(12)

_ROLES: tuple[tuple[int, str], ...] = (
    (JOINS, "and or , & / -"),
    # Stands between a verb or preposition and its noun, and ends a row of adjectives.
    (
        PASSES,
        """
        a an the this that these those his her their its my your our some another each every no both all
        group groups couple pair pairs lot lots bunch bunches number set sets piece pieces slice slices kind
        type variety row rows line lines crowd part parts being been
        """,
    ),
    # Stands before or between adjectives.
    (LEADS, "very so too quite really rather more most"),
    (OF, "of"),
    (
        PREPOSITION,
        """
        on in at by with to from over under near behind beside above below for up down along around inside
        outside through thru across into onto off out against between next within beneath atop toward towards
        past about among amongst underneath alongside upon like top front back side middle left right
        without amid
        """,
    ),
    (BREAKS, "while as because where when . ; : but then after before until"),
    (WHO, "who which"),
    (IS, "is are was were be am 're"),
    (HAS, "has have having"),
    (SILENT, "other others it them him himself herself itself themselves ones something"),
    (POSSESSES, "'s '"),
)
_BY_WORD: Mapping[str, int] = MappingProxyType(
    {word: role for role, words in _ROLES for word in words.split()}
)


def role(word: str) -> int:
    """What a word does that is no object, attribute or action."""
    found = _BY_WORD.get(word, NOTHING)
    return LEADS if found == NOTHING and word.endswith("ly") else found


_THOUSANDS = re.compile(r"[0-9]{1,3}(?:,[0-9]{3}){1,2}")


def number(word: str) -> int | str | None:
    """The count that a word states: a number ("1,000" too), "several" and the like as text, else None.

    More digits than a count ever has stay text; so do digits of other scripts that ``int`` refuses.
    """
    if (known := NUMBERS.get(word)) is not None:
        return known
    if word in VAGUE_COUNTS:
        return word
    if _THOUSANDS.fullmatch(word):
        return int(word.replace(",", ""))
    if word.isdigit():
        return int(word) if word.isdecimal() and len(word) <= 9 else word
    return None
