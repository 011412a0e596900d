"""LangGraph: a raw graph of two nodes over plain dicts, and the prebuilt react agent, with and without a saver."""

import asyncio
import operator
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, TypedDict

import aiosqlite
from langchain_core.callbacks import AsyncCallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import END, START, StateGraph
from langgraph.prebuilt import create_react_agent

ANSWER = "It is sunny in Paris, twenty degrees, and it will stay so."
WEATHER = '{"city":"Paris","temp_c":20,"sky":"sunny"}'


class State(TypedDict):
    """Messages only, each a plain dict."""

    messages: Annotated[list[dict[str, Any]], operator.add]


class Opened:
    """A compiled graph. Each step is on disk before the next begins, as with ours."""

    def __init__(self, graph: Any, message: Any, saver: str) -> None:
        self._graph = graph
        self._message = message
        self._durability = {"durability": "sync"} if saver else {}

    async def turn(self, conversation: str, text: str) -> None:
        """One user turn."""
        config = {"configurable": {"thread_id": conversation}, "recursion_limit": 100}
        await self._graph.ainvoke({"messages": [self._message(text)]}, config, **self._durability)

    async def fork(self, conversation: str, number: int) -> None:
        """A new checkpoint on top of the one in the middle."""
        config = {"configurable": {"thread_id": conversation}}
        middle = await self._middle(config)
        await self._graph.aupdate_state(middle, {"messages": [self._message(f"fork {number}")]})

    async def _middle(self, config: dict[str, Any]) -> Any:
        if not hasattr(self, "_found"):  # finding it is no part of the branch
            states = [state async for state in self._graph.aget_state_history(config)]
            self._found = states[len(states) // 2].config
        return self._found


class LangGraphRaw:
    """StateGraph with a model node and a tool node."""

    def __init__(self, saver: str) -> None:
        self._saver = saver
        self.name = f"LangGraph, raw graph, {saver or 'nothing kept'}"

    @asynccontextmanager
    async def open(self, folder: Path, *, tools: int, latency_s: float) -> AsyncIterator[Opened]:
        """The graph, and its saver in that folder."""

        async def model(state: State) -> dict[str, Any]:
            if latency_s:
                await asyncio.sleep(latency_s)
            done = 0
            for message in reversed(state["messages"]):
                if message["role"] == "user":
                    break
                done += message["role"] == "tool"
            if done < tools:
                call = {"id": f"c{done}", "name": "weather", "args": {"city": "Paris", "day": done}}
                return {"messages": [{"role": "assistant", "content": "", "calls": [call]}]}
            return {"messages": [{"role": "assistant", "content": ANSWER}]}

        async def weather(state: State) -> dict[str, Any]:
            call = state["messages"][-1]["calls"][0]
            return {"messages": [{"role": "tool", "content": WEATHER, "call_id": call["id"]}]}

        def after_model(state: State) -> str:
            return "tools" if state["messages"][-1].get("calls") else END

        graph = StateGraph(State)
        graph.add_node("model", model)
        graph.add_node("tools", weather)
        graph.add_edge(START, "model")
        graph.add_conditional_edges("model", after_model, ["tools", END])
        graph.add_edge("tools", "model")
        async with AsyncExitStack() as closing:
            saver = await saver_in(folder, self._saver, closing)
            yield Opened(graph.compile(checkpointer=saver), lambda text: {"role": "user", "content": text}, self._saver)


class AtOnceChat(BaseChatModel):
    """A chat model that calls the tool `tools` times a turn, then answers."""

    tools: int = 5
    latency_s: float = 0.0

    @property
    def _llm_type(self) -> str:
        return "at-once"

    def bind_tools(self, tools: Any, **_: Any) -> "AtOnceChat":
        """The tools are known."""
        return self

    def _reply(self, messages: list[BaseMessage]) -> ChatResult:
        done = 0
        for message in reversed(messages):
            if message.type == "human":
                break
            done += message.type == "tool"
        if done < self.tools:
            call = {"name": "weather", "args": {"city": "Paris", "day": done}, "id": f"c{done}"}
            said = AIMessage(content="", tool_calls=[call])
        else:
            said = AIMessage(content=ANSWER)
        return ChatResult(generations=[ChatGeneration(message=said)])

    def _generate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        return self._reply(messages)

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **_: Any,
    ) -> ChatResult:
        if self.latency_s:
            await asyncio.sleep(self.latency_s)
        return self._reply(messages)


@tool
async def weather(city: str, day: int) -> str:
    """The weather of a city on a day."""
    return WEATHER


class LangGraphReact:
    """The prebuilt react agent."""

    def __init__(self, saver: str) -> None:
        self._saver = saver
        self.name = f"LangGraph, react agent, {saver or 'nothing kept'}"

    @asynccontextmanager
    async def open(self, folder: Path, *, tools: int, latency_s: float) -> AsyncIterator[Opened]:
        """The agent, and its saver in that folder."""
        async with AsyncExitStack() as closing:
            saver = await saver_in(folder, self._saver, closing)
            model = AtOnceChat(tools=tools, latency_s=latency_s)
            yield Opened(
                create_react_agent(model, [weather], checkpointer=saver), lambda text: ("user", text), self._saver
            )


async def saver_in(folder: Path, saver: str, closing: AsyncExitStack) -> Any:
    """The saver of that name; None for none."""
    if saver == "InMemorySaver":
        return InMemorySaver()
    if saver == "AsyncSqliteSaver":
        db = await closing.enter_async_context(aiosqlite.connect(folder / "langgraph.db"))
        made = AsyncSqliteSaver(db)
        await made.setup()
        await db.execute("PRAGMA synchronous=NORMAL")
        return made
    return None
