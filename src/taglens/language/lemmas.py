"""Dictionary forms of English words: nouns to the singular, verbs to the base form.

Knows irregular forms, nouns that have no singular in everyday use, and spelling rules.
Refuses to know context: whether "leaves" is a noun or a verb is the caller's decision.
Both functions are total: any string goes in, a string comes out, in time linear in its length.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

_VOWELS = frozenset("aeiou")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


def _pairs(text: str) -> dict[str, str]:
    """ "a:b c:d" as a mapping."""
    return dict(pair.split(":", 1) for pair in text.split())


# Plural -> singular where no spelling rule helps.
_IRREGULAR_NOUNS: Mapping[str, str] = _pairs(
    """
    men:man women:woman people:person children:child feet:foot teeth:tooth geese:goose mice:mouse
    leaves:leaf loaves:loaf knives:knife wives:wife lives:life halves:half calves:calf shelves:shelf
    scarves:scarf hooves:hoof elves:elf wolves:wolf thieves:thief wharves:wharf oxen:ox dice:die
    cacti:cactus fungi:fungus octopi:octopus bacteria:bacterium pies:pie ties:tie lies:lie dies:die
    zombies:zombie cookies:cookie brownies:brownie hoodies:hoodie movies:movie selfies:selfie
    collies:collie smoothies:smoothie birdies:birdie genies:genie prairies:prairie calories:calorie
    veggies:veggie budgies:budgie rookies:rookie yuppies:yuppie hippies:hippie onesies:onesie
    foodies:foodie groupies:groupie newbies:newbie pixies:pixie eyries:eyrie
    walkie-talkies:walkie-talkie shoes:shoe canoes:canoe toes:toe hoes:hoe horseshoes:horseshoe
    tiptoes:tiptoe snowshoes:snowshoe axes:axe caches:cache moustaches:moustache mustaches:mustache
    headaches:headache niches:niche buses:bus busses:bus gases:gas quizzes:quiz lenses:lens
    viruses:virus campuses:campus cactuses:cactus octopuses:octopus walruses:walrus
    hippopotamuses:hippopotamus minibuses:minibus atlases:atlas irises:iris choruses:chorus
    crocuses:crocus canvases:canvas trellises:trellis pancreases:pancreas menus:menu gurus:guru emus:emu
    thesauruses:thesaurus platypuses:platypus circuses:circus tutus:tutu gnus:gnu flus:flu skis:ski
    taxis:taxi kiwis:kiwi zucchinis:zucchini bikinis:bikini khakis:khakis pastries:pastry safaris:safari
    saris:sari teepees:teepee martinis:martini alibis:alibi rickshaws:rickshaw mosques:mosque
    statues:statue bandanas:bandana bananas:banana passersby:passerby bystanders:bystander
    runners-up:runner-up attorneys-at-law:attorney-at-law kayaks:kayak waves:wave caves:cave
    gloves:glove stoves:stove sleeves:sleeve olives:olive curves:curve slaves:slave graves:grave
    valves:valve nerves:nerve chives:chive doves:dove groves:grove beehives:beehive archives:archive
    """
)

# Words that look plural and are their own dictionary form.
_KEEPS_S = _words(
    """
    glasses sunglasses eyeglasses goggles binoculars jeans pants shorts trousers scissors clothes tights
    leggings overalls pajamas pyjamas sweatpants underpants khakis slacks capris corduroys dungarees
    coveralls scrubs briefs boxers panties knickers tongs pliers shears tweezers headphones earphones
    bleachers stairs bus gas lens cactus canvas grass glass dress cross class brass moss bass chess boss
    mess pass press kiss loss focus octopus virus campus circus walrus iris tennis oasis basis crisis
    christmas texas paris analysis pelvis trellis species series news headquarters mathematics physics
    gymnastics athletics hummus asparagus citrus cosmos chaos bonus genius lotus eucalyptus hibiscus
    hippopotamus platypus rhinoceros minibus atlas pancreas mess ibis tennis lacrosse swiss molasses
    always perhaps yes this his its us was has is as thus plus across towards upwards downwards
    backwards indoors outdoors outskirts surroundings groceries electronics graphics barracks crossroads
    billiards darts dominoes checkers cards mars dallas vegas st. jesus thanks suds
    """
) - frozenset(["cards", "dominoes"])

# Inflected -> base, for verbs whose past tense or participle no rule reaches, and for traps.
_IRREGULAR_VERBS: Mapping[str, str] = {
    form: base
    for base, forms in _pairs(
        """
    be:am,is,are,was,were,been,being,'s,'re,'m
    have:has,had,having,'ve
    do:does,did,done,doing
    go:goes,went,gone,going
    lie:lying,lies,lied,lain
    lay:laid,laying,lays
    tie:tying,tied,ties
    die:dying,died,dies
    sit:sat,sitting
    stand:stood
    run:ran
    ride:rode,ridden
    hold:held
    wear:wore,worn
    eat:ate,eaten
    drink:drank,drunk
    throw:threw,thrown
    catch:caught
    take:took,taken
    make:made
    give:gave,given
    get:got,gotten
    come:came
    become:became
    see:saw,seen,sees,seeing
    look:looked
    fly:flew,flown,flies
    swim:swam,swum
    drive:drove,driven
    write:wrote,written
    speak:spoke,spoken
    hang:hung
    lead:led
    feed:fed
    leave:left,leaves,leaving
    keep:kept
    sleep:slept
    sweep:swept
    leap:leapt
    kneel:knelt
    fall:fell,fallen
    fight:fought
    bite:bit,bitten
    build:built
    bend:bent
    blow:blew,blown
    break:broke,broken
    bring:brought
    buy:bought
    choose:chose,chosen
    dig:dug
    draw:drew,drawn
    find:found
    grow:grew,grown
    hide:hid,hidden
    lose:lost
    meet:met
    pay:paid
    rise:rose,risen
    say:said
    sell:sold
    send:sent
    shake:shook,shaken
    shine:shone
    shoot:shot
    show:shown
    sing:sang,sung
    sink:sank,sunk
    slide:slid
    spin:spun
    spring:sprang,sprung
    steal:stole,stolen
    stick:stuck
    strike:struck,stricken
    swing:swung
    teach:taught
    tear:tore,torn
    tell:told
    think:thought
    wake:woke,woken
    wind:wound
    win:won
    weave:wove,woven
    freeze:froze,frozen
    light:lit
    begin:began,begun
    cling:clung
    fling:flung
    sling:slung
    string:strung
    creep:crept
    know:knew,known
    shrink:shrank,shrunk
    bear:bore,borne
    bury:burried,burring
    picnic:picnicking,picnicked
    mimic:mimicking,mimicked
    panic:panicking,panicked
    dye:dyeing,dyed,dyes
    ski:skiing,skied,skis,skiis
    taxi:taxiing,taxied
    use:using,used
    singe:singeing,singed
    """
    ).items()
    for form in forms.split(",")
}

# Base forms in -e whose bare stem a spelling rule would leave, and base forms it would wrongly lengthen.
_ENDS_IN_E = _words(
    """
    have give live leave love serve carve curve move prove remove drive dive wave save shave pave carve
    arrive receive weave grieve achieve believe observe solve dissolve hike bike ride slide glide hide
    guide decide divide collide parade trade shade fade wade invade persuade evade bake make take shake
    wake rake snake smoke poke joke stroke choke evoke smile file pile tile compile sample handle paddle
    saddle straddle cuddle huddle juggle snuggle cradle ladle idle fiddle meddle peddle ride tackle
    tickle buckle sprinkle wrinkle sparkle twinkle tangle dangle mingle single hustle wrestle whistle
    nestle bustle rustle jostle scribble nibble gobble hobble bubble tumble stumble crumble assemble
    gamble ramble scramble double trouble ripple topple couple struggle wiggle giggle snuggle nuzzle
    puzzle sizzle drizzle guzzle dazzle settle rattle battle bottle throttle title whittle hurdle battle
    circle cycle bicycle motorcycle recycle tricycle skate rollerskate ice-skate decorate celebrate
    create navigate imitate rotate separate operate demonstrate concentrate contemplate illuminate
    meditate estimate gate plate date state update hesitate inflate write bite invite unite ignite
    recite excite taste paste waste baste compete complete delete promote vote note quote dote cute
    execute salute pollute dispute commute substitute race face place lace trace chase dance glance
    prance advance balance embrace replace slice ice juice splice entice notice practice produce
    introduce reduce force pierce surface bounce pounce announce fence sense rinse tense cruise raise
    praise please tease lease release crease increase decrease close pose expose compose oppose dispose
    propose dose nose rose doze gaze graze glaze blaze laze haze freeze squeeze sneeze breeze seize size
    prize recognize organize exercise advertise rise arise browse house use fuse amuse confuse refuse
    excuse accuse cause pause nurse reverse converse curse disperse immerse purchase promise dine line
    mine shine wine combine define recline decline incline examine imagine tune prune phone zone frame
    game name tame blame flame time come become welcome overcome dome home chime mime assume consume
    resume perfume costume wipe pipe gripe type swipe stripe tape drape scrape shape escape scope cope
    hope rope slope grope elope share stare glare prepare compare care scare spare bare dare flare
    declare fire hire tire wire admire retire inspire require acquire explore ignore store score restore
    snore adore bore core pore cure secure capture picture feature measure treasure lecture gesture
    torture venture figure injure pasture texture ensure assure pressure stage page rage engage manage
    package massage damage encourage change charge range arrange exchange lounge plunge lunge sponge
    hinge merge emerge submerge splurge surge urge judge nudge trudge dodge fudge bridge wedge hedge
    edge age cage wage forage continue argue value rescue pursue queue tongue plague league issue glue
    sue bathe breathe clothe soothe dine peruse erase tease phrase gauge cringe fringe lodge graduate
    congratulate puree line outline underline airbrake brake perforate congregate regulate simulate
    stimulate translate relate locate dedicate educate indicate duplicate communicate vacate participate
    anticipate dominate nominate terminate hydrate vibrate
    """
)
_NO_E = _words(
    """
    visit edit exit limit enter offer gather wander shower lather shelter water hover cover color colour
    honor labor anchor monitor motor tailor tutor power tower lower flower answer center filter linger
    litter whisper suffer bother lather batter better butter flutter clutter scatter shatter chatter
    glitter splatter deliver discover recover uncover order border wonder ponder render surrender
    consider remember number lumber timber slumber hammer stammer hamper pamper temper paper copper
    pepper upper slipper open happen sharpen listen fasten glisten moisten tighten straighten frighten
    lighten soften loosen widen garden harden darken awaken weaken broken strengthen burden kitchen
    pattern learn turn burn return earn yawn dawn spawn ruin train rain drain strain stain sprain gain
    obtain contain entertain maintain remain explain complain ribbon button cotton carton season reason
    poison person reckon beckon iron pardon prison travel marvel shovel level model panel channel tunnel
    funnel fuel duel pencil travel label cancel parcel tassel hassel peel feel heel wheel kneel steel
    reel appear clear fear hear near rear tear wear bear swear roar soar board float boat coat load road
    soak croak cloak shout spout sprout pout scout doubt eat beat heat seat treat cheat meat repeat
    defeat lead read head spread thread plead bead knead clean lean mean bean wean gleam stream dream
    cream scream steam team seem loom bloom zoom groom boom look cook hook book crook spook rook shook
    hood wood brood food moon spoon swoon loop scoop snoop stoop troop hoop swoop droop shoot hoot root
    loot toot scoot boot foot tool cool fool pool stool school pour tour sour devour detour scour hurt
    start part dart cart smart alert assert exert insert convert develop gallop wallop gossip worship
    envelop trap scallop bishop focus bus canvas bias harvest interest visit profit benefit orbit
    exhibit inhibit prohibit deposit market rocket pocket jacket ticket target budget blanket basket
    carpet trumpet comfort ballet bracket closet picket racket rivet velvet vomit audit credit merit
    inherit spirit transit pilot pivot parrot carrot ballot riot idiot rot straight await wait bait
    trail sail mail nail hail tail rail fail bail fool
    """
)


def singular(word: str) -> str:
    """The singular of a lower-case noun; words already singular, or never singular, come back unchanged.

    A compound's head is its last part: "t-shirts" -> "t-shirt", "mountain-bikes" -> "mountain-bike".
    """
    if not word.endswith("s"):
        if (irregular := _IRREGULAR_NOUNS.get(word)) is not None:
            return irregular
        for ending, single in (("men", "man"), ("people", "person"), ("children", "child")):
            # fishermen, snowmen, salespeople, grandchildren; but not "specimen" or "regimen".
            if word.endswith(ending) and len(word) > len(ending) + 2 and not word.endswith("imen"):
                return word[: -len(ending)] + single
        return word
    if word in _KEEPS_S:
        return word
    if (irregular := _IRREGULAR_NOUNS.get(word)) is not None:
        return irregular
    if "-" in word:
        start, _, last = word.rpartition("-")
        return f"{start}-{singular(last)}" if last and start else word
    if len(word) < 4 or word.endswith(("ss", "us", "is", "'s")):
        return word
    if word.endswith("ies"):
        return word[:-3] + "y" if len(word) > 4 else word[:-1]
    if word.endswith(("ches", "shes", "sses", "xes", "zzes")):
        return word[:-2]
    if word.endswith("oes"):
        return word[:-2]
    return word[:-1]


def verb_lemma(word: str, known: Collection[str] = ()) -> str:
    """The base form of a lower-case verb: "riding" -> "ride", "lying" -> "lie", "ran" -> "run".

    Args:
        word: one verb form; a base form comes back unchanged.
        known: base forms met elsewhere; where spelling alone leaves a choice, a known one is taken.
    """
    if (irregular := _IRREGULAR_VERBS.get(word)) is not None:
        return irregular
    if "-" in word:
        start, _, last = word.rpartition("-")
        if start and last:
            return f"{start}-{verb_lemma(last, known)}"
    if word in _ENDS_IN_E or word in _NO_E or word in known:
        return word
    if word.endswith("ing") and len(word) > 4 and any(c in "aeiouy" for c in word[:-3]):
        return _from_stem(word[:-3], known)
    if word.endswith("ied") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith("ed") and len(word) > 3 and not word.endswith("eed"):
        return _from_stem(word[:-2], known)
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("ches", "shes", "sses", "xes", "zzes", "oes")):
        return word[:-2]
    if word.endswith("s") and len(word) > 3 and not word.endswith(("ss", "us", "is", "'s")):
        return word[:-1]
    return word


def irregular_plurals(noun: str) -> tuple[str, ...]:
    """The plurals of a lower-case noun that no spelling rule gives; most nouns have none."""
    return tuple(form for form, single in _IRREGULAR_NOUNS.items() if single == noun)


def irregular_verb_forms(base: str) -> tuple[str, ...]:
    """What else a verb's forms may be, common misspellings among them: "run" -> "ran"; most verbs have none."""
    return tuple(form for form, verb in _IRREGULAR_VERBS.items() if verb == base)


