from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import AddedToken, Tokenizer, models
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from loratrack.errors import ConfigError
from loratrack.model.unseen_tokens import ROWS_AT_ONCE, check_stop_token, never_trained

SHARED = os.environ.get("LORATRACK_SHARED_DATA") or Path(__file__).parents[3] / "shared" / "data"
STORIES = Path(SHARED) / "stories260k"


def embedding() -> torch.Tensor:
    """200 rows, of which 7 and 150 are nearly the same, and 9 is zero."""
    rows = torch.randn(200, 32, generator=torch.Generator().manual_seed(0))
    rows[150] = 3 * rows[7] + 0.01
    rows[9] = 0
    return rows


def test_rows_that_are_like_another_or_zero_were_never_trained() -> None:
    assert ROWS_AT_ONCE < 200
    assert never_trained(embedding(), range(200)) == [7, 9, 150]
    assert never_trained(embedding().bfloat16(), [150, 8]) == [150]
    assert never_trained(embedding(), []) == []


def tokenizer() -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.WordLevel({f"w{number}": number for number in range(7)}, unk_token="w0"))
    backend.add_special_tokens([AddedToken(name, special=True) for name in ("</s>", "<|end|>", "<|zero|>")])
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")


def test_a_stop_token_that_the_base_never_saw_is_refused_with_those_it_knows() -> None:
    check_stop_token(embedding(), 8, tokenizer())
    with pytest.raises(ConfigError) as error:
        check_stop_token(embedding(), 7, tokenizer())
    assert str(error.value) == (
        "stop token '</s>': this base was never trained on it (its row of the embedding is another's too) "
        "and the model would not stop; stop at one that it knows (data.stop_token: '<|end|>'), or train "
        "its row (model.lora.train_tokens: ['</s>'])"
    )


def test_where_no_control_token_is_known_its_row_is_to_be_trained() -> None:
    rows = embedding()
    rows[8] = rows[7]
    with pytest.raises(ConfigError, match=r"would not stop; train its row \(model\.lora\.train_tokens"):
        check_stop_token(rows, 7, tokenizer())


@pytest.mark.skipif(not STORIES.exists(), reason="the base is not on this machine")
def test_a_real_base_knows_the_token_that_its_pretraining_put_between_texts() -> None:
    rows = load_file(STORIES / "model.safetensors")["model.embed_tokens.weight"]
    stories = AutoTokenizer.from_pretrained(STORIES)
    check_stop_token(rows, stories.bos_token_id, stories)
    with pytest.raises(ConfigError, match=r"stop token '</s>'.*data\.stop_token: '<s>'"):
        check_stop_token(rows, stories.eos_token_id, stories)
