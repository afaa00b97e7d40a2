"""Rows with labels: read, checked and split (`read`), then encoded through the token cache (`encode`)."""

from loratrack.data.labelled.corpus import Corpus, Examples, read
from loratrack.data.labelled.dataset import Dataset, Encoded, encode
from loratrack.data.labelled.labels import LabelMap, TaskLabels

__all__ = ["Corpus", "Dataset", "Encoded", "Examples", "LabelMap", "TaskLabels", "encode", "read"]
