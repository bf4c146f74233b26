"""RAM if layers were fused: what is left where no convolution's output is kept that only a pool or activation reads.

A runtime that runs a convolution and what stands behind it as one, row by row, keeps the input and the last output. Parts
of a concatenation are written where they belong, slices are views. Line buffers come on top: a few rows.
"""

from collections.abc import Mapping, Sequence, Set
from itertools import accumulate

from devices.graph import Graph, Node
from devices.ops import known

_CONVOLUTIONS = {"CONV_2D", "DEPTHWISE_CONV_2D", "Conv", "QLinearConv"}
_PARTS = {"CONCATENATION", "Concat", "QLinearConcat"}
_BEHIND = _PARTS | set(
    "MAX_POOL_2D AVERAGE_POOL_2D RELU RELU6 LEAKY_RELU HARD_SWISH LOGISTIC TANH MaxPool AveragePool Relu LeakyRelu Clip "
    "HardSwish Sigmoid Tanh BatchNormalization QLinearAveragePool QLinearLeakyRelu QLinearSigmoid".split()
)
_VIEWS = set(
    "SPLIT SPLIT_V SLICE RESHAPE SQUEEZE EXPAND_DIMS Split Slice Reshape Flatten Squeeze Unsqueeze Identity Dropout".split()
)


def peak_bytes(nodes: Sequence[Node], graph: Graph, stored: Set[str], homes: Mapping[str, str]) -> int:
    """Largest sum of live activations. stored: names of constants. homes: tensors that live in another one's memory."""
    homes = dict(homes)
    run: list[Node] = []
    for node in nodes:
        given = [homes.get(name, name) for name in node.inputs if name and name not in stored]
        if node.op in _VIEWS:
            homes.update(dict.fromkeys(node.outputs, given[0]))
        elif given != [homes.get(node.outputs[0], node.outputs[0])]:  # not a Dequantize or Quantize within an operator
            run.append(node)

    def at_home(names: Sequence[str]) -> set[str]:
        return {homes.get(name, name) for name in names if name and name not in stored}

    kept = at_home(graph.outputs)
    groups = _groups(run, [at_home(node.inputs) for node in run], [at_home(node.outputs) for node in run], kept)
    spans: dict[str, tuple[int, int]] = {name: (0, 0) for name in at_home(graph.inputs)}
    for at, (read, made) in enumerate(groups):
        for name in read | made:
            spans[name] = (spans.get(name, (at, at))[0], at)
    changes = [0] * (len(groups) + 2)
    for name, (first, last) in spans.items():
        size = known(name, graph.tensors, "fused").bytes
        changes[first] += size
        changes[len(groups) + 1 if name in kept else last + 1] -= size
    return max(accumulate(changes))


def _groups(
    run: Sequence[Node], read: Sequence[set[str]], made: Sequence[set[str]], kept: Set[str]
) -> list[tuple[set[str], set[str]]]:
    """Operators that run as one -> what each group reads and makes for others, in the order of execution."""
    readers: dict[str, set[int]] = {}
    for i, names in enumerate(read):
        for name in names:
            readers.setdefault(name, set()).add(i)
    leader = list(range(len(run)))  # a group runs where its last operator stands
    for i in reversed(range(len(run))):
        behind = set().union(*(readers.get(name, set()) for name in made[i]))
        if run[i].op in _CONVOLUTIONS | _BEHIND and len(behind) == 1 and not made[i] & kept:
            (j,) = behind
            leader[i] = leader[j] if run[j].op in _BEHIND else i
    members: dict[int, list[int]] = {}
    for i, first in enumerate(leader):
        members.setdefault(first, []).append(i)
    groups = []
    for i, inside in sorted(members.items()):
        passed = {name for k in inside if k != i for name in made[k]}
        groups.append((set().union(*(read[k] for k in inside)) - passed, made[i]))
    return groups
