"""The text that the model is trained on: sums in words, drawn from a fixed seed, and a tokenizer of one token a byte.

All of it is made here, so that nothing is downloaded. Importing this module loads nothing heavy.
"""

import json
import random
from pathlib import Path

_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_LINES_A_DOCUMENT = 100
# The train split and the validation split: their file, their seed and their documents, of about 2300 bytes each.
_SPLITS = {"train": (1, 100), "validation": (2, 10)}


def write_text(folder: str) -> None:
    """Write train.jsonl, validation.jsonl and the folder tokenizer/ there, in the formats that Levanter reads."""
    for split, (seed, documents) in _SPLITS.items():
        drawn = random.Random(seed)
        lines = [json.dumps({"text": _document(drawn)}) for _ in range(documents)]
        _write(Path(folder, f"{split}.jsonl"), "\n".join(lines))

    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    bytes_ = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={byte: number for number, byte in enumerate(bytes_)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    _write(Path(folder, "tokenizer", "tokenizer.json"), tokenizer.to_str())
    _write(Path(folder, "tokenizer", "tokenizer_config.json"), '{"tokenizer_class": "PreTrainedTokenizerFast"}')


def _document(drawn: random.Random) -> str:
    pairs = [(drawn.randrange(10), drawn.randrange(10)) for _ in range(_LINES_A_DOCUMENT)]
    return "".join(f"{_WORDS[a]} plus {_WORDS[b]} is {a + b}.\n" for a, b in pairs)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
