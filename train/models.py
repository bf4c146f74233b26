"""The architectures by name: a run's meta.json names one of these, never an import path."""

from train.attentive import AttentiveNet
from train.cnn7 import CNN7
from train.relevance import LearnedNet

MODELS = {"cnn7": CNN7, "learned": LearnedNet, "attentive": AttentiveNet}
