"""The units and counted things that may follow a number. The list is closed: words that are not in it are no unit."""

from __future__ import annotations

import re
from fractions import Fraction

# One unit a string: its name, then its other spellings.
_UNITS = (
    "cm centimeter centimetre", "mm millimeter millimetre", "km kilometer kilometre", "m meter metre mtr",
    "nm nanometer nanometre", "dm decimeter decimetre", "ft foot feet", "inch inches in", "yd yard", "mile mi",
    "kg kilogram", "g gram gm", "mg milligram", "lb pound lbs", "oz ounce", "ton tonne t", "l liter litre L",
    "ml milliliter millilitre mL", "gal gallon", "second sec s", "minute min", "hour hr h", "day", "week", "month",
    "year yr", "mph", "kmh kmph kph", "rad radian", "degree deg", "dollar USD", "cent", "pint", "quart", "cup",
    "euro EUR €", "rupee Rs", "yen ¥", "yuan RMB", "jiao", "pound_sterling £ GBP", "acre", "hectare ha", "unit",
    "N newton", "J joule", "W watt", "V volt", "A ampere amp", "K kelvin", "C", "F", "Hz hertz", "Pa pascal", "eV",
    "ohm", "mol mole", "rpm", "percent", "erg", "kJ", "kW", "kPa", "MHz", "GHz", "kHz", "keV", "MeV", "GeV", "kN",
    "angstrom Angstrom AA", "arcsecond arcsec", "arcminute arcmin", "parsec pc", "bit", "byte", "ms millisecond",
    "micrometer micrometre micrometers", "century centuries", "decade", "lightyear", "steradian sr", "calorie cal",
)  # fmt: skip
# What is counted, in the singular; a plural in s is known as well.
_COUNTED = (
    "angle animal answer apple arrangement bag ball banana base bean bird block boat book bottle bow box boxes "
    "boy bus buses button cake candies candy car card case cat chair chicken child children choice choices circle "
    "class classes coin color colour combination cookie cow crate crayon cube customer deer diagonal dice digit "
    "divisor dog doll door duck edge egg element employee error event face factor families family fish flower "
    "friend fruit function game geese girl goal goose grade gram group guest hat head hen home horse house "
    "integer intersection item jar job key kid lamp lap leg lemon length letter line lion liter loaf loaves man "
    "marble mark match matches meal member men mice minor mouse move movie muffin mug multiple necklace number "
    "orange outcome outfit page pair paper part passenger patient pen pencil people permutation person pet photo "
    "picture pie piece pig pizza plant plate player point polynomial position possibilities possibility prime "
    "prize problem question rabbit region ribbon ring room root rose round route row sandwich sandwiches score "
    "seat seed sentence set sheep shelf shelves shirt shoe side solution song spoon square stamp star step "
    "sticker stone stories story student subset sweet symmetry table task teacher team term test ticket tile time "
    "toy train tree triangle trip truck tulip turn value vehicle vertex vertices video visitor vote walnut way "
    "window woman women word worker zero zeros "
)
# Words beside a unit that do not change it.
_FILLERS = {"of", "the", "each", "every", "total", "altogether", "old", "long", "tall", "high", "wide", "deep", "away",
            "apart", "remaining", "left", "real", "distinct", "different", "possible", "whole", "unique"}  # fmt: skip
_POWERS = {"square": 2, "sq": 2, "squared": 2, "cubic": 3, "cu": 3, "cubed": 3}
_ALIASES = {"mph": "mile/hour", "kmh": "km/hour"}

NAMES: dict[str, str] = {}  # every spelling of a unit: its name
for _names in _UNITS:
    for _word in _names.split():
        NAMES[_word] = _names.split()[0]
        if len(_word) > 2 and _word.islower():
            NAMES.setdefault(_word + "s", _names.split()[0])
            NAMES.setdefault(_word.capitalize(), _names.split()[0])
            NAMES.setdefault(_word.capitalize() + "s", _names.split()[0])
_UNIT_NAMES = frozenset(NAMES.values())
_THINGS = {**{word: word for word in _COUNTED.split()}, **{word + "s": word for word in _COUNTED.split()}}

# Words that multiply the number before them.
SCALES = {
    **dict.fromkeys(("thousand", "k"), Fraction(1000)),
    **dict.fromkeys(("billion", "bn"), Fraction(10**9)),
    "dozen": Fraction(12), "hundred": Fraction(100), "lakh": Fraction(10**5), "million": Fraction(10**6),
    "crore": Fraction(10**7), "wan": Fraction(10**4), "yi": Fraction(10**8), "trillion": Fraction(10**12),
    "half": Fraction(1, 2), "halve": Fraction(1, 2), "third": Fraction(1, 3), "quarter": Fraction(1, 4),
    "fourth": Fraction(1, 4), "fifth": Fraction(1, 5), "sixth": Fraction(1, 6), "seventh": Fraction(1, 7),
    "eighth": Fraction(1, 8), "ninth": Fraction(1, 9), "tenth": Fraction(1, 10), "hundredth": Fraction(1, 100),
    "thousandth": Fraction(1, 1000),
}  # fmt: skip

_FACTOR = re.compile(r"(/|\bper\b)?\s*([A-Za-z_€£¥]+)\s*(?:\^\s*\{?\s*(-?\d)\s*\}?)?")


def unit_name(text: str, power: str = "", trusted: bool = False) -> str | None:
    """The name of a unit or of a counted thing, the same for all its spellings; None for words that are neither.

    Args:
        power: the unit's exponent as digits with an optional sign, "" for 1.
        trusted: any words name a thing, as those of a gold answer do; only logical words and numbers do not.
    """
    text = text.strip().replace(".", " ")
    if re.search(r"(?:^|\s)\d|[^A-Za-z\s/^{}\d'_€£¥-]", text):
        return None
    times: list[str] = []
    over: list[str] = []
    exponent = int(power or 1)
    for sign, word, own in _FACTOR.findall(text):
        if word.lower() in _FILLERS:
            continue
        if word.lower() in _POWERS:
            exponent *= _POWERS[word.lower()]
            continue
        name = _one_name(word, trusted)
        if name is None:
            return None
        size = int(own or 1)
        (over if (sign != "") != (size < 0) else times).append(name + (f"^{abs(size)}" if abs(size) != 1 else ""))
    if not times and not over:
        return "" if exponent == 1 and not text.strip(" /") else None
    if exponent < 0:
        times, over, exponent = over, times, -exponent
    name = " ".join(times or ["unit"] * (not over)) + ("/" + " ".join(over) if over else "")
    name += f"^{exponent}" if exponent != 1 else ""
    return _ALIASES.get(name, name)


def _one_name(word: str, trusted: bool) -> str | None:
    lower = word.lower()
    if word in NAMES:
        return NAMES[word]
    if lower in _THINGS:
        return _THINGS[lower]
    unclear = lower in SCALES or lower.removesuffix("s") in SCALES or lower in ("or", "and", "if", "not")
    return lower.removesuffix("s") if trusted and len(word) > 1 and not unclear else None


def same_unit(a: str, b: str) -> bool:
    """Whether two unit names agree: equal, one left out or just "units", or one a fuller name of the other."""
    if a == b or not a or not b or "unit" in (a.partition("^")[0], b.partition("^")[0]):
        return True
    x, y = (set(re.split("[ /]", unit)) for unit in (a, b))
    return (x <= y or y <= x) and not (x ^ y) & _UNIT_NAMES  # red marbles, marbles; but km is not km/s
