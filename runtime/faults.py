"""What went wrong since a stream began: counted where it happens, carried in every event, never hidden."""

import dataclasses

_WORDS = {
    "overruns": "times sound came faster than it was taken",
    "restarts": "times the device went away and came back",
    "rate_changes": "times the sample rate was not the one announced",
    "lost_samples": "samples lost",
    "late_windows": "decisions more than a hop late",
    "bad_bursts": "bursts of broken values",
    "bad_samples": "NaN, infinite or absurd samples",
    "clipped_samples": "clipped samples: the input is too loud",
    "silent_samples": "samples of digital silence: nothing was recorded, or a microphone is muted",
    "missing_samples": "samples missing at the end: the file was cut off",
}


@dataclasses.dataclass
class Faults:
    """Counts of occurrences; names that end in _samples count those, at the source's rate. One outage is one occurrence."""

    overruns: int = 0  # sound that came faster than it was taken
    restarts: int = 0  # the device went away and came back
    rate_changes: int = 0  # it came back with another sample rate, or delivers another than it says
    lost_samples: int = 0  # in all three
    late_windows: int = 0  # decisions more than a hop behind the sound
    bad_bursts: int = 0  # runs of blocks that hold NaN, infinities or absurd values, replaced by silence
    bad_samples: int = 0
    clipped_samples: int = 0  # in runs of three and more at full scale
    silent_samples: int = 0  # in whole blocks of digital silence: no microphone that is on delivers it
    missing_samples: int = 0  # a cut-off file announces and lacks them
    unsent: dict[str, int] = dataclasses.field(default_factory=dict)  # output -> events that never left

    def counts(self) -> dict[str, int]:
        """What is not zero; `unsent` as unsent_NAME."""
        values = {name: value for name, value in vars(self).items() if name != "unsent"}
        values |= {f"unsent_{name}": n for name, n in self.unsent.items()}
        return {name: value for name, value in values.items() if value}

    def sentences(self) -> list[str]:
        """What is not zero, in words."""
        said = [f"{n} {_WORDS[name]}" for name, n in self.counts().items() if name in _WORDS]
        return said + [f"{n} events never left by {name}" for name, n in self.unsent.items() if n]
