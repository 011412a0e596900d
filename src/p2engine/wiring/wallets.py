"""The wallets that a project's agents should have: what `agents.yml` and the configuration say of them, as openings."""

from collections.abc import Sequence

from p2engine.agents.roster import FileRoster
from p2engine.domain.ids import AgentId
from p2engine.domain.money import MAIN_BOOK, AccountName, Amount, BookId, Opening
from p2engine.settings import Settings


def openings(
    roster: FileRoster,
    settings: Settings,
    *,
    book: BookId = MAIN_BOOK,
    balance: str | None = None,
    agent: str | None = None,
) -> Sequence[Opening]:
    """One for each agent that has a wallet, or for `agent` alone. balance: what each is opened with, whatever they say.

    Raises UsageError for an agent that does not exist, or a balance that is no amount.
    """
    usual = Amount.parse(settings.ledger.initial_balance if balance is None else balance, zero=True)
    rows = [roster.describe(AgentId(agent))] if agent else map(roster.describe, roster.agents())
    return [
        Opening(
            name=AccountName(row.id),
            initial=usual if balance is not None or row.wallet.initial is None else row.wallet.initial,
            owner=row.owner,
            book=book,
        )
        for row in rows
        if row.wallet.is_open
    ]
