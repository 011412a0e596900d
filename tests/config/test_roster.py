"""The roster: who the agents are, what they may do under overrides, what is refused, and how edits take effect."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from p2engine.agents.roster import Defaults, FileRoster
from p2engine.agents.rules import RuleAgent
from p2engine.domain.ids import AgentId, BlobRef, blob_ref
from p2engine.domain.messages import ToolSpec
from p2engine.domain.setup import Budget, RenderPolicy, Setup, ToolGrant
from p2engine.errors import ConfigError, CorruptEntry, NotAvailable, NotLoaded, StoreError, UsageError
from p2engine.ports import Roster
from p2engine.tools.artifacts import artifact_tools
from p2engine.tools.registry import Registry
from tests.config.roster_parts import MAIL, WEATHER, ModelDouble, Project

ALPHA, HELPER = AgentId("alpha"), AgentId("helper")
TWO = """\
agents:
  - id: alpha
    tools: [get_weather, delegate, check_balance]
  - id: helper
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """An empty project, and the working folder in it."""
    monkeypatch.chdir(tmp_path)
    return Project(tmp_path)


async def test_a_setup_holds_everything_the_machine_judges_by(project: Project) -> None:
    """Model, sampling, grants, delegates, policy and budget of the file are what is recorded."""
    project.agents(
        """
agents:
  - id: alpha
    type: llm
    llm_model: "openai/gpt-4o-mini"
    temperature: 0.3
    top_p: 1
    max_tokens: 200
    tools: [send_mail, get_weather, delegate]
    render_policy: {last_n: 20}
    budget: {steps: 30, usd: 0.5}
    enable_self_reflection: false
  - id: helper
  - id: other
"""
    )
    defaults = Defaults("openai/gpt-4o", budget=Budget(steps=10, seconds=60), dedup="strict")
    roster: Roster = project.roster(defaults=defaults)
    setup = await roster.setup(ALPHA, {})
    assert setup == Setup(
        agent=ALPHA,
        type="llm",
        model="openai/gpt-4o-mini",
        temperature=0.3,
        top_p=1,
        max_tokens=200,
        instructions=setup.instructions,
        specs=setup.specs,
        tools=(
            ToolGrant("send_mail", "never", True, None),
            ToolGrant("get_weather", "free", False, 30),
            ToolGrant("delegate", "never"),
        ),
        delegates=(HELPER, AgentId("other")),
        render=RenderPolicy("last_n", 20),
        budget=Budget(steps=30, usd=0.5, seconds=60),
        dedup="strict",
    )
    instructions, specs = await roster.bodies(setup)
    assert "alpha" in instructions
    assert [spec.name for spec in specs] == ["send_mail", "get_weather", "delegate"]
    assert specs[:2] == (MAIL, WEATHER)


async def test_defaults_fill_what_the_file_leaves_out(project: Project) -> None:
    """An agent of nothing but an id has the default model, no tools, and nobody to delegate to."""
    project.agents("agents: [{id: alpha}, {id: helper}]")
    setup = await project.roster(defaults=Defaults("groq/llama")).setup(ALPHA, {})
    assert (setup.model, setup.tools, setup.delegates, setup.specs) == ("groq/llama", (), (), None)
    assert (setup.render, setup.budget) == (RenderPolicy(), Budget())


@pytest.mark.parametrize(
    ("written", "policy"),
    [
        ("full", RenderPolicy()),
        ("{last_n: 3}", RenderPolicy("last_n", 3)),
        ("{token_budget: 8000}", RenderPolicy("token_budget", 8000)),
    ],
)
async def test_the_three_render_policies_are_read(written: str, policy: RenderPolicy, project: Project) -> None:
    """Each form of `render_policy` reaches the setup."""
    project.agents(f"agents: [{{id: alpha, render_policy: {written}}}]")
    assert (await project.roster().setup(ALPHA, {})).render == policy


async def test_withheld_tools_are_known_and_not_given(project: Project) -> None:
    """A tool that this version withholds may be listed; the model does not get it, and people see why."""
    project.agents(TWO)
    roster = project.roster()
    setup = await roster.setup(ALPHA, {})
    assert setup.grant("check_balance") is None
    row = roster.describe(ALPHA)
    assert row.tools == ("get_weather", "delegate")
    assert row.withheld == {"check_balance": "the ledger is off (ledger.enabled)"}
    assert (row.source, row.delegates) == ("config/agents.yml:2", (HELPER,))


