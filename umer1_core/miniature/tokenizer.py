"""The byte-level BPE that teacher and student both learn from their texts: every digit a token of its own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

_MAX_LENGTH = 4096


def learn_tokenizer(
    texts: Iterable[str],
    vocabulary: int,
    special: Sequence[str],
    plain: Sequence[str],
    media_tokens: tuple[str, str],
    end: str,
    chat_template: str,
) -> PreTrainedTokenizerFast:
    """Learn `vocabulary` entries; the same texts give the same file.

    special: vanish from decoded text; plain: whole tokens that stay in it (the tags must); media_tokens: the
    placeholders of an image and of a video; end: closes an assistant's turn.
    """
    learned = Tokenizer(models.BPE())
    digits = pre_tokenizers.Digits(individual_digits=True)
    learned.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    learned.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(special),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    learned.train_from_iterator(texts, trainer)
    learned.add_tokens([AddedToken(text, special=False, normalized=False) for text in plain])
    return PreTrainedTokenizerFast(
        tokenizer_object=learned,
        eos_token=end,
        pad_token="<|endoftext|>",
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=_MAX_LENGTH,
        extra_special_tokens={"image_token": media_tokens[0], "video_token": media_tokens[1]},
        chat_template=chat_template,
    )
