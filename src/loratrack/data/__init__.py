"""Files to examples to tokens; labels; splits; the token cache."""

from loratrack.data import cache
from loratrack.data.labelled.corpus import Corpus, Examples, read
from loratrack.data.labelled.dataset import Dataset, Encoded, encode
from loratrack.data.labelled.labels import LabelMap, TaskLabels
from loratrack.data.texts import read_texts
from loratrack.data.tokens import Tokenizer, Tokens, encode_texts, prepare_texts

__all__ = [
    "Corpus",
    "Dataset",
    "Encoded",
    "Examples",
    "LabelMap",
    "TaskLabels",
    "Tokenizer",
    "Tokens",
    "cache",
    "encode",
    "encode_texts",
    "prepare_texts",
    "read",
    "read_texts",
]