async def test_delegates_are_those_named_or_all_others(project: Project) -> None:
    """`delegates_to` narrows; without it everybody else is there; an agent alone does not get the tool."""
    project.agents("agents: [{id: alpha, tools: [delegate]}, {id: helper}, {id: third, tools: [delegate]}]")
    roster = project.roster()
    assert (await roster.setup(ALPHA, {})).delegates == ("helper", "third")
    project.agents("agents: [{id: alpha, tools: [delegate], delegates_to: [helper]}, {id: helper}, {id: third}]")
    roster.refresh()
    assert (await roster.setup(ALPHA, {})).delegates == ("helper",)
    project.agents("agents: [{id: alpha, tools: [delegate]}]")
    roster.refresh()
    setup = await roster.setup(ALPHA, {})
    assert (setup.tools, setup.delegates) == ((), ())
    assert roster.describe(ALPHA).withheld == {"delegate": "there is no other agent to ask"}


NO_POLICY = "expected full, {last_n: N} or {token_budget: N} with N of at least 1"
NO_NAME = "an agent's name has 1 to 64 letters, digits, _ . and -; this is"

# One wrong line of an agent, and what is said after `config/agents.yml:3: agents[0]`.
BAD_LINES: dict[str, str] = {
    "llm_modle: x": ": unknown key 'llm_modle' (did you mean llm_model?)",
    "temperature: 2.5": ".temperature: expected a number from 0 to 2, not 2.5",
    "temperature: .nan": ".temperature: expected a number from 0 to 2, not nan",
    "temperature: hot": ".temperature: expected a number from 0 to 2, not 'hot'",
    "top_p: -1": ".top_p: expected a number from 0 to 1, not -1",
    "max_tokens: 0": ".max_tokens: expected a whole number of at least 1, not 0",
    "tools: get_weather": ".tools: expected a list (text each), not 'get_weather'",
    "tools: [get_wether]": ".tools: no tool 'get_wether' (did you mean get_weather?)",
    "tools: [send_mail, send_mail]": ".tools: 'send_mail' is listed twice",
    "delegates_to: [alfa]": ".delegates_to: no agent 'alfa' (did you mean alpha?)",
    "behavior_template: wether_expert": (
        ".behavior_template: no persona 'wether_expert' (did you mean weather_expert?)"
    ),
    "behavior_template: ../../secret": (
        ".behavior_template: no persona '../../secret' (known: financial_expert, weather_expert)"
    ),
    "render_policy: {last_n: 0}": f".render_policy: {NO_POLICY}",
    "render_policy: {last_n: true}": f".render_policy: {NO_POLICY}",
    "render_policy: last": f".render_policy: {NO_POLICY}",
    "budget: {step: 3}": ".budget: unknown key 'step' (did you mean steps?)",
    "budget: {usd: -1}": ".budget.usd: expected a number above 0, not -1",
    "type: lmm": ": no type 'lmm' (did you mean llm?)",
    "type: 3": ".type: expected text, not 3",
}
# One rule of a rule agent, and what is said after `config/agents.yml:5: agents[0].rules[0]`.
BAD_RULES: dict[str, str] = {
    "{match: x}": ": expected exactly one of answer, tool, delegate",
    "{match: x, regex: y, answer: z}": ": expected exactly one of match, contains, regex",
    "{match: x, answer: z, then: y}": ": then belongs to tool or delegate, not to answer",
    "{match: x, answer: z, arguments: {}}": ": arguments belongs to tool, which is not there",
    "{match: x, answer: z, message: y}": ": message belongs to delegate, which is not there",
    "{regex: '(', answer: z}": ".regex: not a regular expression: missing ), unterminated subpattern at position 0",
    "{regex: '(a+)+', answer: z}": (
        ".regex: a repeat inside a repeat, such as (a+)+, can take for ever; write it without the outer one"
    ),
    "{match: x, answer: '{{ x'}": (".answer: template: unexpected end of template, expected 'end of print statement'."),
    "{match: x, tool: get_weather}": ": tool 'get_weather' is not among the tools of alpha",
    "{match: x, delegate: other}": ": alpha may not delegate to 'other'",
    "{mach: x, answer: y}": ": unknown key 'mach' (did you mean match?)",
    "x": ": expected a mapping, not 'x'",
}
# A whole file, and what is said after `config/agents.yml`.
BAD_FILES: dict[str, str] = {
    "agents:\n- id: alpha\n- id: alpha": ":3: agents[1]: agent 'alpha' is there already (config/agents.yml:2)",
    "agents:\n- id: ../x": f":2: agents[0].id: {NO_NAME} '../x'",
    "agents:\n- id: ''": f":2: agents[0].id: {NO_NAME} ''",
    "agents:\n- tools: []": ":2: agents[0]: the key id is missing",
    "agents:\n- alpha": ":2: agents[0]: expected a mapping, not 'alpha'",
    "agents: []": ":1: agents: expected a list of agents, not []",
    "agents:": ":1: agents: expected a list of agents, not None",
    "agent: []": ":1: unknown key 'agent' (did you mean agents?)",
    "- id: alpha": ":1: expected a mapping, not [{'id': 'alpha'}]",
    "": ": is empty",
    "agents: [": ":1: not YAML: expected the node content, but found '<stream end>'",
    "agents: [{id: a, type: rule}]": ":1: agents[0]: the key rules is missing",
    "agents: [{id: a, type: rule, rules: []}]": ":1: agents[0].rules: expected a list (a mapping each), not []",
    "agents: [{id: a, type: rule, llm_model: x, rules: [{match: x, answer: y}]}]": (
        ":1: agents[0]: unknown key 'llm_model' (known: budget, default, delegates_to, id, owner, rules, tools,"
        " type, wallet)"
    ),
}
BAD = {
    **{f"agents:\n- id: alpha\n  {line}\n": f":3: agents[0]{says}" for line, says in BAD_LINES.items()},
    **{
        f"agents:\n- id: alpha\n  type: rule\n  rules:\n  - {rule}\n- id: other": f":5: agents[0].rules[0]{says}"
        for rule, says in BAD_RULES.items()
    },
    **BAD_FILES,
}


