"""The tensor arena of TensorFlow Lite for Microcontrollers, planned as its greedy planner does: largest buffer first.

Every activation lies in one block of memory for as long as it is needed. The block can come out larger than the largest
sum of live tensors: buffers leave gaps that nothing fits into. Scratch of optimised kernels comes on top.
"""

from dataclasses import dataclass

from devices.graph import Graph

ALIGNMENT = 16  # bytes: TFLM's kBufferAlignment


@dataclass(frozen=True)
class Placed:
    """A tensor's place: offset and size in bytes, the first and last operator that need it (-1: before the first)."""

    name: str
    offset: int
    size: int
    first: int
    last: int


def plan(graph: Graph) -> list[Placed]:
    """-> every activation's place, in the order in which they were placed."""
    spans = _spans(graph)
    sizes = {name: -(-graph.tensors[name].bytes // ALIGNMENT) * ALIGNMENT for name in spans}
    placed: list[Placed] = []
    # Only what is needed at the same time can be in the way. Looked up by operator (index 0: before the first), or a
    # graph of thousands of operators takes minutes.
    needed: list[list[Placed]] = [[] for _ in range(len(graph.nodes) + 1)]
    starting: list[list[Placed]] = [[] for _ in range(len(graph.nodes) + 1)]
    for name in sorted(reversed(spans), key=lambda name: -sizes[name]):  # of equal ones the file's last comes first
        first, last = spans[name]
        others = needed[first + 1] + [other for later in starting[first + 2 : last + 2] for other in later]
        offset = 0
        for other in sorted(others, key=lambda other: other.offset):
            if other.offset - offset >= sizes[name]:
                break
            offset = max(offset, other.offset + other.size)
        place = Placed(name, offset, sizes[name], first, last)
        placed.append(place)
        starting[first + 1].append(place)
        for at in range(first + 1, last + 2):
            needed[at].append(place)
    return placed


def head_bytes(graph: Graph) -> int:
    """What the arena needs for activations: tflite-micro's "head"."""
    return max((place.offset + place.size for place in plan(graph)), default=0)


def _spans(graph: Graph) -> dict[str, tuple[int, int]]:
    """Activation -> the first and the last operator that need it, in the order of the file's tensors."""
    spans: dict[str, tuple[int, int]] = {name: (-1, -1) for name in graph.inputs}
    for i, node in enumerate(graph.nodes):
        for name in (*node.inputs, *node.outputs):
            if name and graph.tensors[name].data is None:
                spans[name] = (spans.get(name, (i, i))[0], i)
    for name in graph.outputs:
        if name in spans:
            spans[name] = (spans[name][0], len(graph.nodes) - 1)
    order = {name: i for i, name in enumerate(graph.tensors)}
    return dict(sorted(spans.items(), key=lambda item: order[item[0]]))
