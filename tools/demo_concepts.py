"""Names of the emoji that the demo model knows, and of the 20 everyday concepts.

An *icon* is one emoji, called by its Noto name ("dog-face").  A *group* is one of the 20
everyday concepts ("dog") and covers several icons.
"""

from dataclasses import dataclass

CATEGORIES = ("Activities", "Animals & Nature", "Food & Drink", "Objects", "Travel & Places")

# Left out: anything touchy, and signs that cannot be told apart on a small picture.
SKIPPED = """
    beer wine sake cocktail cigarette bikini swimsuit briefs bomb dagger sword swords bow knife
    kitchen coffin urn headstone syringe pill blood drop military firecracker baby love kaaba
    mosque church synagogue hindu shinto prayer hamsa skunk joker dolls wedding lipstick funeral
    axe boomerang martial shield microbe cockroach pistol glasses clinking popping crutch cane
    wheelchair statue map speaker stethoscope suit mahjong banknote envelope mail e locked
    unlocked playground lotion
"""
SKIPPED_WORDS = frozenset(SKIPPED.split())
KEPT_ANYWAY = frozenset(("glasses", "sunglasses", "droplet"))

CLOCK_HOURS = (
    "one", "two", "three", "four", "five", "six",
    "seven", "eight", "nine", "ten", "eleven", "twelve",
)  # fmt: skip
CLOCK_FACES = tuple(f"{hour}-{part}" for hour in CLOCK_HOURS for part in ("oclock", "thirty"))

# Icons that look alike on 64 pixels share one name.
MERGED_NAMES: dict[str, str] = {
    **dict.fromkeys(CLOCK_FACES, "clock face"),
    **dict.fromkeys(
        (
            "waning-crescent-moon",
            "waning-gibbous-moon",
            "waxing-crescent-moon",
            "waxing-gibbous-moon",
            "first-quarter-moon",
            "last-quarter-moon",
        ),
        "moon phase",
    ),
    **dict.fromkeys(("blue-book", "green-book", "orange-book", "closed-book"), "closed book"),
}

# Firefox OS names that follow neither the Noto nor the Unicode name.
FXEMOJI_NAMES: dict[str, str] = {
    "car": "automobile",
    "wave": "water-wave",
    "sweatdrops": "sweat-droplets",
    "sun": "sun",
    "whitesun": "sun",
    "sunface": "sun-with-face",
    "fullmoon": "full-moon",
    "cake": "birthday-cake",
    "house": "house",
    "openbook": "open-book",
    "book": "closed-book",
    "umbrella": "umbrella-with-rain-drops",
    "apple": "red-apple",
    "bike": "bicycle",
    "pizza": "pizza",
    "dog": "dog-face",
    "cat": "cat-face",
}


@dataclass(frozen=True)
class Group:
    """An everyday concept: its wordings, its icons, and icons that are neither yes nor no."""

    phrases: tuple[str, ...]
    icons: tuple[str, ...]
    unsure: tuple[str, ...] = ()


def _group(phrases: str, icons: str, unsure: str = "") -> Group:
    wordings = tuple(phrase.strip() for phrase in phrases.split(","))
    return Group(wordings, tuple(icons.split()), tuple(unsure.split()))