@pytest.mark.parametrize(("text", "says"), BAD.items(), ids=range(len(BAD)))
def test_failure_27_a_wrong_agents_file_is_one_line(text: str, says: str, project: Project) -> None:
    """Every way of getting agents.yml wrong is one line with file, line and the nearest name; nothing is started."""
    project.agents(text)
    with pytest.raises(ConfigError) as raised:
        project.roster()
    assert str(raised.value) == f"config/agents.yml{says}"


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("enable_self_reflection: true", "enable_self_reflection: true"),
        ("reflection_agent_id: helper", "reflection_agent_id"),
        ("type: human", "type: human"),
    ],
)
def test_what_agents_cannot_have_yet_is_refused_by_name(line: str, key: str, project: Project) -> None:
    """A key of the file whose feature is not here stops the start, with its line as the hint."""
    project.agents(f"agents:\n- id: alpha\n  {line}\n")
    with pytest.raises(NotAvailable) as raised:
        project.roster()
    assert str(raised.value) == f"not available in this version: {key}"
    assert raised.value.hint == "config/agents.yml:3: take it out"


def test_failure_27_a_folder_where_the_file_should_be(project: Project) -> None:
    """A folder called agents.yml is said, not read."""
    (project.folder / "config" / "agents.yml").mkdir(parents=True)
    with pytest.raises(ConfigError) as raised:
        project.roster()
    assert str(raised.value) == "config/agents.yml: is a folder, not a file"


def test_a_model_that_is_not_supported_is_refused(project: Project) -> None:
    """With `supported_models` set, an agent may name no other."""
    project.agents("agents:\n- id: alpha\n  llm_model: openai/gpt-5o\n")
    with pytest.raises(ConfigError, match=r"agents\.yml:3: .*no supported model 'openai/gpt-5o' \(did you mean"):
        project.roster(defaults=Defaults("openai/gpt-4o", supported=["openai/gpt-4o"]))


@pytest.mark.parametrize("name", ["agent_x", "alfa", "alpha ", "../alpha", "", "a\x1b[31m", "x" * 10**6])
async def test_failure_19_an_invented_agent_is_refused_with_the_nearest_name(name: str, project: Project) -> None:
    """A name that nobody has is an error, however it looks; it never gets anybody's tools."""
    project.agents(TWO)
    with pytest.raises(UsageError) as raised:
        await project.roster().setup(AgentId(name), {})
    assert raised.value.message.startswith("no agent ")
    assert len(raised.value.message) < 200
    assert "\x1b" not in raised.value.message
    if name == "alfa":
        assert "did you mean alpha?" in raised.value.message


