"""The architectures by name: a run's meta.json names one of these, never an import path."""

import functools

from train.attentive import AttentiveNet
from train.bcresnet import BCResNet
from train.cdnn import CDNN
from train.cnn7 import CNN7
from train.cpmobile import CPMobile
from train.crnn import CRNN
from train.joint import Joint
from train.relevance import LearnedNet
from train.strategies import Strategies
from train.vgg import VGG, TinyVGG

NETS = {
    "cnn7": CNN7, "cdnn": CDNN, "crnn": CRNN, "joint": Joint, "vgg": VGG, "tinyvgg": TinyVGG, "attentive": AttentiveNet,
    "learned": LearnedNet, "cpmobile": CPMobile, "bcresnet": BCResNet,
}  # fmt: skip
MODELS = {**NETS, "strategies": functools.partial(Strategies, NETS)}
