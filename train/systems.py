"""What `python -m train NAME` can train: each system's paper, its sizes, and the paper's own patches and recipe.

Where a paper leaves something open, such as the alpha of mixup, the value is ours: Recipe's default.
"""

import dataclasses

from train import attentive, cnn7, relevance
from train.features import PatchShape, Stack
from train.recipe import Recipe


@dataclasses.dataclass(frozen=True)
class System:
    about: str  # paper, what it is, parameters with 10 classes (one spectrogram where not said otherwise)
    shapes: dict  # name -> arguments of the net; "full" is the paper's
    patch: PatchShape
    recipe: Recipe
    follows: tuple = ()  # arguments of the net that its input gives: bands, n_features, n_frames, sr

    @property
    def fuses(self):
        """Whether it takes several spectrograms at once."""
        return "bands" in self.follows


FULL_AND_SMALL = {"full": {}, "small": {"width": 0.25}}  # small: scaled down for training on a CPU, no paper's net

# 128 x 128 patches without overlap, all of them in every epoch; Adam at 1e-4, batches of 50, both mixups, KL + l2
P1_PATCH = PatchShape(128, 128, "static")
P1_RECIPE = Recipe(
    epochs=100, batch_size=50, lr=1e-4, weight_decay=1e-4, gain_db=0.0, mask_frames=0, mask_bands=0,
    schedule="constant", shares="both", crops="grid", oversample=True,
)  # fmt: skip
# Whole clips: 10 s at a hop of 512 are 862 frames. 12,000 batches of 64 are 55 epochs of TAU 2020's 13,962 clips.
P2_PATCH = PatchShape(862, 862, "static")
P2_RECIPE = Recipe(
    epochs=55, batch_size=64, lr=1e-3, weight_decay=0.0, gain_db=0.0, mask_frames=0, mask_bands=0, schedule="steps"
)
P0_RECIPE = Recipe(
    epochs=10, batch_size=100, lr=1e-3, weight_decay=5e-3, gain_db=0.0, mixup_alpha=0.0, mask_frames=0, mask_bands=0,
    schedule="constant",
)  # fmt: skip
# SGD, cosine warm restarts from 0.1; the net masks what its filters give. 70 epochs are three cosines.
P4_RECIPE = Recipe(epochs=70, lr=0.1, mask_frames=0, mask_bands=0, optimizer="sgd", schedule="restarts")

SYSTEMS = {
    "cnn7": System(
        "P3, Table I, six 3x3 convolutions, 288,934 parameters; cr, cr+dc: compressed; deployed: what ships",
        {
            "full": {"widths": cnn7.WIDTHS_FULL, "order": "paper"},
            "cr": {"widths": cnn7.WIDTHS_CR, "order": "paper"},
            "cr+dc": {"widths": cnn7.WIDTHS_CR, "decomposed": True, "order": "paper"},
            "deployed": {"widths": cnn7.WIDTHS_DEPLOYED, "decomposed": True, "dropout": 0.0},
        },
        PatchShape(),
        Recipe(),
    ),
    "cpmobile": System(
        "DCASE 2023, CP-Mobile (Schmid et al.) without GRN, inverted bottlenecks, 127,084 parameters",
        {"full": {}, "small": {"width": 0.44}},
        PatchShape(),
        Recipe(),
    ),
    "bcresnet": System(
        "BC-ResNet-8 (Kim et al. 2021) with BN and ReLU, broadcast residuals, 315,178 parameters",
        {"full": {}, "small": {"width": 0.22}},
        PatchShape(),
        Recipe(),
    ),
    "cdnn": System(
        "P1, C-DNN, six convolutions from 9x9 to 3x3 and FC layers, 2,271,820 parameters",
        FULL_AND_SMALL,
        P1_PATCH,
        P1_RECIPE,
    ),
    "crnn": System(
        "P1, C-RNN, convolutions along frequency and a GRU along time, 898,860 parameters",
        FULL_AND_SMALL,
        P1_PATCH,
        P1_RECIPE,
    ),
    "joint": System(
        "P1, joint network, both of them on the same patch, 4,798,830 parameters", FULL_AND_SMALL, P1_PATCH, P1_RECIPE
    ),
    "vgg": System(
        "P2, Task 1A, eight 3x3 convolutions on whole clips, 4,953,930 parameters",
        FULL_AND_SMALL,
        P2_PATCH,
        P2_RECIPE,
        follows=("bands",),
    ),
    "tinyvgg": System(
        "P2, Task 1B, four convolutions on whole clips, 122,434 parameters",
        FULL_AND_SMALL,
        P2_PATCH,
        P2_RECIPE,
        follows=("bands",),
    ),
    "attentive": System(
        "P0, convolutions that features share, attentive and bilinear fusion, 386,216 parameters with three features",
        attentive.SHAPES,
        PatchShape(128, 128, "static"),  # the paper's segments contradict its clips
        P0_RECIPE,
        follows=("bands", "n_features", "n_frames"),
    ),
    "learned": System(
        "P4, learned filters on raw frames, relevance heads, nine convolutions or a CNN-LSTM, 11,743,904 parameters",
        relevance.SHAPES,
        PatchShape(431, 431, "frames"),  # 10 s at a hop of 1024; 423 frames behind the deltas
        P4_RECIPE,
        follows=("sr",),
    ),
}


def arguments(name, shape, frontend, patch, given=()):
    """-> the net's arguments apart from n_classes: its shape's, what follows from the input, and `given` over both.

    frontend: a Frontend or a Stack. Raises ValueError for an unknown shape, or several spectrograms for a net of one.
    """
    system = SYSTEMS[name]
    if shape not in system.shapes:
        raise ValueError(f"shape {shape!r}: {name} comes as {', '.join(system.shapes)}")
    bands = frontend.bands if isinstance(frontend, Stack) else None
    if bands and not system.fuses:
        fusing = ", ".join(other for other, it in SYSTEMS.items() if it.fuses)
        raise ValueError(
            f"{name} hears one spectrogram, not {len(bands)}: train one run each and fuse them with "
            f"python -m train.fuse, or take {fusing}"
        )
    n_features = len(bands or [0]) * (3 if patch.planes == "deltas" else 1)
    facts = {"bands": bands, "n_features": n_features, "n_frames": patch.n_frames, "sr": frontend.sr}
    known = {fact: facts[fact] for fact in system.follows if facts[fact] is not None}
    return system.shapes[shape] | known | dict(given)


def described():
    """The systems as lines for --help."""
    lines = [f"  {name:9} {system.about} [--shape {', '.join(system.shapes)}]" for name, system in SYSTEMS.items()]
    small = "small: ours, scaled down to train on a CPU; cpmobile and bcresnet: to the bytes of cnn7 deployed, in int8"
    return "\n".join(["systems:", *lines, "", small])