async def test_failure_19_the_stand_in_has_no_tools_and_gets_none(project: Project) -> None:
    """`chat with ANYNAME` has an agent with the default model and no powers; an override cannot give it any."""
    project.agents(TWO)
    roster = project.roster(defaults=Defaults("groq/llama"))
    setup = await roster.setup(AgentId("somebody"), {"temperature": 0.5}, stand_in=True)
    assert (setup.agent, setup.model, setup.temperature) == ("somebody", "groq/llama", 0.5)
    instructions, specs = await roster.bodies(setup)
    assert (setup.tools, setup.delegates, specs) == ((), (), ())
    assert "You are somebody." in instructions
    with pytest.raises(UsageError, match="has no tools"):
        await roster.setup(AgentId("somebody"), {"tools": ["get_weather"]}, stand_in=True)
    with pytest.raises(UsageError, match="an agent's name has"):
        await roster.setup(AgentId("../x"), {}, stand_in=True)
    with pytest.raises(UsageError, match="no agent"):
        await roster.setup(AgentId("somebody"), {"temperature": 0.5})
    assert (await roster.setup(ALPHA, {}, stand_in=True)).grant("get_weather")


@pytest.mark.parametrize(
    ("changes", "field", "value"),
    [
        ({"model": "groq/x"}, "model", "groq/x"),
        ({"llm_model": "groq/x"}, "model", "groq/x"),
        ({"temperature": "0.3"}, "temperature", 0.3),
        ({"top_p": "0.5"}, "top_p", 0.5),
        ({"max_tokens": "100"}, "max_tokens", 100),
        ({"behavior": "weather_expert"}, "persona", "weather_expert"),
        ({"render_policy": "last_n:20"}, "render", RenderPolicy("last_n", 20)),
        ({"render_policy": {"token_budget": 9}}, "render", RenderPolicy("token_budget", 9)),
        ({"tools": "send_mail"}, "tools", (ToolGrant("send_mail", "never", True),)),
        ({"tools": []}, "tools", ()),
        ({"temperature": None}, "temperature", None),
    ],
)
async def test_failure_30_overrides_change_the_setup(
    changes: dict[str, Any], field: str, value: Any, project: Project
) -> None:
    """Every override key changes what is recorded, written as JSON or as text from a command line."""
    project.agents(TWO)
    setup = await project.roster().setup(ALPHA, changes)
    assert getattr(setup, field) == value


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"behaviour": "x"}, "override: unknown key 'behaviour' (did you mean behavior?)"),
        ({"behavior": "weather_expart"}, "no persona 'weather_expart' (did you mean weather_expert?)"),
        ({"behavior": ""}, "override: behavior: expected text, not ''"),
        ({"tools": "get_wether"}, "no tool 'get_wether' (did you mean get_weather?)"),
        ({"tools": "send_mail,send_mail"}, "override: tools: 'send_mail' is listed twice"),
        ({"temperature": "hot"}, "override: temperature: expected a number from 0 to 2, not 'hot'"),
        ({"temperature": "nan"}, "override: temperature: expected a number from 0 to 2, not 'nan'"),
        ({"max_tokens": "1.5"}, "override: max_tokens: expected a whole number of at least 1, not '1.5'"),
        ({"model": "a", "llm_model": "b"}, "override: model and llm_model are the same; set model"),
        ({"model": "openai/gpt"}, "no supported model 'openai/gpt' (did you mean openai/gpt-4o?)"),
        ({"model": object()}, "override: Encoding objects of type object is unsupported"),
    ],
)
async def test_wrong_overrides_are_refused(changes: dict[str, Any], says: str, project: Project) -> None:
    """An unknown key or a value that cannot be is a UsageError with the nearest name."""
    project.agents(TWO)
    with pytest.raises(UsageError) as raised:
        await project.roster(defaults=Defaults("openai/gpt-4o", supported=["openai/gpt-4o"])).setup(ALPHA, changes)
    assert str(raised.value) == says


async def test_nothing_is_resolved_or_stored_twice(project: Project) -> None:
    """The same agent under the same changes costs no blob write, nor does one with the same bodies; bodies are read
    from disk once a process.
    """
    project.agents(TWO)
    roster = project.roster()
    first = await roster.setup(ALPHA, {"temperature": 0.3, "top_p": 0.5})
    writes = project.blobs.writes
    assert await roster.setup(ALPHA, {"top_p": 0.5, "temperature": 0.3}) is first
    await roster.bodies(first)
    seeded = await roster.setup(ALPHA, {"top_p": 0.5, "temperature": 0.3, "seed": 7})
    assert seeded == replace(first, seed=7)
    assert (project.blobs.writes, project.blobs.reads) == (writes, 0)
    another = project.roster()
    for _ in range(3):
        assert await another.bodies(first) == await roster.bodies(first)
    assert project.blobs.reads == 2


