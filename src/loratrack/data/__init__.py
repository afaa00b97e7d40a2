"""From files to examples to tokens.

Here lies what every kind of data shares: decoding, tables, tokens and the token cache. What the examples are
is the matter of a room of its own: `labelled` has rows with labels.
"""

from loratrack.data import cache
from loratrack.data.labelled import (
    Corpus,
    Dataset,
    Encoded,
    Examples,
    LabelMap,
    TaskLabels,
    encode,
    read,
)
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