GROUPS: dict[str, Group] = {
    "fire": _group(
        "fire, a fire, a flame, flames, burning fire, a blaze, something burning",
        "fire",
        "candle diya-lamp volcano jack-o-lantern comet camping phoenix",
    ),
    "water": _group(
        "water, a water wave, a wave, a drop of water, a droplet, water drops, an ocean wave, "
        "sea water, splashing water",
        "water-wave droplet sweat-droplets",
        "fountain shower desert-island beach-with-umbrella bathtub cloud-with-rain national-park "
        "umbrella-with-rain-drops sun-behind-rain-cloud ice hot-springs tumbler-glass bubbles "
        "pouring-liquid bridge-at-night mount-fuji cloud-with-lightning-and-rain",
    ),
    "dog": _group(
        "dog, a dog, a puppy, a dog face", "dog dog-face poodle guide-dog service-dog", "wolf"
    ),
    "cat": _group("cat, a cat, a kitten, a cat face", "cat cat-face black-cat"),
    "tree": _group(
        "tree, a tree, a green tree, trees",
        "deciduous-tree evergreen-tree palm-tree christmas-tree",
        "leafless-tree tanabata-tree camping desert-island national-park house-with-garden wood",
    ),
    "flower": _group(
        "flower, a flower, flowers, a blooming flower, a blossom",
        "cherry-blossom rose hibiscus sunflower blossom tulip bouquet hyacinth",
        "white-flower lotus rosette wilted-flower potted-plant flower-playing-cards seedling",
    ),
    "car": _group(
        "car, a car, an automobile, a motor car",
        "automobile oncoming-automobile sport-utility-vehicle taxi oncoming-taxi racing-car "
        "police-car oncoming-police-car",
        "pickup-truck minibus auto-rickshaw delivery-truck ambulance",
    ),
    "airplane": _group(
        "airplane, an airplane, a plane, an aircraft",
        "airplane small-airplane airplane-departure airplane-arrival",
        "helicopter",
    ),
    "bicycle": _group("bicycle, a bicycle, a bike", "bicycle", "kick-scooter motor-scooter"),
    "apple": _group(
        "apple, an apple, a fresh apple", "red-apple green-apple", "peach cherries tomato"
    ),
    "banana": _group("banana, a banana, bananas", "banana"),
    "pizza": _group("pizza, a pizza, a slice of pizza", "pizza"),
    "cake": _group(
        "cake, a cake, a birthday cake, a piece of cake",
        "birthday-cake shortcake",
        "cupcake moon-cake pancakes fish-cake-with-swirl pie custard",
    ),
    "house": _group(
        "house, a house, a home, a building with a roof",
        "house house-with-garden houses derelict-house",
        "hut bank post-office school castle hotel convenience-store",
    ),
    "book": _group(
        "book, a book, books, a book to read",
        "open-book closed-book green-book blue-book orange-book books",
        "notebook notebook-with-decorative-cover ledger spiral-notepad bookmark-tabs",
    ),
    "clock": _group(
        "clock, a clock, a clock face, a clock showing the time",
        "alarm-clock mantelpiece-clock " + " ".join(CLOCK_FACES),
        "watch stopwatch timer-clock compass",
    ),
    "umbrella": _group(
        "umbrella, an umbrella, a parasol",
        "umbrella umbrella-with-rain-drops umbrella-on-ground closed-umbrella",
        "beach-with-umbrella tropical-drink parachute",
    ),
    "sun": _group(
        "sun, the sun, a shining sun, a bright sun",
        "sun sun-with-face",
        "sun-behind-cloud sun-behind-large-cloud sun-behind-rain-cloud sun-behind-small-cloud "
        "sunrise sunrise-over-mountains sunset beach-with-umbrella cityscape-at-dusk desert "
        "desert-island",
    ),
    "moon": _group(
        "moon, the moon, a crescent moon, a full moon",
        "full-moon crescent-moon full-moon-face first-quarter-moon-face last-quarter-moon-face "
        "first-quarter-moon last-quarter-moon waning-crescent-moon waning-gibbous-moon "
        "waxing-crescent-moon waxing-gibbous-moon",
        "new-moon new-moon-face night-with-stars moon-viewing-ceremony milky-way",
    ),
    "guitar": _group("guitar, a guitar, an electric guitar", "guitar", "banjo violin"),
}

FIRE_ICONS = frozenset(GROUPS["fire"].icons)
WATER_ICONS = frozenset(GROUPS["water"].icons)

EMPTY_PHRASES = (
    "nothing",
    "an empty background",
    "a plain background",
    "a blank picture",
    "a plain color",
    "an abstract pattern",
    "an empty picture",
    "random noise",
)
