"""Dates as people write them, in eight locales; made from the standard library and small tables."""

import calendar
from collections.abc import Sequence
from contextlib import suppress
from datetime import date, datetime, timedelta
from functools import cache
from random import Random

MONTHS = {
    "en": "January February March April May June July August September October November December",
    "de": "Januar Februar März April Mai Juni Juli August September Oktober November Dezember",
    "fr": "janvier février mars avril mai juin juillet août septembre octobre novembre décembre",
    "es": "enero febrero marzo abril mayo junio julio agosto septiembre octubre noviembre diciembre",
    "it": "gennaio febbraio marzo aprile maggio giugno luglio agosto settembre ottobre novembre dicembre",
    "nl": "januari februari maart april mei juni juli augustus september oktober november december",
    "sv": "januari februari mars april maj juni juli augusti september oktober november december",
}
# y year, yy its last two digits, m month, d day, mm and dd with two digits, month by name, mon its first letters.
LAYOUTS = {
    "en-US": ["{month} {d}, {y}", "{weekday}, {month} {d}, {y}", "{mon} {d} {y}", "{m}/{d}/{y}", "{mm}/{dd}/{yy}"],
    "en-GB": ["{d} {month} {y}", "{d}{th} {month} {y}", "the {d}{th} of {month}, {y}", "{d} {mon} {yy}", "{d}/{m}/{y}"],
    "de-DE": ["{d}. {month} {y}", "{weekday}, {d}. {month} {y}", "{d}. {mon}. {yy}", "{d}.{m}.{y}", "{dd}.{mm}.{yy}"],
    "fr-FR": ["{d} {month} {y}", "le {d} {month} {y}", "{weekday} {d} {month} {y}", "{dd}/{mm}/{y}", "{dd}/{mm}/{yy}"],
    "es-ES": ["{d} de {month} de {y}", "{d} de {month} del {y}", "{d}-{mon}-{y}", "{d}/{m}/{y}", "{d}/{m}/{yy}"],
    "it-IT": ["{d} {month} {y}", "il {d} {month} {y}", "{d} {mon} {y}", "{d}/{m}/{y}", "{d}.{m}.{yy}"],
    "nl-NL": ["{d} {month} {y}", "{d} {mon}. {y}", "{d}-{m}-{y}", "{dd}-{mm}-{yy}"],
    "sv-SE": ["den {d} {month} {y}", "{d} {mon} {y}", "{y}-{mm}-{dd}", "{yy}-{mm}-{dd}"],
}
WEEKDAYS = {
    "en": list(calendar.day_name),
    "de": ["Montag", "Dienstag", "Mittwoch", "Donnerstag", "Freitag", "Samstag", "Sonntag"],
    "fr": ["lundi", "mardi", "mercredi", "jeudi", "vendredi", "samedi", "dimanche"],
}
LOCALES = list(LAYOUTS)
CODES = {"y": "%Y", "yy": "%y", "m": "%m", "mm": "%m", "d": "%d", "dd": "%d"}
FIRST, LAST = date(1969, 1, 1), date(2068, 12, 31)  # the years that two digits mean in strptime


def months(language: str, short: bool = False) -> list[str]:
    """Names of months; short: three letters, or four where three say too little, as in juin and juillet."""
    names = MONTHS[language].split()
    if not short:
        return names
    return [name[: 3 if sum(other[:3] == name[:3] for other in names) == 1 else 4] for name in names]


def write_date(day: date, locale: str, layout: str) -> str:
    language = locale[:2]
    ending = "th" if day.day in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(day.day % 10, "th")
    return layout.format(
        y=day.year, yy=f"{day.year % 100:02}", m=day.month, mm=f"{day.month:02}", d=day.day, dd=f"{day.day:02}",
        month=months(language)[day.month - 1], mon=months(language, short=True)[day.month - 1], th=ending,
        weekday=WEEKDAYS[language][day.weekday()] if "{weekday}" in layout else "",
    )  # fmt: skip


def write_anyhow(day: date, rng: Random) -> tuple[str, str]:
    """A text for `day` and its locale: any layout of any locale, as it should be, in small or in capital letters."""
    locale = rng.choice(LOCALES)
    text = write_date(day, locale, rng.choice(LAYOUTS[locale]))
    return rng.choice([text, text, text.lower(), text.upper()]), locale


def readings(text: str) -> set[date]:
    """What a text in digits can mean to a reader who does not know where it was written."""
    found = set()
    for layout in {layout for layouts in LAYOUTS.values() for layout in layouts if "mon" not in layout}:
        with suppress(ValueError):
            found.add(datetime.strptime(text, layout.format(**CODES)).date())
    return found


def held_out(day: date) -> bool:
    """One day in ten is kept for the test, whatever the seed."""
    return Random(day.toordinal()).random() < 0.1


@cache
def days() -> tuple[Sequence[date], Sequence[date]]:
    """The days to train on and those that are held out."""
    every = [FIRST + timedelta(n) for n in range((LAST - FIRST).days + 1)]
    return [day for day in every if not held_out(day)], [day for day in every if held_out(day)]
