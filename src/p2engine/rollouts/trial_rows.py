"""One trial as a row: for programs as a document, for tables as flat columns. Knows results; formats nothing."""

from collections.abc import Iterable
from typing import Any

from p2engine.rollouts.results import TrialResult


def trial_row(row: TrialResult) -> dict[str, Any]:
    """A trial as programs see it. cost_usd: judges included; saved: what judges had cost that were not asked again."""
    return {
        "team": row.team,
        "variant": row.variant,
        "trial": row.number,
        "task": row.task or None,
        "repeat": row.repeat,
        "seed": row.seed,
        "agent": row.agent,
        "conversation": row.conversation,
        "status": row.status,
        "detail": row.detail or None,
        "metrics": dict(row.metrics),
        "verdicts": dict(row.verdicts),
        "tokens": row.cost.tokens,
        "tokens_in": row.spent.tokens_in,
        "tokens_out": row.spent.tokens_out,
        "judge_tokens": row.judged.tokens,
        "cost_usd": row.cost.cost_usd,
        "judge_cost_usd": row.judged.cost_usd,
        "saved_tokens": row.saved.tokens,
        "saved_usd": row.saved.cost_usd,
        "duration_s": row.duration_s,
        "resumed": row.resumed,
        "steps": row.steps,
        "artifacts": row.artifacts,
        "reward": row.reward,
        "received": row.received,
        "sent": row.sent,
        "models": list(row.models),
        "offline": row.offline,
        "reply": row.reply or None,
    }


def flat_row(row: TrialResult, metrics: Iterable[str], evaluators: Iterable[str]) -> dict[str, Any]:
    """The same in columns: `metric.NAME` and `verdict.NAME` for each of these, None where this trial has none."""
    flat = trial_row(row)
    found, verdicts = flat.pop("metrics"), flat.pop("verdicts")
    flat["models"] = " ".join(row.models)
    flat |= {f"metric.{name}": found.get(name) for name in metrics}
    return flat | {f"verdict.{name}": verdicts.get(name) for name in evaluators}
