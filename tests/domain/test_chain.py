"""Links and trees: every record can be proved by a path, and no other can."""

from hypothesis import given
from hypothesis import strategies as st

from p2engine.domain.chain import START, Peaks, link, node, path_of, root_by


def _links(count: int) -> list[bytes]:
    links = [START]
    for number in range(count):
        links.append(link(links[-1], str(number).encode()))
    return links[1:]


def _root(leaves: list[bytes]) -> bytes:
    """RFC 9162, 2.1.1, as it is written there."""
    if len(leaves) == 1:
        return leaves[0]
    cut = 1 << (len(leaves) - 1).bit_length() - 1
    return node(_root(leaves[:cut]), _root(leaves[cut:]))


@given(st.integers(min_value=1, max_value=70))
def test_peaks_give_the_root_of_the_tree(count: int) -> None:
    """A tree that grew leaf by leaf, packed and unpacked on the way, has the root that the RFC defines."""
    leaves, peaks = _links(count), Peaks()
    for leaf in leaves:
        peaks.add(leaf)
        peaks = Peaks.from_bytes(peaks.count, bytes(peaks))
    assert peaks.root == _root(leaves)


@given(st.integers(min_value=1, max_value=70), st.data())
def test_a_path_proves_its_leaf_and_no_other(count: int, data: st.DataObject) -> None:
    """The path of a leaf leads to the root; another leaf, place, count or a changed path does not."""
    leaves = _links(count)
    index = data.draw(st.integers(min_value=0, max_value=count - 1))
    path = path_of(leaves, index)
    root = _root(leaves)
    assert root_by(path, leaves[index], index, count) == root
    assert root_by(path, link(START, b"other"), index, count) != root
    assert root_by([*path, START], leaves[index], index, count) != root
    if count > 1:
        assert root_by(path, leaves[index], (index + 1) % count, count) != root
        assert root_by(path[:-1], leaves[index], index, count) != root
    assert root_by(path, leaves[index], count, count) is None


def test_links_depend_on_all_before() -> None:
    """The same record after another history is another link."""
    assert link(START, b"x") != link(link(START, b"y"), b"x")
