"""Reads numbers exactly, without algebra, and splits off a currency sign, a unit or a percent sign."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

_DIGITS = r"(?:\d{1,3}(?:,\d{3})+|\d{1,3}(?: \d{3})+|\d{1,400})"
_DECIMAL = rf"{_DIGITS}(?:\.\d{{1,400}})?"
_PLAIN = re.compile(rf"([+-]?)\s*({_DECIMAL})")
_TIMES = r"\s*(?:\\times|\\cdot|\*|x|×)\s*"
_SCIENTIFIC = re.compile(
    rf"([+-]?)\s*(?:({_DECIMAL})(?:\s*[eE]|{_TIMES}10\s*\^)|10\s*\^)\s*(?:\{{\s*([+-]?\s*\d{{1,3}})\s*\}}|([+-]?\d{{1,3}}))"
)
_REPEATING = re.compile(r"([+-]?)\s*(\d{1,40})\.(\d{0,40})\s*\\(?:overline|bar|dot)\s*\{(\d{1,40})\}")
_SLASH = re.compile(r"(.+?)\s*/\s*(.+)")
_FRAC = re.compile(r"([+-]?)\s*\\frac\{([^{}]+)\}\{([^{}]+)\}")
_MIXED = re.compile(
    rf"([+-]?)\s*({_DIGITS})\s*"
    r"(?:(?<=\s)(\d+)\s*/\s*(\d+)|\\frac\{\s*(\d+)\s*\}\{\s*(\d+)\s*\})"
)
_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_SCALE = re.compile(rf"(.+?)\s*(?:\\text\s*\{{\s*)?({'|'.join(_SCALES)})\s*\}}?")


def exact(text: str) -> Fraction | None:
    """The exact value of a literal: an integer with or without thousands separators, a decimal, a fraction, a mixed
    number, scientific notation, a repeating decimal. None for anything else."""
    text = text.strip()
    while text.startswith("(") and text.endswith(")") and "(" not in text[1:] and ")" not in text[:-1]:
        text = text[1:-1].strip()
        if "," in text:
            return None  # (2,251) is a pair
    if not text or len(text) > 1000:
        return None
    if match := _PLAIN.fullmatch(text):
        return _signed(match[1], Fraction(re.sub("[, ]", "", match[2])))
    if match := _SCIENTIFIC.fullmatch(text):
        power = int((match[3] or match[4]).replace(" ", ""))
        return _signed(match[1], Fraction(re.sub("[, ]", "", match[2] or "1")) * Fraction(10) ** power)
    if match := _MIXED.fullmatch(text):
        top, bottom = int(match[3] or match[5]), int(match[4] or match[6])
        whole = Fraction(re.sub("[, ]", "", match[2]))
        return _signed(match[1], whole + Fraction(top, bottom)) if top < bottom else None
    if match := _REPEATING.fullmatch(text):
        fixed, repeated = match[3], match[4]
        tail = Fraction(int(repeated), 10 ** len(fixed) * (10 ** len(repeated) - 1))
        return _signed(match[1], Fraction(f"{match[2]}.{fixed or '0'}") + tail)
    if match := _FRAC.fullmatch(text):
        return _ratio(match[1], match[2], match[3])
    if match := _SCALE.fullmatch(text):
        value = exact(match[1])
        return None if value is None else value * _SCALES[match[2]]
    if (match := _SLASH.fullmatch(text)) and "/" not in match[2]:
        return _ratio("", match[1], match[2])
    return None


def _ratio(sign: str, top: str, bottom: str) -> Fraction | None:
    a, b = _PLAIN.fullmatch(top.strip()), _PLAIN.fullmatch(bottom.strip())
    if a is None or b is None:
        return None
    over = Fraction(re.sub("[, ]", "", b[2]))
    value = Fraction(re.sub("[, ]", "", a[2])) / over if over else None
    return None if value is None else _signed(sign, _signed(a[1], _signed(b[1], value)))


def _signed(sign: str, value: Fraction) -> Fraction:
    return -value if sign == "-" else value


# One unit a string: its name, then its other spellings.
_UNITS = (
    "cm centimeter centimetre", "mm millimeter millimetre", "km kilometer kilometre", "m meter metre mtr",
    "nm nanometer nanometre", "dm decimeter", "ft foot feet", "inch inches in", "yd yard", "mile mi",
    "kg kilogram", "g gram gm", "mg milligram", "lb pound lbs", "oz ounce", "ton tonne", "l liter litre L",
    "ml milliliter millilitre mL", "gal gallon", "second sec s", "minute min", "hour hr h", "day", "week", "month",
    "year yr", "mph", "kmh km/h kmph kph", "m/s", "km/s", "m/s^2", "rad radian", "degree deg", "dollar USD", "cent",
    "euro EUR", "rupee Rs", "yen", "pound_sterling", "acre", "hectare ha", "unit", "N newton", "J joule", "W watt",
    "V volt", "A ampere amp", "K kelvin", "Hz hertz", "Pa pascal", "eV", "ohm", "mol mole", "rpm", "percent", "erg",
    "kJ", "kW", "kPa", "MHz", "GHz", "kHz", "angstrom", "arcsecond arcsec", "parsec pc", "bit", "byte",
)  # fmt: skip
_UNIT_NAMES: dict[str, str] = {}
for _group in _UNITS:
    for _word in _group.split():
        _UNIT_NAMES[_word] = _group.split()[0]
        if len(_word) > 2 and _word.islower():
            _UNIT_NAMES.setdefault(_word + "s", _group.split()[0])
            _UNIT_NAMES.setdefault(_word.capitalize(), _group.split()[0])
            _UNIT_NAMES.setdefault(_word.capitalize() + "s", _group.split()[0])
_HOUR = re.compile(r"(\d{1,2}:\d\d)\s*(?:\\text\s*\{\s*)?([aApP])\.?\s*[mM]\.?\s*\}?")
_SCALED = re.compile(
    rf"([+-]?[\d.,]+\s*(?:\\text\s*\{{\s*)?(?:{'|'.join(_SCALES)}))\s*(?:\}}\s*\\text\s*\{{)?\s*([A-Za-z]+)\s*\}}?"
)
_COUNTED = re.compile(r"([+-]?[\d.,/ ]*\d)\s+([A-Za-z]{3,}(?:\s+[A-Za-z]+)*)()")  # 5 apples
_ALIASES = {"mph": "mile/hour", "kmh": "km/hour"}
# 300 \text{ km} / \text{ s}, 300 \text{km}\text{s}^{-1}, 9.6 \AA
_COMPOUND = re.compile(
    r"(?P<value>.*?[\d})])"
    r"(?P<tail>(?:\s|\\text\s*\{[A-Za-z\s./\\]*\}|[/()]|\\cdot|\^\s*\{?\s*-?\d\s*\}?|\\(?:AA|mu)(?![a-zA-Z]))+)"
)
_FACTOR = re.compile(r"(/|per\b)?\s*([A-Za-z]+)\s*(?:\^\s*\{?\s*(-?\d)\s*\}?)?")
_HALVES = {"am", "pm"}
_POWER_WORDS = {"square": 2, "sq": 2, "squared": 2, "cubic": 3, "cu": 3, "cubed": 3}
_BARE = "|".join(sorted((re.escape(w) for w in _UNIT_NAMES if len(w) > 1), key=len, reverse=True))
_UNIT_POWER = r"(?:\^\s*\{?\s*(-?\d)\s*\}?)?"
_DEGREE = re.compile(r"(.*\S)\s*\\degree\s*(?:\\text\s*\{\s*)?([CF])?\s*\}?")
_IN_TEXT = re.compile(rf"(.*[^\s,;=<>(\[{{^_])\s*\\text\s*\{{([^{{}}]*)\}}\s*{_UNIT_POWER}")
_BARE_UNIT = re.compile(
    rf"(.*?[\d}})])\s*((?:(?:square|sq|cubic|cu)\.?\s+)?(?:{_BARE})\.?(?:\s+(?:squared|cubed))?)\s*{_UNIT_POWER}"
)
_MONEY = re.compile(r"(?P<sign>[+-]?)\s*(?P<coin>\\\$|€|£|¥|₹)\s*(?P<value>[+-]?\s*[\d.\\].*)")
_COINS = {"\\$": "dollar", "€": "euro", "£": "pound_sterling", "¥": "yen", "₹": "rupee"}


@dataclass(frozen=True)
class Quantity:
    """An expression, its unit's name ("" for none) and whether it is a percentage."""

    value: str
    unit: str = ""
    percent: bool = False