async def test_a_tool_that_changed_changes_the_setup(project: Project) -> None:
    """When a tool is loaded anew with another spec, the next setup tells the model so."""
    project.agents(TWO)
    roster = project.roster()
    before = await roster.setup(ALPHA, {})
    project.tools["get_weather"] = ToolSpec(name="get_weather", description="better")
    after = await roster.setup(ALPHA, {})
    assert before.specs != after.specs
    assert (await roster.bodies(after))[1][0].description == "better"
    assert (await roster.bodies(before))[1][0] == WEATHER


async def test_a_tool_that_another_process_may_have_is_a_warning_and_no_setup(project: Project) -> None:
    """Named once with its first place; whoever knows what a model is told of it sets up the agents that have it."""
    project.agents(
        """
agents:
  - id: alpha
    tools: [render, list_artifacts, check_balance]
  - id: helper
    tools: [render]
  - id: plain
    tools: [list_artifacts]
"""
    )
    roster = project.roster(registry=Registry(artifact_tools(), partial="not asked for", elsewhere=True))

    (note,) = roster.notes
    assert note.startswith("config/agents.yml:3: alpha may use the tool render, which is not loaded here")
    assert roster.describe(ALPHA).tools == ("list_artifacts",)
    assert roster.describe(ALPHA).withheld["render"] == "tool 'render' is not loaded here"
    with pytest.raises(NotLoaded, match="tool 'render' is not loaded here"):
        await roster.setup(HELPER, {})
    assert (await roster.setup(AgentId("plain"), {})).grant("list_artifacts")


async def test_lost_or_spoilt_bodies_are_named(project: Project) -> None:
    """A recorded setup whose bodies are gone, or are no tool specs, is a StoreError that names them."""
    project.agents(TWO)
    roster = project.roster()
    with pytest.raises(StoreError):
        await roster.bodies(Setup(agent=ALPHA, instructions=blob_ref(b"never stored")))
    spoilt: BlobRef = await project.blobs.put(b"{}")
    with pytest.raises(CorruptEntry, match=spoilt):
        await roster.bodies(Setup(agent=ALPHA, specs=spoilt))


async def test_an_edit_takes_effect_and_is_named(project: Project) -> None:
    """`refresh` takes over what changed and says which files; without a change it does nothing."""
    project.agents(TWO)
    roster = project.roster()
    await roster.setup(ALPHA, {})
    assert roster.refresh() == []
    project.agents(TWO.replace("- id: helper", "- id: helper\n  - id: third"))
    assert roster.refresh() == ["config/agents.yml"]
    assert roster.agents() == ["alpha", "helper", "third"]
    assert (await roster.setup(ALPHA, {})).delegates == ("helper", "third")


async def test_a_broken_edit_keeps_the_last_good_version_and_is_named(project: Project) -> None:
    """A wrong agents.yml changes nothing until it is mended; the problem stands in `problems` meanwhile."""
    project.agents(TWO)
    roster = project.roster()
    for wrong in ("agents: [", "agents: [{id: alpha, wallet: maybe}]", ""):
        project.agents(wrong)
        assert roster.refresh() == []
        assert len(roster.problems) == 1
        assert (await roster.setup(ALPHA, {})).grant("get_weather")
    (project.folder / "config" / "agents.yml").unlink()
    assert roster.refresh() == []
    assert [str(problem) for problem in roster.problems] == ["config/agents.yml: no such file"]
    project.agents(TWO)
    assert roster.refresh() == ["config/agents.yml"]
    assert roster.problems == ()


async def test_an_agent_may_name_a_tool_that_comes_later(project: Project) -> None:
    """An edit that was broken only because a tool was not loaded yet is taken over once it is."""
    project.agents(TWO)
    roster = project.roster()
    project.agents("agents: [{id: alpha, tools: [new_tool]}]")
    assert roster.refresh() == []
    project.tools["new_tool"] = ToolSpec(name="new_tool")
    assert roster.refresh() == ["config/agents.yml"]
    assert (await roster.setup(ALPHA, {})).grant("new_tool")


