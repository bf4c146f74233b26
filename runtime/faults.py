"""What went wrong since a stream began: counted where it happens, carried in every event, never hidden."""

import dataclasses


@dataclasses.dataclass
class Faults:
    """Counts of occurrences; names that end in _samples or _s count those. One outage is one occurrence."""

    overruns: int = 0  # sound that came faster than it was taken
    restarts: int = 0  # the device went away and came back
    rate_changes: int = 0  # it came back with another sample rate, or delivers another than it says
    lost_samples: int = 0  # at the source's rate, in all three
    late_windows: int = 0  # decisions more than a hop behind the sound
    bad_bursts: int = 0  # runs of blocks that hold NaN, infinities or absurd values, replaced by silence
    bad_samples: int = 0
    clipped_samples: int = 0  # in runs of three and more at full scale
    silent_s: float = 0.0  # digital silence: no microphone that is on delivers it
    missing_samples: int = 0  # a cut-off file announces and lacks them
    unsent: dict[str, int] = dataclasses.field(default_factory=dict)  # output -> events that never left

    def counts(self) -> dict[str, float]:
        """What is not zero; `unsent` as unsent_NAME."""
        values = {name: value for name, value in vars(self).items() if name != "unsent"}
        values |= {f"unsent_{name}": n for name, n in self.unsent.items()}
        return {name: value for name, value in values.items() if value}
