"""Folders of transformers with tiny models of chance in them: a BERT, a CLIP, a SmolVLM, an Idefics3, a Qwen2-VL.

Words are whole pieces, from a vocabulary that is written here; the configurations are the real classes', shrunk.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_LINES = (
    "a the dog cat man runs sits on grass bench red two and picture caption of write this in one sentence",
    "user assistant photo depicts : . ,",
)
WORDS = [word for line in _LINES for word in line.split()]
FRAME = 16
SMOL_MARKS = ["<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>"] + [
    f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5)
]
QWEN_MARKS = ["<|vision_start|>", "<|image_pad|>", "<|vision_end|>", "<|im_start|>", "<|im_end|>"]
SMOL_CHAT = (
    "{% for m in messages %}{{ m['role'] }} : {% for part in m['content'] %}{% if part['type'] == 'image' %}<image>"
    "{% else %} {{ part['text'] }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}assistant :{% endif %}"
)
QWEN_CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for part in m['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}"
    "{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tokenizer(
    folder: Path,
    *,
    marks: Sequence[str] = (),
    chat: str | None = None,
    framed: tuple[str, str] | None = None,
    **named: str,
) -> Any:
    """Writes one; ``named``: ``eos_token`` and such. ``framed``: marks that open and close every text."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    every = dict.fromkeys(["[PAD]", "[UNK]", *marks, *named.values(), *(framed or ()), *WORDS])
    ids = {word: number for number, word in enumerate(every)}
    made = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    if framed:
        made.post_processor = processors.TemplateProcessing(
            single=f"{framed[0]} $A {framed[1]}", special_tokens=[(mark, ids[mark]) for mark in framed]
        )
    found = PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token="[PAD]",
        unk_token="[UNK]",
        additional_special_tokens=list(dict.fromkeys([*marks, *(framed or ())])),
        chat_template=chat,
        **named,
    )
    found.save_pretrained(str(folder))
    return found


def _save(made: Any, folder: Path, seed: int, config: Any) -> Path:
    import torch

    from taglens.models.transformers_folders import hushed

    torch.manual_seed(seed)
    model = made(config)
    with torch.no_grad():
        for value in model.parameters():
            # Initial weights are so small that every state is nearly the same.
            if value.ndim > 1:
                value.mul_(8.0)
    with hushed():
        model.save_pretrained(str(folder))
    return folder


def bert(folder: Path, *, kind: str = "bert", layers: int = 3, seed: int = 0) -> Path:
    import transformers

    words = tokenizer(
        folder, framed=("[CLS]", "[SEP]"), cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]"
    )
    name = {"bert": "Bert", "roberta": "Roberta", "distilbert": "DistilBert"}[kind]
    config = getattr(transformers, f"{name}Config")(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=20,
        pad_token_id=words.pad_token_id,
    )
    return _save(getattr(transformers, f"{name}Model"), folder, seed, config)


def clip(folder: Path, *, seed: int = 0) -> Path:
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

    words = tokenizer(folder, framed=("<s>", "</s>"), bos_token="<s>", eos_token="</s>")
    side = {"height": FRAME, "width": FRAME}
    CLIPImageProcessorPil(size={"shortest_edge": FRAME}, crop_size=side).save_pretrained(str(folder))
    small = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = CLIPConfig(
        text_config={
            **small,
            "vocab_size": len(words),
            "max_position_embeddings": 12,
            "eos_token_id": words.eos_token_id,
            "bos_token_id": words.bos_token_id,
            "pad_token_id": words.pad_token_id,
        },
        vision_config={**small, "image_size": FRAME, "patch_size": 8},
        projection_dim=8,
    )
    return _save(CLIPModel, folder, seed, config)


def smolvlm(folder: Path, *, kind: str = "smolvlm", chat: bool = True, seed: int = 0) -> Path:
    import transformers

    names = {"smolvlm": "SmolVLM", "idefics3": "Idefics3"}
    name = names[kind]
    words = tokenizer(
        folder,
        marks=SMOL_MARKS,
        chat=SMOL_CHAT if chat else None,
        eos_token="<end_of_utterance>",
        bos_token="<|im_start|>",
    )
    processor = getattr(transformers, f"{name}ImageProcessorPil")
    processor(size={"longest_edge": 2 * FRAME}, max_image_size={"longest_edge": FRAME}).save_pretrained(
        str(folder)
    )
    config = getattr(transformers, f"{name}Config")(
        text_config={
            "model_type": "llama",
            "vocab_size": len(words),
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "max_position_embeddings": 256,
            "pad_token_id": words.pad_token_id,
            "eos_token_id": words.eos_token_id,
            "bos_token_id": words.bos_token_id,
        },
        vision_config={
            "hidden_size": 12,
            "intermediate_size": 24,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": FRAME,
            "patch_size": 4,
        },
        image_token_id=words.convert_tokens_to_ids("<image>"),
        scale_factor=2,
    )
    return _save(getattr(transformers, f"{name}ForConditionalGeneration"), folder, seed, config)


def qwen2_vl(folder: Path, *, chat: bool = True, tied: bool = False, seed: int = 0) -> Path:
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration, Qwen2VLImageProcessorPil

    words = tokenizer(folder, marks=QWEN_MARKS, chat=None, eos_token="<|im_end|>")
    if chat:
        # Where older copies of published models keep it.
        (folder / "chat_template.json").write_text(json.dumps({"chat_template": QWEN_CHAT}))
    Qwen2VLImageProcessorPil(
        patch_size=4, size={"shortest_edge": 8 * 8, "longest_edge": 32 * 32}
    ).save_pretrained(str(folder))
    numbers = {
        name: words.convert_tokens_to_ids(mark)
        for name, mark in zip(
            ("vision_start_token_id", "image_token_id", "vision_end_token_id"), QWEN_MARKS, strict=False
        )
    }
    config = Qwen2VLConfig(
        text_config={
            "vocab_size": len(words),
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "max_position_embeddings": 256,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [1, 1, 2]},
            "pad_token_id": words.pad_token_id,
            "eos_token_id": words.eos_token_id,
            "bos_token_id": None,
        },
        vision_config={
            "depth": 2,
            "embed_dim": 16,
            "hidden_size": 16,
            "num_heads": 2,
            "mlp_ratio": 2,
            "patch_size": 4,
        },
        **numbers,
        video_token_id=words.unk_token_id,
        tie_word_embeddings=tied,
    )
    return _save(Qwen2VLForConditionalGeneration, folder, seed, config)
