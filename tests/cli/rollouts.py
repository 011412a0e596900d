"""A project with rollout files in it, and a judge that a real server plays."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from p2engine.testing.server import Answer, echo
from tests.cli.project import Project

AGENTS = """\
agents:
  - id: agent_alpha
    llm_model: openai/gpt-4o
    tools: [get_weather]
  - id: clerk
    type: rule
    wallet: false
    rules:
      - contains: "Paris"
        answer: "Paris is warm"
    default: "I do not know"
"""
WEATHER = """\
seed: 7
teams:
  weather:
    initial_message: "What's the weather in {{ city }}?"
    base: {agent_id: agent_alpha, tools: [get_weather]}
    variants:
      - {id: cool, temperature: 0.1}
      - {id: warm, temperature: 0.9}
    tasks:
      - {id: paris, city: Paris, expected: "22"}
      - {id: oslo, city: Oslo, expected: "6"}
    checks:
      - contains: "{{ expected }}"
      - tool_called: get_weather
      - no_error
"""
JUDGED = WEATHER.replace(
    "    checks:\n", "    eval: {evaluator_id: gpt4_judge, metric: score, rubric: Is it right?}\n    checks:\n"
)
RULES = """\
teams:
  clerks:
    initial_message: "The weather in {{ city }}?"
    base: {agent_id: clerk}
    variants: [{id: one}, {id: two}]
    tasks: [{id: paris, city: Paris, expected: warm}]
    repeats: 2
    checks: [contains: "{{ expected }}"]
"""


def with_rollouts(project: Project) -> Path:
    """Write the agents, and `config/weather.yml`, `config/judged.yml`, `config/rules.yml`."""
    project.write("config/agents.yml", AGENTS)
    project.write("config/judged.yml", JUDGED)
    project.write("config/rules.yml", RULES)
    return project.write("config/weather.yml", WEATHER)


def judge_or_echo(body: dict[str, Any]) -> Answer:
    """A judge that gives warm answers 0.9 and cool ones 0.2; an agent that repeats, in a word, how warm it is."""
    messages = body["messages"]
    if "You are a judge" in str(messages[0]["content"]):
        score = 0.9 if "warm words" in str(messages) else 0.2
        return json.dumps({"score": score, "comment": "so it says"})
    found = re.search(r"weather in (\w+)", str(messages))
    warmth = "warm" if (body.get("temperature") or 0) > 0.5 else "cool"
    return f"{warmth} words about {found[1]}: 22, 6" if found else echo(body)
