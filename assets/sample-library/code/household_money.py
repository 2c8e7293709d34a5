"""Rechnet aus, wer in der Wohngemeinschaft wem wie viel Geld schuldet.

Alle Beträge sind ganze Cent, damit beim Teilen nichts verloren geht.
"""

from __future__ import annotations

import re
from collections import defaultdict
from datetime import date


def parse_amount(text: str) -> int:
    """Liest '1.234,50', '1,234.50' oder '12' und gibt Cent zurück."""
    digits = re.sub(r"[^\d,.-]", "", text)
    match = re.fullmatch(r"(-?)([\d.,]*?)(?:[.,](\d{2}))?", digits)
    if match is None:
        raise ValueError(f"kein Betrag: {text!r}")
    sign, whole, cents = match.groups()
    value = int(re.sub(r"[.,]", "", whole) or "0") * 100 + int(cents or "0")
    return -value if sign else value


def balances(payments: list[tuple[str, int, list[str]]]) -> dict[str, int]:
    """(Zahler, Cent, Beteiligte) je Einkauf -> was jeder am Ende bekommt (+) oder schuldet (-)."""
    result: dict[str, int] = defaultdict(int)
    for payer, cents, people in payments:
        share, rest = divmod(cents, len(people))
        result[payer] += cents
        for position, person in enumerate(people):
            # Die übrigen Cent gehen reihum an die Ersten in der Liste.
            result[person] -= share + (1 if position < rest else 0)
    return dict(result)


def settle(balance: dict[str, int]) -> list[tuple[str, str, int]]:
    """Wenige Überweisungen (von, an, Cent): immer der größte Schuldner an den größten Gläubiger."""
    open_sums = {person: cents for person, cents in balance.items() if cents}
    transfers = []
    while open_sums:
        debtor = min(open_sums, key=lambda person: open_sums[person])
        creditor = max(open_sums, key=lambda person: open_sums[person])
        cents = min(-open_sums[debtor], open_sums[creditor])
        transfers.append((debtor, creditor, cents))
        open_sums[debtor] += cents
        open_sums[creditor] -= cents
        open_sums = {person: left for person, left in open_sums.items() if left}
    return transfers


def suspected_twins(entries: list[tuple[date, str, int]], days: int = 3) -> list[tuple[int, int]]:
    """Paare von Buchungen mit gleichem Laden und Betrag, die höchstens `days` auseinanderliegen."""
    found = []
    for left, (day, shop, cents) in enumerate(entries):
        for right in range(left + 1, len(entries)):
            other_day, other_shop, other_cents = entries[right]
            same = shop.casefold() == other_shop.casefold() and cents == other_cents
            if same and abs((other_day - day).days) <= days:
                found.append((left, right))
    return found
