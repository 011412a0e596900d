"""A rollout before it runs, as a person reads it: trials, cost, what it can find; and whether it shall run.

Knows outlooks and where words go; computes nothing.
"""

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

from p2engine.cli.output import Output, one_line
from p2engine.cli.session import Session
from p2engine.errors import UsageError
from p2engine.rollouts.estimate import ArmEstimate, Cost, Detectable, powered
from p2engine.rollouts.findings import OFFLINE
from p2engine.rollouts.spec import Spec, Team
from p2engine.wiring.outlook import Outlook

VARIANTS_NAMED = 8  # of a team, in a line


def tell_plan(output: Output, look: Outlook, *, aside: bool = False) -> None:
    """Say what will be run. aside: on standard error, where the result is another."""
    say = output.note if aside else output.line
    for line in plan_lines(look):
        say(line)
    for note in look.notes:
        output.note(f"note: {note}")


def plan_lines(look: Outlook) -> Iterator[str]:
    spec, count = look.spec, len(look.trials)
    more = f"{_count(count, 'more trial')}, {look.done} have run" if look.done else _count(count, "trial")
    yield f"{one_line(spec.name, 64)}: {more}, {look.at_once} at once"
    for team in spec.teams:
        yield f"  {team.id}: {_team_words(look, team)}"
    models = dict.fromkeys(setup.model for setup in look.setups.values() if setup.type == "llm")
    yield f"models: {', '.join(models) or 'none, all agents answer by rules'}" + (
        f"; judged by {', '.join(look.judges)}" if look.judges else ""
    )
    if look.offline:
        yield f"{OFFLINE}; nothing is paid" if not look.paid else OFFLINE
    if look.paid:
        yield cost_line(look)
    for each in look.detectable:
        yield _detects(each)


def tell_document(output: Output, look: Outlook) -> None:
    """With --json, the plan as the one result."""
    if output.is_json:
        output.document(_document(look))


def _document(look: Outlook) -> dict[str, Any]:
    """cost_usd: null where no model of it has a price."""
    cost = look.cost
    is_known = bool(cost.usd) or not cost.unpriced
    return {
        "name": look.spec.name,
        "spec_hash": look.spec.hash,
        "trials": len(look.trials),
        "done": look.done,
        "at_once": look.at_once,
        "offline": look.offline,
        "paid": look.paid,
        "judges": list(look.judges),
        "cost_usd": cost.usd if is_known else None,
        "tokens": cost.tokens_in + cost.tokens_out,
        "unpriced": list(cost.unpriced),
        "budget_usd": look.budget_usd,
        "detects": [
            {"team": each.team, "metric": each.metric, "difference": each.difference, "repeats": each.repeats_needed}
            for each in look.detectable
        ],
        "variants": list(_config_rows(look)),
        "notes": list(look.notes),
    }


def _team_words(look: Outlook, team: Team) -> str:
    mine = [trial for trial in look.trials if trial.team == team.id]
    names = [variant.id for variant in team.variants]
    more = f", … {len(names) - VARIANTS_NAMED} more" if len(names) > VARIANTS_NAMED else ""
    arms = f"{_count(len(names), 'variant')} ({', '.join(names[:VARIANTS_NAMED])}{more})"
    repeats = look.options.repeats or team.repeats
    parts = [arms, *([_count(len(team.tasks), "task")] if team.tasks else []), _count(repeats, "repeat")]
    limited = f", {look.options.limit} of each variant at most" if look.options.limit else ""
    after = f", after {', '.join(team.depends_on)}" if team.depends_on else ""
    return f"{_count(len(mine), 'trial')} {'more, of' if look.done else '='} {' × '.join(parts)}{limited}{after}"


def _count(count: int, what: str) -> str:
    return f"{count} {what if count == 1 else what + 's'}"