def split_unit(text: str) -> Quantity:
    """Splits off a unit, a currency sign or a %. A single bare letter stays in the value: it may be a variable."""
    text = text.strip()
    if exact(text) is not None:
        return Quantity(text)  # with its million
    if match := _HOUR.fullmatch(text):
        return Quantity(match[1], match[2].lower() + "m")
    if match := _SCALED.fullmatch(text):
        return Quantity(match[1].strip(), unit_name(match[2]) or "")
    if match := _MONEY.fullmatch(text):
        rest = split_unit(match["value"])
        return Quantity(match["sign"] + rest.value, _COINS[match["coin"]], rest.percent)
    if match := re.fullmatch(r"(.*?)\s*\\%", text):
        return Quantity(match[1].strip(), "", True)
    if match := re.fullmatch(r"(.*?)\s*(?:€|£|¥|₹)", text):
        return Quantity(match[1], _COINS[text.strip()[-1]])
    if match := _DEGREE.fullmatch(text):
        return Quantity(match[1], "degree" + (match[2] or ""))
    if (match := _COMPOUND.fullmatch(text)) and re.search(r"\\(?:text|AA)", match["tail"]):
        words = re.sub(r"\\text\s*\{([^{}]*)\}", r" \1 ", match["tail"]).replace("\\cdot", " ").replace("\\mu", "micro")
        unit = unit_name(re.sub(r"[()\\]", " ", words))
        return Quantity(text) if unit is None else Quantity(match["value"].strip(), unit)
    for pattern in (_IN_TEXT, _BARE_UNIT, _COUNTED):
        if (match := pattern.fullmatch(text)) and (unit := unit_name(match[2], match[3] or "")) is not None:
            return Quantity(match[1].strip(), unit)
    return Quantity(text)