def is_base_form(word: str) -> bool:
    """Whether a lower-case word is listed here as a verb's base form; many verbs are not."""
    return word in _ENDS_IN_E or word in _NO_E or word in _IRREGULAR_VERBS.values()


def third_person(base: str) -> str:
    """ "carry" -> "carries", "watch" -> "watches", "ride" -> "rides"."""
    if base.endswith(("s", "x", "z", "ch", "sh")) or base in ("go", "do"):
        return base + "es"
    if base.endswith("y") and base[-2:-1] not in _VOWELS:
        return base[:-1] + "ies"
    return {"have": "has", "be": "is"}.get(base, base + "s")


def _from_stem(stem: str, known: Collection[str]) -> str:
    """The base form whose -ing or -ed form has this stem ("rid" -> "ride", "runn" -> "run")."""
    if not stem:
        return stem
    doubled = len(stem) > 2 and stem[-1] == stem[-2] and stem[-1] not in "aeiouhwxy"
    if doubled:
        single = stem[:-1]
        if stem in known:
            return stem
        if single in known or stem[-1] not in "lsfz":
            return single
        # "travelling" loses its second l, "rolling" keeps it: more than one vowel group tells.
        return single if stem[-1] == "l" and _syllables(single) > 1 and single[-2] == "e" else stem
    longer = stem + "e"
    for table in (known, _ENDS_IN_E):
        if longer in table:
            return longer
    if stem in known or stem in _NO_E:
        return stem
    if stem[-1] in "vuzc" and not stem.endswith(("tz", "zz")):
        return longer
    if len(stem) > 2 and stem[-1] == "g" and stem[-2] in "dr":
        return longer
    if len(stem) > 2 and stem[-1] == "l" and stem[-2] in "bcdfgkpstz":
        return longer
    if len(stem) > 2 and stem[-1] == "s" and stem[-2] in "aeiounr":
        return longer
    if len(stem) > 3 and stem.endswith(("at", "ur")) and stem[-3] not in _VOWELS and _syllables(stem) > 1:
        return longer
    single_vowel = len(stem) > 1 and stem[-1] not in "aeiouwxyh" and stem[-2] in "aeiou"
    if single_vowel and _syllables(stem) == 1 and (len(stem) < 3 or stem[-3] not in _VOWELS):
        return longer
    return stem


def _syllables(word: str) -> int:
    """Runs of vowel letters, which is near enough to syllables for spelling rules."""
    runs, before = 0, False
    for letter in word:
        vowel = letter in "aeiouy"
        runs += vowel and not before
        before = vowel
    return runs