def cost_line(look: Outlook) -> str:
    """What it costs, about, and how far it may go."""
    cost = look.cost
    agents, judges = _sum(look.arms, judges=False), _sum(look.arms, judges=True)
    measured = sum(1 for arm in look.arms if arm.measured)
    basis = "from earlier trials" if measured == len(look.arms) else "a guess by the length of prompts"
    if measured and measured < len(look.arms):
        basis = f"from earlier trials where there are any ({measured} of {len(look.arms)} variants)"
    tokens = cost.tokens_in + cost.tokens_out
    split = f": agents {money(agents.usd)}, judges {money(judges.usd)}" if judges.usd else ""
    known = f"about {money(cost.usd)}{split}" if cost.usd or not cost.unpriced else "unknown"
    unpriced = f"; no price is known of {', '.join(cost.unpriced)}" if cost.unpriced else ""
    bound = "nothing bounds it"
    if look.budget_usd is not None:
        bound = f"no trial begins once {money(look.budget_usd)} are spent"
        bound += ", which will be so before the end" if cost.usd > look.budget_usd else ""
    return f"cost: {known}, about {tokens:,} tokens ({basis}){unpriced}; {bound}"


def money(usd: float) -> str:
    """`$12.00`, `$0.12`, `$0.018`, `$0.0031`: two digits at least, a millionth of a dollar at most."""
    digits = 2 if usd >= 0.1 or usd <= 0 else min(6, 1 - math.floor(math.log10(usd)))
    return f"${usd:.{digits}f}"


def _sum(arms: Any, *, judges: bool) -> Cost:
    total = Cost()
    arm: ArmEstimate
    for arm in arms:
        total = total.plus(arm.judges if judges else arm.agents)
    return total


def _detects(each: Detectable) -> str:
    if each.difference is None:
        more = f"; {_more(each)}" if each.repeats_needed else ""
        return (
            f"{each.team}: what it can detect is not known: {each.why}"
            if not more
            else f"{each.team}: {each.why}{more}"
        )
    found = f"{each.team}: detects a difference of about {each.difference:.2g} in {each.metric} at {powered()}"
    return f"{found}; {_more(each)}" if each.repeats_needed else found


def _more(each: Detectable) -> str:
    return f"--repeats {each.repeats_needed} would detect 0.2"


def tell_config(output: Output, look: Outlook, *, aside: bool = False) -> None:
    """What every variant runs with: the setup as it is recorded, without the bodies of prompts and tools."""
    say = output.note if aside else output.line
    for row in _config_rows(look):
        name = f"{row.pop('team')}/{row.pop('variant')}"
        say(f"{name}: " + ", ".join(f"{key} {_shown(value)}" for key, value in row.items()))


def _config_rows(look: Outlook) -> Iterator[dict[str, Any]]:
    spec: Spec = look.spec
    for team, variant in spec.arms():
        setup = look.setups[team.id, variant.id]
        budget = {
            name: value for name in ("steps", "tokens", "usd", "seconds") if (value := getattr(setup.budget, name))
        }
        yield {
            "team": team.id,
            "variant": variant.id,
            "agent": variant.agent,
            "model": setup.model or None,
            "temperature": setup.temperature,
            "top_p": setup.top_p,
            "max_tokens": setup.max_tokens,
            "persona": setup.persona or None,
            "tools": [grant.name for grant in setup.tools],
            "delegates": list(setup.delegates),
            "render": setup.render.kind,
            "budget": budget,
            "ledger": team.ledger,
            "message": one_line(variant.message, 200),
        }


def _shown(value: object) -> str:
    match value:
        case None:
            return "–"
        case list() | Mapping():
            return json.dumps(value, ensure_ascii=False)
        case _:
            return str(value)


async def agreed(session: Session, output: Output, look: Outlook, command: str, *, said: bool) -> bool:
    """Whether a rollout may run: what costs nothing, or was said to; else a person is asked.

    command: as it was typed, in short. said: by --yes or --budget. Raises UsageError where there is nobody to ask.
    """
    if said or not look.paid or not look.trials:
        return True
    lines = session.lines_in()
    if not (lines.is_terminal and output.is_terminal):
        raise UsageError(
            f"this rollout asks models that are paid ({_price(look)})",
            hint=f"p2engine rollout {command} --yes runs it, or --budget USD",
        )
    label = f"Run it ({_price(look)})? [y/N] "
    from p2engine.cli.prompts import Prompt

    async def no_words(before: str) -> tuple[str, ...]:
        return ()

    answer = await Prompt(no_words).ask(label)
    return answer is not None and answer.strip().lower() in ("y", "yes")


def _price(look: Outlook) -> str:
    cost = look.cost
    return f"about {money(cost.usd)}" if cost.usd or not cost.unpriced else "of unknown cost"