def unit_name(text: str, power: str = "") -> str | None:
    """The canonical name of a unit, or the words for counted things; None for words that are no unit ("or 5").

    Args:
        power: the unit's exponent as digits with an optional sign, "" for 1.
    """
    text = re.sub(r"\b([ap])\.?\s?m\b\.?", r"\1m", text.strip(), flags=re.I).replace(".", " ")
    times: list[str] = []
    over: list[str] = []
    exponent = int(power or 1)
    for sign, word, own in _FACTOR.findall(text):
        if word.lower() in ("of", "the", "each"):
            continue
        if word.lower() in _POWER_WORDS:
            exponent *= _POWER_WORDS[word.lower()]
            continue
        size = int(own or 1)
        name = _UNIT_NAMES.get(word, word.lower().removesuffix("s")) + (f"^{abs(size)}" if abs(size) != 1 else "")
        (over if (sign != "") != (size < 0) else times).append(name)
    if (
        {"or", "and", "if", "not"} & {*times, *over}
        or re.search(r"(?:^|\s)\d", text)
        or re.search(r"[^A-Za-z\s/^{}\d'-]", text)
    ):
        return None
    if not times and not over and exponent == 1:
        return "" if not text.strip(" /") else None
    if exponent < 0:
        times, over, exponent = over, times, -exponent
    name = " ".join(times or ["unit"] * (not over)) + ("/" + " ".join(over) if over else "")
    name += f"^{exponent}" if exponent != 1 else ""
    return _ALIASES.get(name, name)


def same_unit(a: str, b: str) -> bool:
    """Whether two unit names agree: equal, one left out or just "units", or one a fuller name of the other."""
    if _HALVES & {a, b}:  # 4:30 in the morning is not 4:30 in the afternoon
        return a == b
    if a == b or not a or not b or "unit" in (a.partition("^")[0], b.partition("^")[0]):
        return True
    x, y = (set(re.split("[ /]", unit)) for unit in (a, b))
    return (x <= y or y <= x) and not (x ^ y) & set(_UNIT_NAMES.values())  # years, years old; but km is not km/s