async def test_an_edited_persona_takes_effect_and_a_broken_one_keeps_the_last(project: Project) -> None:
    """Personas are followed like agents.yml: taken over when good, kept and named when not, gone ones too."""
    project.persona("pirate", "You are {{ agent }}. Arr.")
    project.agents("agents: [{id: alpha, behavior_template: pirate}]")
    roster = project.roster()

    async def instructions() -> str:
        return (await roster.bodies(await roster.setup(ALPHA, {})))[0]

    assert await instructions() == "You are alpha. Arr."
    project.persona("pirate", "Ahoy, {{ agent }}.")
    assert roster.refresh() == ["templates/personas/pirate.j2"]
    assert await instructions() == "Ahoy, alpha."
    project.persona("pirate", "\n{{ agent")
    assert roster.refresh() == []
    assert [str(problem) for problem in roster.problems] == [
        "templates/personas/pirate.j2:2: template: unexpected end of template, expected 'end of print statement'."
    ]
    assert await instructions() == "Ahoy, alpha."
    (project.folder / "templates/personas/pirate.j2").unlink()
    assert roster.refresh() == []
    assert [str(problem) for problem in roster.problems] == ["templates/personas/pirate.j2: no such file"]
    assert await instructions() == "Ahoy, alpha."


async def test_a_persona_that_lacks_a_tool_is_a_warning_that_names_both(project: Project) -> None:
    """Nothing is added to the agent, and it is told; the same can be asked of a setup under overrides."""
    project.agents("agents:\n- id: alpha\n  behavior_template: weather_expert\n- id: helper\n  tools: [get_weather]\n")
    roster = project.roster()
    assert roster.notes == [
        "config/agents.yml:2: persona weather_expert wants the tool get_weather, which alpha does not have"
    ]
    assert (await roster.setup(ALPHA, {})).tools == ()
    assert roster.lacks(await roster.setup(ALPHA, {})) == ("get_weather",)
    assert roster.lacks(await roster.setup(ALPHA, {"tools": ["get_weather"]})) == ()
    assert roster.lacks(await roster.setup(HELPER, {"behavior": "weather_expert"})) == ()


def test_delegates_without_the_tool_are_a_warning(project: Project) -> None:
    """`delegates_to` alone gives nobody the power to delegate; that is said."""
    project.agents("agents: [{id: alpha, delegates_to: [helper]}, {id: helper}]")
    assert project.roster().notes == ["config/agents.yml:1: alpha has delegates_to but not the tool delegate"]


async def test_who_decides_follows_the_type(project: Project) -> None:
    """`llm` is the model's agent, `rule` answers by rules, any other type is made by its plug-in, once a setup."""
    made: list[Setup] = []

    class Plugin(ModelDouble):
        def __init__(self, setup: Setup) -> None:
            made.append(setup)

    project.agents(
        "agents: [{id: a}, {id: b, type: rule, rules: [{match: x, answer: y}]}, {id: c, type: mine, temperature: 1}]"
    )
    roster = project.roster(factories={"mine": Plugin})
    setups = [await roster.setup(agent, {}) for agent in roster.agents()]
    assert [setup.type for setup in setups] == ["llm", "rule", "mine"]
    assert roster.agent(setups[0]) is project.model
    assert isinstance(roster.agent(setups[1]), RuleAgent)
    assert roster.agent(setups[2]) is roster.agent(setups[2])
    assert made == [setups[2]]


async def test_a_recorded_setup_of_a_type_that_is_gone_is_an_error(project: Project) -> None:
    """A plug-in that was uninstalled, and rules that were taken out, are said."""
    project.agents(TWO)
    roster = project.roster()
    with pytest.raises(UsageError, match="no type 'mine' is installed here"):
        roster.agent(Setup(agent=ALPHA, type="mine"))
    with pytest.raises(UsageError, match="has no rules any more"):
        roster.agent(Setup(agent=ALPHA, type="rule"))


def test_without_a_file_the_shipped_agents_are_there(project: Project) -> None:
    """A project without agents.yml has the shipped ones, until it gets its own."""
    roster: FileRoster = project.roster()
    assert roster.agents() == ["agent_alpha", "agent_beta", "agent_helper", "treasurer", "child"]
    assert roster.refresh() == []
    project.agents(TWO)
    assert roster.refresh() == ["config/agents.yml"]
    assert roster.agents() == ["alpha", "helper"]
