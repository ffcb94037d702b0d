"""The words of the built-in language: synonym sets, antonyms, categories and inflected forms.

Notation of the tables: a space separates synonym sets and `/` the members of one; `:` separates the
irregular forms of a word (noun: plural; verb: past and participle); `|` separates a set from its
antonym.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

NOUNS = {  # category -> words; a category that is itself a noun is the hypernym of its members
    "man": "boy/lad king/monarch:monarchs prince uncle grandfather nephew monk waiter policeman:policemen "
    "sailor/seaman:seamen",
    "woman": "girl/lass queen princess aunt grandmother niece nun waitress actress widow",
    "worker": "doctor/physician teacher/instructor lawyer/attorney farmer/grower writer/author singer/vocalist "
    "cook/chef "
    "student/pupil guard/watchman:watchmen soldier/trooper painter/artist driver/chauffeur judge/magistrate nurse "
    "baker "
    "butcher tailor/dressmaker plumber carpenter/joiner gardener pilot/aviator engineer clerk scientist/researcher "
    "dentist "
    "barber/hairdresser librarian journalist/reporter hunter thief:thieves/burglar merchant/trader banker "
    "tourist/traveller "
    "dancer drummer poet mayor priest neighbour stranger beggar shepherd miner detective/investigator",
    "animal": "dog/hound cat rabbit/hare horse/stallion cow goat sheep:sheep pig/hog donkey/mule fox:foxes "
    "wolf:wolves bear "
    "lion tiger monkey/ape elephant camel deer:deer mouse:mice rat squirrel frog/toad turtle/tortoise snake/serpent",
    "bird": "eagle/hawk owl crow/raven pigeon/dove sparrow duck goose:geese hen/chicken parrot swan peacock gull",
    "fruit": "apple pear plum peach:peaches cherry grape lemon orange banana melon fig apricot",
    "vegetable": "carrot potato:potatoes tomato:tomatoes onion cabbage turnip radish:radishes cucumber pumpkin leek",
    "vehicle": "car/automobile truck/lorry bicycle/bike ship/vessel boat train tram bus:buses/coach:coaches "
    "plane/aircraft:aircraft "
    "cart/wagon sledge motorcycle",
    "tool": "hammer/mallet saw axe:axes/hatchet knife:knives/blade shovel/spade ladder drill rake "
    "wrench:wrenches/spanner "
    "scythe/sickle needle broom",
    "garment": "coat/overcoat hat/cap shirt/blouse dress:dresses/gown scarf:scarves/shawl glove/mitten "
    "sweater/pullover "
    "jacket skirt belt sock cloak",
    "instrument": "guitar violin/fiddle piano flute trumpet/horn drum harp cello organ banjo",
    "weapon": "sword spear/lance rifle/gun dagger bow cannon pistol/revolver arrow",
    "toy": "doll/puppet ball kite marble balloon whistle puzzle",
    "flower": "rose tulip lily daisy orchid violet poppy sunflower",
    "container": "box:boxes/crate basket/hamper bottle/flask bag/sack cup/mug jar/pot barrel/cask bucket/pail vase "
    "suitcase/trunk",
    "document": "letter/note map/chart newspaper poem/verse diary/journal contract/agreement report/account ticket "
    "recipe "
    "photograph/picture postcard certificate",
    "machine": "computer/laptop telephone/phone clock/watch:watches radio camera television printer oven/stove "
    "lamp/lantern "
    "engine/motor mirror fan",
    "furniture": "table/desk chair/seat bed/bunk sofa/couch shelf:shelves/bookcase cupboard/cabinet bench:benches/pew "
    "carpet/rug curtain/drape door/gate window",
    "jewel": "ring/band necklace/pendant crown/tiara coin medal/award bracelet/bangle brooch:brooches",
    "dish": "soup/broth cake/pie sandwich:sandwiches salad sausage pancake omelette biscuit/cookie stew pudding",
}
HYPERNYMS = {  # the noun that names a category, with its synonyms
    "man": "man:men/gentleman:gentlemen",
    "woman": "woman:women/lady",
    "worker": "person:people/individual",
    "animal": "animal/beast",
    "bird": "bird",
    "fruit": "fruit:fruits",
    "vegetable": "vegetable",
    "vehicle": "vehicle",
    "tool": "tool/implement",
    "garment": "garment",
    "instrument": "instrument",
    "weapon": "weapon",
    "toy": "toy/plaything",
    "flower": "flower/blossom",
    "container": "container",
    "document": "document/paper",
    "machine": "machine/device",
    "furniture": "object",
    "jewel": "treasure/jewel",
    "dish": "dish:dishes/snack",
}
CLASSES = {  # what verbs and adjectives select -> categories
    "person": "man woman worker",
    "creature": "animal bird",
    "being": "man woman worker animal bird",
    "food": "fruit vegetable dish",
    "fixable": "vehicle tool instrument machine furniture toy",
    "ware": "garment instrument weapon toy flower document jewel container machine furniture tool fruit vegetable vehicle",
    "carried": "garment instrument weapon toy document jewel container tool flower fruit",
    "openable": "container furniture document",
    "plant": "flower fruit vegetable",
    "garment": "garment jewel",
    "instrument": "instrument",
    "document": "document",
    "vehicle": "vehicle",
    "dish": "dish",
    "weapon": "weapon",
}
TRANSITIVE = {  # "subject class > object class" -> pairs of antonyms `set|set` and single sets; they need their object
    "person > person": "praise/commend|blame/scold hire/employ|dismiss/fire welcome/greet|ignore "
    "trust|suspect/doubt invite|exclude "
    "defend/protect|attack/assault encourage|discourage forgive:forgave:forgiven/pardon|punish marry|divorce "
    "help/assist|hinder obey|defy "
    "thank congratulate visit interview arrest/detain|release/free remember/recall|forget:forgot:forgotten "
    "comfort/console|frighten/scare convince/persuade follow/pursue|lead:led:led/guide envy/resent|admire/respect",
    "being > being": "chase/hunt|avoid/escape love/adore|hate/detest like|dislike see:saw:seen/notice|overlook "
    "hear:heard:heard "
    "fear/dread surprise/astonish disturb/bother|calm/soothe watch/observe bite:bit:bitten",
    "person > creature": "feed:fed:fed/nourish|starve tame/train stroke/pat|beat:beat:beaten groom/brush cage|rescue/save",
    "person > ware": "buy:bought:bought/purchase|sell:sold:sold find:found:found/discover|lose:lost:lost/misplace "
    "borrow|lend:lent:lent hide:hid:hidden/conceal|reveal/display steal:stole:stolen/pinch|return/restore "
    "accept|refuse/reject collect/gather|discard/scatter need/require wrap|unwrap weigh want/desire",
    "person > carried": "lift/raise|drop/lower carry/transport fetch/bring:brought:brought|remove "
    "catch:caught:caught/grab|throw:threw:thrown/toss "
    "hold:held:held/grip push|pull/drag",
    "person > fixable": "repair/mend|break:broke:broken/damage clean/wash|soil/stain "
    "build:built:built/construct|destroy/demolish "
    "assemble|dismantle paint/decorate inspect/examine move/shift design/invent",
    "person > openable": "open|close/shut:shut:shut lock|unlock fill|empty/drain",
    "person > plant": "plant/sow|harvest/pick water grow:grew:grown/cultivate",
    "person > food": "taste/sample prepare/make:made:made devour/eat:ate:eaten",
    "person > garment": "wear:wore:worn fold|unfold sew:sewed:sewn/stitch|tear:tore:torn/rip",
    "person > instrument": "tune/adjust practise master",
    "person > document": "read:read:read write:wrote:written/compose copy/duplicate sign translate publish/print|burn/erase",
    "person > vehicle": "drive:drove:driven/steer park|crash stop/halt|start",
    "person > dish": "cook/bake serve|order",
    "person > weapon": "sharpen/polish aim wield",
}
INTRANSITIVE = {  # subject class -> sets; they take no object
    "being": "sleep:slept:slept/doze|wake:woke:woken arrive/come:came:come|depart/leave:left:left "
    "rise:rose:risen|fall:fell:fallen/collapse "
    "appear/emerge|vanish/disappear run:ran:run/sprint|crawl survive/live|die/perish tremble/shiver "
    "wait/linger|hurry/rush swim:swam:swum",
    "person": "laugh/giggle|weep:wept:wept/cry succeed/triumph|fail shout/scream|whisper/mumble smile/grin|frown "
    "work/toil|rest/relax "
    "dance sing:sang:sung pray travel/journey retire hesitate/pause|proceed apologise yawn agree|disagree",
}
ADJECTIVES = {  # class -> pairs of antonyms and single sets, without a verdict
    "person": "happy/glad/cheerful|sad/unhappy/gloomy rich/wealthy|poor/needy brave/courageous|timid/cowardly "
    "clever/smart/intelligent|stupid/foolish kind/gentle|cruel/nasty polite/courteous|rude/impolite "
    "young/youthful|old/elderly "
    "tall|short thin/slim/slender|fat/stout relaxed|nervous/anxious honest/truthful|dishonest/deceitful "
    "famous/renowned|unknown/obscure "
    "busy/active|idle/lazy healthy/fit|ill/sick generous|greedy/stingy proud|humble/modest",
    "creature": "wild/untamed|tame/domestic fast/quick/speedy|slow/sluggish hungry/starving|fed "
    "strong/powerful|weak/feeble "
    "big/large/huge|small/little/tiny dangerous|harmless tired/weary|lively/energetic white black brown grey",
    "thing": "big/large/huge|small/little/tiny heavy|light new/modern|ancient/antique clean/spotless|dirty/filthy "
    "wet/damp|dry "
    "expensive/costly|cheap/inexpensive round|square long|brief whole/intact|broken/shattered "
    "rare/scarce|common/ordinary "
    "bright/shiny|dark/dim rough/coarse|smooth/even thick|flimsy useful/handy|useless "
    "real/genuine|false/counterfeit red blue green "
    "yellow purple golden wooden foreign",
}
MANNER = (
    "quickly/rapidly/swiftly|slowly/gradually carefully/cautiously|carelessly/recklessly "
    "quietly/silently|loudly/noisily "
    "happily/gladly|sadly/glumly openly/publicly|secretly/privately eagerly/willingly|reluctantly/grudgingly "
    "deliberately/intentionally|accidentally calmly|angrily/furiously suddenly/abruptly often/frequently|rarely/seldom"
)
PLACES = (
    "garden/yard kitchen market/bazaar village/hamlet forest/wood city/town river/stream castle/fortress "
    "church/chapel school "
    "hospital/clinic library station harbour/port museum/gallery prison/jail theatre hotel/inn farm bridge "
    "mountain/hill valley "
    "island beach/shore desert street/road square cellar/basement attic tower office factory/plant palace "
    "restaurant/cafe tunnel "
    "stable/barn lake/pond field/meadow"
)
TIMES = (
    "in the morning/at dawn|in the evening/at dusk; at noon/at midday|at midnight; on monday; on tuesday; on "
    "friday; on sunday; "
    "in spring; in summer|in winter; before the storm|after the storm; during the war; last week; last year; every "
    "day/daily"
)
DOUBLED = {
    "pat",
    "stop",
    "grip",
    "drop",
    "grab",
    "rip",
    "wrap",
    "unwrap",
    "drag",
    "travel",
    "grin",
}  # stopped
POSITIVE = (  # synonym sets of praise; NEGATIVE holds the opposite of each at the same place
    "good/great/fine excellent/superb/outstanding/magnificent wonderful/marvellous/splendid/terrific/fantastic "
    "interesting/fascinating/intriguing/absorbing exciting/gripping/thrilling/riveting "
    "charming/delightful/enchanting/lovely "
    "funny/hilarious/witty/amusing brilliant/masterful/skilful/accomplished moving/touching/heartfelt/poignant "
    "original/inventive/creative/imaginative memorable/unforgettable/remarkable beautiful/gorgeous/stunning/elegant "
    "convincing/believable/credible/authentic refreshing/uplifting/inspiring/invigorating"
)
NEGATIVE = (
    "bad/lousy/inferior awful/terrible/dreadful/abysmal horrible/appalling/atrocious/dismal/ghastly "
    "boring/dull/tedious/monotonous slow-paced/plodding/lifeless/sleepy unpleasant/irritating/annoying/obnoxious "
    "humourless/lame/silly/unfunny clumsy/amateurish/sloppy/inept shallow/hollow/soulless/cold-hearted "
    "stale/predictable/trite/derivative forgettable/mediocre/bland ugly/hideous/tasteless/garish "
    "implausible/absurd/ridiculous/phoney depressing/tiresome/exhausting/dreary"
)
LIKES = "loved/adored enjoyed/relished liked/appreciated admired/treasured recommended/praised applauded/celebrated"
DISLIKES = "hated/detested loathed/despised disliked/resented regretted/deplored criticised/condemned mocked/ridiculed"
PLEASED = "delighted/charmed impressed/amazed moved/touched thrilled/excited satisfied/pleased amused/entertained"
ANNOYED = "disappointed/dismayed bored/wearied annoyed/irritated disgusted/repelled offended/insulted exhausted/drained"
WORKS = {  # what reviews are about -> its parts
    "film/movie": "plot/storyline acting music/soundtrack ending/finale dialogue script/screenplay humour cast "
    "photography opening",
    "book/novel": "plot/storyline ending/finale dialogue prose/writing humour opening style characterisation",
    "play/drama": "plot/storyline acting music/soundtrack ending/finale dialogue costume/wardrobe staging cast",
    "show/series": "plot/storyline acting humour dialogue cast opening pace",
    "album/record": "music/soundtrack singing/voice rhythm/beat style opening production",
    "concert/recital": "music/soundtrack singing/voice rhythm/beat lighting opening sound",
    "exhibition/display": "lighting style photography catalogue layout",
    "game/pastime": "plot/storyline music/soundtrack pace layout sound photography",
}


@dataclass(frozen=True, eq=False)  # two sets are equal only if they are one object
class Synset:
    """Words of one meaning. Each word is a tuple of forms: noun (singular, plural), verb (base, past, participle)."""

    words: tuple[tuple[str, ...], ...]
    category: str  # nouns: the category; others: the class they select
    object_class: str = ""  # transitive verbs: the class of their objects; others: empty
    antonym: list[Synset] = field(default_factory=list, repr=False)  # none or one


def plural(noun: str) -> str:
    if noun.endswith("y") and noun[-2] not in "aeou":
        return noun[:-1] + "ies"
    return noun + ("es" if noun.endswith(("s", "x", "ch", "sh")) else "s")


def past(verb: str) -> str:
    if verb.endswith("e"):
        return verb + "d"
    if verb.endswith("y") and verb[-2] not in "aeo":
        return verb[:-1] + "ied"
    return verb + (verb[-1] if verb in DOUBLED else "") + "ed"


def _noun(word: str) -> tuple[str, ...]:
    singular, *rest = word.split(":")
    return singular, rest[0] if rest else plural(singular)


def _verb(word: str) -> tuple[str, ...]:
    base, *rest = word.split(":")
    return base, *(rest or (past(base), past(base)))


def _plain(word: str) -> tuple[str, ...]:
    return (word,)


def synsets(
    table: str,
    forms: Callable[[str], tuple[str, ...]] = _plain,
    category: str = "",
    object_class: str = "",
    sep: str | None = None,
) -> list[Synset]:
    """Parse one string of the notation above; antonyms are linked both ways.

    Args:
        table: The string.
        forms: Turns a word of the table into its forms.
        category: The category of the sets.
        object_class: The class of the objects of transitive verbs.
        sep: What separates sets, as in str.split.
    """
    found = []
    for entry in table.split(sep):
        pair = [
            Synset(tuple(forms(word) for word in words.strip().split("/")), category, object_class)
            for words in entry.split("|")
        ]
        for one, other in zip(pair, reversed(pair), strict=True):
            if one is not other:
                one.antonym.append(other)
        found += pair
    return found


NOUN_SETS = {category: synsets(table, _noun, category) for category, table in NOUNS.items()}
HYPERNYM_SETS = {
    category: synsets(table, _noun, category)[0] for category, table in HYPERNYMS.items()
}
CLASS_CATEGORIES = {name: tuple(categories.split()) for name, categories in CLASSES.items()}
TRANSITIVE_SETS = [
    verb
    for classes, table in TRANSITIVE.items()
    for verb in synsets(table, _verb, classes.split(" > ")[0], classes.split(" > ")[1])
]
INTRANSITIVE_SETS = [
    verb for subject, table in INTRANSITIVE.items() for verb in synsets(table, _verb, subject)
]
ADJECTIVE_SETS = {
    noun_class: synsets(table, category=noun_class) for noun_class, table in ADJECTIVES.items()
}
MANNER_SETS = synsets(MANNER)
PLACE_SETS = synsets(PLACES)
TIME_SETS = synsets(TIMES, sep="; ")
