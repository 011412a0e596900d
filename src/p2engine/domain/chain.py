"""How records hold together: each link hashes the record and the link before it, and a Merkle tree stands on the links.

Pure. The tree is the one of RFC 9162, so a record can be proved by a path of hashes that tells nothing of the others.
Of a record itself a link takes what it shows as it is, and the rest by its hash: so the rest need not be shown.
"""

from collections.abc import Iterable, Sequence
from hashlib import sha256

START = bytes(32)  # what the first link continues

HIDDEN = b',"salt":"'
"""Where a record's hidden part begins: its salt, and whatever follows. No text within JSON reads so."""

_SHOWN_BYTES_MIN = 32  # the salt of a record of the first form stands before these, and such a record hides nothing

# To copy a hash that was begun costs half of beginning one.
_WHOLE, _NODE, _SHOWN, _REST = (sha256(begun).copy for begun in (b"\0", b"\1", b"\2", b""))


def link(before: bytes, body: bytes) -> bytes:
    """The link of a record, which is its leaf in the tree as well."""
    at = body.find(HIDDEN)
    if at < _SHOWN_BYTES_MIN:
        made = _WHOLE()
        made.update(before + body)
        return made.digest()
    rest, made = _REST(), _SHOWN()
    rest.update(body[at:])
    made.update(before + body[:at] + rest.digest())
    return made.digest()


def parted(body: bytes) -> tuple[bytes, bytes]:
    """What a record shows, and the hash of the rest of it; no hash for one of the first form, which shows all."""
    at = body.find(HIDDEN)
    return (body, b"") if at < _SHOWN_BYTES_MIN else (body[:at], sha256(body[at:]).digest())


def link_shown(before: bytes, shown: bytes, hidden: bytes) -> bytes:
    """As `link`, by the two of `parted`."""
    return sha256((b"\2" if hidden else b"\0") + before + shown + hidden).digest()


def node(left: bytes, right: bytes) -> bytes:
    made = _NODE()
    made.update(left + right)
    return made.digest()


class Peaks:
    """A Merkle tree that grows, kept as the roots of its complete subtrees, from the largest to the smallest."""

    def __init__(self, count: int = 0, peaks: Sequence[bytes] = ()) -> None:
        self.count = count
        self.peaks = list(peaks)

    @classmethod
    def from_bytes(cls, count: int, packed: bytes) -> "Peaks":
        return cls(count, [packed[start : start + 32] for start in range(0, len(packed), 32)])

    def __bytes__(self) -> bytes:
        return b"".join(self.peaks)

    def add(self, leaf: bytes) -> None:
        ones = self.count
        while ones & 1:  # each complete subtree of this size merges with the one before it
            made = _NODE()  # `node`, without the call
            made.update(self.peaks.pop() + leaf)
            leaf = made.digest()
            ones >>= 1
        self.peaks.append(leaf)
        self.count += 1

    @property
    def root(self) -> bytes:
        """The root over all leaves; START for none."""
        if not self.peaks:
            return START
        root = self.peaks[-1]
        for peak in reversed(self.peaks[:-1]):
            root = node(peak, root)
        return root


def path_of(leaves: Iterable[bytes], index: int) -> list[bytes]:
    """The hashes that lead from leaf `index` to the root of the tree over `leaves`."""
    level, path = list(leaves), []
    while len(level) > 1:
        beside = index ^ 1
        if beside < len(level):
            path.append(level[beside])
        pairs = [node(level[place], level[place + 1]) for place in range(0, len(level) - 1, 2)]
        level = pairs + level[len(level) - len(level) % 2 :]
        index >>= 1
    return path


def root_by(path: Sequence[bytes], leaf: bytes, index: int, count: int) -> bytes | None:
    """The root that the path leads to from a leaf; None for a path that fits no tree of `count` leaves."""
    if not 0 <= index < count:
        return None
    place, last, root = index, count - 1, leaf
    for beside in path:
        if last == 0:
            return None
        if place & 1 or place == last:
            root = node(beside, root)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            root = node(root, beside)
        place, last = place >> 1, last >> 1
    return root if last == 0 else None
