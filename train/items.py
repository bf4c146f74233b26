"""What an epoch goes through: recordings or all their patches, variations of them, noises, and the answer to each."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from train import augment
from train.features import looped
from train.workers import counted


class Items:
    """Recordings, or all their patches, and noises, by number: the noises after the others.

    statics, noises: (bands, frames) each; targets, opinions, varied: see train.loop.fit. `n` of them are heard in an epoch;
    begin(epoch) comes before its order(). Raises ValueError for a recipe that does not fit them.
    """

    def __init__(self, statics, targets, n_labels, patch, recipe, *, opinions=None, varied=None, noises=()):
        self.patch, self.recipe, self.noises = patch, recipe, noises
        self.targets, opinions = torch.as_tensor(targets), None if opinions is None else torch.as_tensor(opinions)
        if recipe.oversample and self.several_labels:
            raise ValueError(
                "oversample: recordings with several labels have no class to be made as frequent as the others"
            )
        if recipe.noise_share and not len(noises):
            raise ValueError(
                f"noise_share {recipe.noise_share} of no noises: give some, such as train.trainer.made_noises"
            )
        self.data = statics  # read from disk one by one where they come from train.features
        if recipe.crops == "grid":
            if recipe.vary_every:
                raise ValueError(
                    "vary_every takes random crops: with a grid of patches each recording was cut up before"
                )
            self.data = Grid(statics, patch)
            self.targets = self.targets[self.data.clips]
            opinions = None if opinions is None else opinions[self.data.clips]
        self.n = round((1 + recipe.noise_share) * len(self.data))
        self.goals = goals(self.targets, opinions, len(noises), n_labels, recipe.temperature)
        self._varied, self.variations = varied, {}  # spectrograms of recordings by number, of those that have one
        self._due, self._coming = None, ()  # the variations of the next epoch, and their spectrograms

    @property
    def several_labels(self):
        return self.targets.ndim == 2

    def begin(self, epoch):
        """Take up the variations due in this epoch and ask for those of the next."""
        if self._due is None:
            self._due = due(len(self.data), epoch, self.recipe, all_of_them=True)
            if self._due:  # training waits for these
                self._coming = counted(self._varied(self._due), len(self._due), "variations")
        self.variations.update((i, static) for static, (i, _) in zip(self._coming, self._due))
        self._due = due(len(self.data), epoch + 1, self.recipe)
        self._coming = self._varied(self._due) if self._due else ()

    def order(self):
        """-> numbers of an epoch's items, shuffled: the data, each once or each class as often as another, and noises."""
        numbers = augment.oversampled(self.targets) if self.recipe.oversample else torch.randperm(len(self.data))
        if not self.recipe.noise_share:
            return numbers
        some = torch.randint(len(self.noises), (round(self.recipe.noise_share * len(numbers)),))
        numbers = torch.cat([numbers, len(self.data) + some])
        return numbers[torch.randperm(len(numbers))]

    def patches(self, numbers, device):
        """Item numbers -> a random patch of each, (batch, planes, frames, bands) on the device, and goals: see `patches`."""
        n_data = len(self.data)
        statics = [self.data[i] if i < n_data else self.noises[i - n_data] for i in numbers.tolist()]
        if self.recipe.vary_every:
            vary = (torch.rand(len(numbers)) < 0.5).tolist()
            statics = [self.variations.get(i, s) if v else s for i, v, s in zip(numbers.tolist(), vary, statics)]
        statics = [torch.from_numpy(looped(static, self.patch.n_static)) for static in statics]
        return patches(statics, self.goals[numbers].to(device), self.patch, self.recipe)


class Grid(Sequence):
    """Every patch of each (bands, frames) spectrogram as an item of its own, (bands, n_static); `clips`: whose it is."""

    def __init__(self, statics, patch):
        self.statics, self.n_static, self.clips, self.starts = statics, patch.n_static, [], []
        for clip, static in enumerate(statics):
            starts = range(0, looped(static, patch.n_static).shape[1] - patch.n_static + 1, patch.stride)
            self.starts += starts
            self.clips += [clip] * len(starts)

    def __len__(self):
        return len(self.clips)

    def __getitem__(self, i):
        start = self.starts[i]
        return looped(self.statics[self.clips[i]], self.n_static)[:, start : start + self.n_static]


def due(n_recordings, epoch, recipe, all_of_them=False):
    """-> (recording, variation) of those whose turn it is to vary anew; or of all that vary in this epoch.

    Recording i has variation (epoch + i % every) // every, 0 being itself: so each epoch costs the same.
    """
    every = recipe.vary_every
    if not every or epoch >= recipe.epochs:
        return []
    turns = [(i, epoch + i % every) for i in range(n_recordings)]
    return [(i, turn // every) for i, turn in turns if turn >= every and (all_of_them or turn % every == 0)]


def goals(targets, opinions, n_noises, n_labels, temperature):
    """-> (items, labels, and once more labels where there are opinions): what the net should answer to data and noises.

    To noise: none of several labels, and one class as much as another.
    """
    several = targets.ndim == 2
    answers = targets.float() if several else F.one_hot(targets, n_labels).float()
    answers = torch.cat([answers, torch.full((n_noises, n_labels), 0.0 if several else 1 / n_labels)])
    if opinions is None:
        return answers
    opinions = torch.cat([opinions, torch.zeros(n_noises, n_labels)])
    return torch.cat([answers, F.softmax(opinions / temperature, 1)], dim=1)  # side by side: mixup mixes both


def patches(statics, goal, patch, recipe):
    """A random stretch of each clip, louder or quieter, mixed with another -> (batch, planes, frames, bands), its goal."""
    raw = patch.planes == "frames"
    crops = augment.random_crops(statics, patch.n_static, raw).to(goal.device)
    if recipe.roll:
        crops = augment.random_roll(crops)
    crops = augment.random_gain(crops, recipe.gain_db, raw)
    if recipe.shares == "between":
        crops, goal = augment.between_class(crops, goal, raw)
    elif recipe.mixup_alpha and len(crops) > 1:
        crops, goal = augment.mixup(crops, goal, recipe.mixup_alpha, recipe.shares)
    if patch.quietest_db is not None:
        crops = augment.relative(crops, patch.quietest_db)
    return augment.planes_of(crops, patch.planes), goal
