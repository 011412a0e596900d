"""What every Catalogue does: which conversations and branches there are."""

from msgspec.structs import replace

from p2engine.domain.ids import ConversationId
from p2engine.domain.records import Batch
from p2engine.ports import Archive
from p2engine.testing.histories import branch, conversation, opening, ref, thought


async def _names(store: Archive, prefix: str = "", limit: int = 1000) -> list[str]:
    return [found.name for found in await store.conversations(prefix=prefix, limit=limit)]


class CatalogueContract:
    """A subclass gives the fixture `store`, empty."""

    async def test_conversations_are_listed_newest_first(self, store: Archive) -> None:
        """All of them, or the newest few, as they were opened."""
        for name in ("one", "two", "three"):
            await store.write(opening(name, group="g"))
        assert await _names(store) == ["three", "two", "one"]
        assert await _names(store, limit=2) == ["three", "two"]
        assert (await store.conversations())[0] == conversation("three", group="g")

    async def test_those_of_groups_may_be_left_out(self, store: Archive) -> None:
        """Without a prefix, and before the limit is counted; by a prefix they are found all the same."""
        await store.write(opening("one"))
        for name in ("g/1", "g/2", "g/3"):
            await store.write(opening(name, group="g"))
        assert [found.name for found in await store.conversations(grouped=False, limit=2)] == ["one"]
        assert len(await store.conversations(prefix="g/", grouped=False)) == 3

    async def test_a_prefix_finds_names_and_ids(self, store: Archive) -> None:
        """The beginning of a name or of an id finds; an exact name comes alone; nothing in a name is a wildcard."""
        for name in ("chat", "chat-2", "cha%", "other", "Chat", "ünï"):
            await store.write(opening(name))
        assert await _names(store, "cha") == ["cha%", "chat-2", "chat"]
        assert await _names(store, "chat") == ["chat"]
        assert await _names(store, "chat-") == ["chat-2"]
        assert await _names(store, "c-ch") == ["cha%", "chat-2", "chat"]
        assert await _names(store, "cha%") == ["cha%"]
        assert await _names(store, "%") == []
        assert await _names(store, "ün") == ["ünï"]

    async def test_a_conversation_is_found_by_id(self, store: Archive) -> None:
        """The id names one conversation, or none."""
        await store.write(opening())
        assert await store.conversation(ConversationId("c-demo")) == conversation("demo")
        assert await store.conversation(ConversationId("c-dem")) is None

    async def test_a_branch_is_found_by_ref(self, store: Archive) -> None:
        """A branch comes back as it was made; an unknown ref is None."""
        await store.write(opening())
        side = branch("demo", "side", agent="beta", parent="demo", at=1)
        await store.write(Batch(conversation=side.conversation, branches=(side,)))
        assert await store.branch(side.ref) == side
        assert await store.branch(ref("demo")) == branch("demo", "demo")
        assert await store.branch(ref("ghost")) is None

    async def test_seam_32_delegate_branches_are_hidden(self, store: Archive) -> None:
        """Branches come oldest first; those that delegations opened only when asked for."""
        await store.write(opening())
        await store.write(opening("other"))
        child = replace(branch("demo", "child", agent="beta"), delegate=thought("demo"))
        side = branch("demo", "side", parent="demo", at=2)
        for made in (child, side):
            await store.write(Batch(conversation=made.conversation, branches=(made,)))
        root = branch("demo", "demo")
        assert await store.branches(root.conversation) == [root, side]
        assert await store.branches(root.conversation, delegates=True) == [root, child, side]
        assert await store.branches(ConversationId("c-ghost")) == []

    async def test_failure_26_any_name_is_only_a_name(self, store: Archive) -> None:
        """Names with quotes, slashes, NUL, spaces, emoji or ten kilobytes are kept and found as they are."""
        names = ["'; DROP TABLE log; --", "../../etc/passwd", "a\0b", " spaced ", "🦉", "x" * 10_000]
        for number, name in enumerate(names):
            batch = opening(f"n{number}")
            assert batch.opens is not None
            await store.write(replace(batch, opens=replace(batch.opens, name=name)))
        for name in names:
            assert await _names(store, name) == [name]
        assert len(await _names(store)) == len(names)
