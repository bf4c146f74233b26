"""How a net is trained: the one set of options of the one training loop (train.loop)."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a net is trained. KL divergence as mixup makes labels soft, l2 by `weight_decay`.

    optimizer      "adam", or "sgd" with momentum 0.9 (P4)
    schedule       "cosine": one warm-up epoch, then a cosine to zero; "constant"; "steps": 0.91 times as much after every
                   200 batches, counted at the beginning of each epoch (P2); "restarts": cosines to a ten-thousandth (P4),
                   each twice as long as the one before, the first of 10 epochs (ours: the paper gives no lengths)
    cycles         of a "cosine" schedule, all equally long: after each the rate is back at `lr`, and a shorter training's
                   end is a point on the way of a longer one
    shares         of mixup: "beta", "uniform", "both" (P1), see train.augment.mixup; or "between": both sounds at once, as
                   loud as uniform shares say, see train.augment.between_class
    crops          "random": one stretch of each clip per epoch; "grid": every patch of each clip, P1's without overlap
    oversample     classes stand equally often in an epoch (P1)
    precision      of the net's forward pass: "float32", or "bfloat16" where the processor has units for it; weights and
                   Adam stay in float32
    roll           each patch begins at a random frame and goes on, round, from its end to its beginning
    mixstyle       chance of a batch to undergo Freq-MixStyle
    average        what is kept is the running average of the weights, with this decay per step; 0: the last step's
    vary_every     half of the patches are of a variation of the recording: at another speed, through another microphone and
                   room (train.waves); a new one after every so many epochs. 0: always the recording itself
    noise_share    stretches of made room noise or silence (train.waves) for each item of an epoch. The answer is
                   every class alike: an empty room leaves the net in doubt. Outlier exposure, Hendrycks 2019
    """

    epochs: int = 60
    batch_size: int = 8
    lr: float = 3e-3
    weight_decay: float = 1e-4
    gain_db: float = 6.0
    mixup_alpha: float = 0.3
    mask_frames: int = 16
    mask_bands: int = 12
    distill: float = 0.5  # weight of the teacher's opinion where there is a teacher
    temperature: float = 2.0
    seed: int = 0
    schedule: str = "cosine"
    shares: str = "beta"
    crops: str = "random"
    oversample: bool = False
    precision: str = "float32"
    roll: bool = False
    mixstyle: float = 0.0
    average: float = 0.0
    vary_every: int = 0
    optimizer: str = "adam"
    cycles: int = 1
    noise_share: float = 0.0

    def __post_init__(self):
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} {getattr(self, name)!r}: choose {', '.join(map(str, choices))}")
        for name, (low, high) in RANGES.items():
            value = getattr(self, name)
            if not low <= value <= high:  # NaN too
                raise ValueError(f"{name} {value}: choose {low} to {high}")
        if self.epochs % self.cycles:
            raise ValueError(f"{self.epochs} epochs are not {self.cycles} cycles of equal length")

    def to_json(self):
        """What tells this recipe apart; fields of LATER only where they are not at their default."""
        values = dataclasses.asdict(self)
        return {name: value for name, value in values.items() if name not in LATER or value != LATER[name]}


CHOICES = {
    "schedule": ("cosine", "constant", "steps", "restarts"),
    "shares": ("beta", "uniform", "both", "between"),
    "crops": ("random", "grid"),
    "oversample": (True, False),
    "precision": ("float32", "bfloat16"),
    "roll": (True, False),
    "optimizer": ("adam", "sgd"),
}
# Checkpoints are known by the JSON of their recipe: what came later must not change it.
LATER = {field.name: field.default for field in dataclasses.fields(Recipe)[11:]}
RANGES = {
    "epochs": (1, 100_000),
    "batch_size": (2, 4096),
    "lr": (1e-8, 1.0),
    "weight_decay": (0, 1),
    "gain_db": (0, 60),
    "mixup_alpha": (0, 100),
    "mask_frames": (0, 4096),
    "mask_bands": (0, 65536),
    "distill": (0, 1),
    "temperature": (0.01, 100),
    "seed": (0, 2**31 - 1),
    "mixstyle": (0, 1),
    "average": (0, 0.99999),
    "vary_every": (0, 100_000),
    "cycles": (1, 100_000),
    "noise_share": (0, 10),
}
