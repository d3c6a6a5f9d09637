"""Published vision-language models of transformers as hosts of ViZer, with adapters by peft: SmolVLM and Qwen2-VL.

Knows what the two families call their parts, how they are prompted, and peft's adapters. Refuses to know losses and
runs. Pictures go through the image processors that need Pillow alone, never through those that need torchvision.
The encoder and what joins it to the language model are frozen, so that a picture's tokens are computed once; the
language model is asked directly, with the prompt's and the picture's embeddings, in `taglens.training.vlm_reading`.
Shapes: B pictures, C width of the encoder's tokens, P pieces of a prompt, n of them places of the picture's tokens,
A axes of a position (one; three of Qwen2-VL), L pieces of a text, D width of hidden states.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from taglens.errors import MismatchError, ModelError, UsageError
from taglens.inference.engines import torch_device
from taglens.models import transformers_folders as folders
from taglens.staging import staged
from taglens.training.vlm_reading import Reader, Spoken, VlmSeen, joined
from taglens.training.zero_label_hosts import Drawn, Pixels, Texts, load_state, state_of

PROMPT = "Write a caption of this picture in one sentence."
LONGEST = 64
# Attention and MLP of the language model; never the encoder's, whose matrices bear some of the same names.
TARGETS = r".*\.(text_model|language_model)\..*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
ABOUT, ADAPTER, ADAPTER_CONFIG = "taglens.json", "adapter_model.safetensors", "adapter_config.json"
# What frames of a picture stand between, as the tokenizers of SmolVLM and Idefics3 have it.
_AROUND, _WHOLE = "<fake_token_around_image>", "<global-img>"
_FETCHED = ["*.json", "*.safetensors", "*.txt", "*.jinja"]


class Family(Protocol):
    """What one kind of model calls its parts, and how it looks at a picture."""

    def language_model(self, model: Any) -> Any:
        """What turns embeddings into hidden states."""
        ...

    def vision_width(self, config: Any) -> int: ...

    def processor(self, folder: Path) -> Any:
        """What prepares pictures, with Pillow alone."""
        ...

    def plain_prompt(self, image: str, prompt: str) -> str:
        """For a model that has no form of a conversation; ``image`` is the piece that stands for a picture."""
        ...

    def look(self, model: Any, processor: Any, picture: Pixels, *, image: str) -> Look:
        """What the frozen parts make of one picture; ``image`` is the piece that stands for one of its tokens."""
        ...

    def positions(self, model: Any, ids: Tensor, look: Look) -> Tensor:
        """[A, P] of a prompt [P]."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """One picture.

    Attributes:
        features: [C], the mean of the encoder's own tokens.
        tokens: [n, D], as they stand among the prompt's embeddings.
        places: what stands in the prompt for the picture, with n image pieces in it.
        grid: what positions hang on, if any.
    """

    features: Tensor
    tokens: Tensor
    places: str
    grid: Tensor | None = None


class SmolVlm:
    """SmolVLM, SmolVLM2 and Idefics3: frames of a picture side by side, then the whole of it."""

    def __init__(self, kind: str) -> None:
        self._processor = {"smolvlm": "SmolVLMImageProcessorPil", "idefics3": "Idefics3ImageProcessorPil"}[
            kind
        ]

    def language_model(self, model: Any) -> Any:
        return model.model.text_model

    def vision_width(self, config: Any) -> int:
        return int(config.vision_config.hidden_size)

    def processor(self, folder: Path) -> Any:
        return folders.read(getattr(folders.transformers(), self._processor), folder)

    def plain_prompt(self, image: str, prompt: str) -> str:
        return f"{image}{prompt}"

    def look(self, model: Any, processor: Any, picture: Pixels, *, image: str) -> Look:
        given = processor(
            [[picture]], return_tensors="pt", return_row_col_info=True, input_data_format="channels_last"
        )
        seen = model.model.get_image_features(
            given["pixel_values"].to(model.device), given["pixel_attention_mask"].to(model.device)
        )
        rows, columns = given["rows"][0][0], given["cols"][0][0]
        places = frames(rows, columns, image * model.model.image_seq_len)
        features = seen.last_hidden_state.float().flatten(0, 1).mean(0)
        return Look(features, torch.cat(list(seen.pooler_output)), places)

    def positions(self, model: Any, ids: Tensor, look: Look) -> Tensor:
        return torch.arange(len(ids), device=ids.device)[None]


def frames(rows: int, columns: int, tokens: str) -> str:
    """What stands for a picture that was cut into ``rows`` times ``columns`` frames, the whole of it last."""
    lines = [
        "".join(f"{_AROUND}<row_{row}_col_{column}>{tokens}" for column in range(1, columns + 1))
        for row in range(1, rows + 1)
    ]
    whole = f"{_AROUND}{_WHOLE}{tokens}{_AROUND}"
    return "\n".join([*lines, "", whole]) if lines else whole


class Qwen2Vl:
    """Qwen2-VL: one grid of patches, as large as the picture, whose places count in height and width."""

    def language_model(self, model: Any) -> Any:
        return model.model.language_model

    def vision_width(self, config: Any) -> int:
        return int(config.vision_config.embed_dim)

    def processor(self, folder: Path) -> Any:
        return folders.read(folders.transformers().Qwen2VLImageProcessorPil, folder)

    def plain_prompt(self, image: str, prompt: str) -> str:
        return f"<|vision_start|>{image}<|vision_end|>{prompt}"

    def look(self, model: Any, processor: Any, picture: Pixels, *, image: str) -> Look:
        given = processor([picture], return_tensors="pt", input_data_format="channels_last")
        grid = given["image_grid_thw"].to(model.device)
        seen = model.model.get_image_features(given["pixel_values"].to(model.device), grid)
        tokens = torch.cat(list(seen.pooler_output))
        places = image * len(tokens)
        return Look(seen.last_hidden_state.float().mean(0), tokens, places, grid)

    def positions(self, model: Any, ids: Tensor, look: Look) -> Tensor:
        pictured = (ids == model.config.image_token_id).int()
        found: Tensor = model.model.get_rope_index(ids[None], pictured[None], look.grid)[0]
        return found[:, 0]


def family_of(kind: str) -> Family | None:
    """By ``model_type``; None for a kind that is no host here."""
    if kind in ("smolvlm", "idefics3"):
        return SmolVlm(kind)
    return Qwen2Vl() if kind == "qwen2_vl" else None


def opens(folder: Path) -> bool:
    """Whether `open_host` would take the folder: transformers' configuration of one of the two families."""
    try:
        kind = folders.config_of(folder)["model_type"]
    except ModelError:
        return False
    return family_of(kind) is not None


def fetch(name: str) -> Path:
    """Bring a published model to this disk, by its name on the hub; gives its folder.

    Raises:
        MissingExtraError: huggingface_hub is absent.
    """
    folders.require_packages("huggingface_hub", purpose="fetching a published model")
    found: str = import_module("huggingface_hub").snapshot_download(name, allow_patterns=_FETCHED)
    return Path(found)


def open_host(
    folder: Path,
    *,
    device: str = "auto",
    rank: int = 32,
    alpha: float = 64.0,
    prompt: str = PROMPT,
    longest: int = LONGEST,
    seed: int = 0,
) -> VlmHost:
    """A host from a folder on disk, with fresh adapters, which change nothing before they are trained.

    On a CUDA device it computes in bfloat16, else in float32; its adapters are float32 everywhere.

    Args:
        prompt: what it is asked for, in the model's own form of a conversation where it has one.
        longest: pieces of a caption at the most.
        seed: of the adapters' first values.

    Raises:
        MissingExtraError: transformers or peft is absent.
        ModelError: the folder is no such model, or not whole.
        UsageError: an argument that cannot be meant.
    """
    folders.require_packages("transformers", "peft", purpose="improving a vision-language model")
    if rank < 1 or not 0 < alpha < float("inf") or longest < 1:
        raise UsageError(
            f"rank {rank} and longest {longest} must be 1 or more, alpha {alpha} above 0 and finite"
        )
    kind = folders.config_of(folder)["model_type"]
    family = family_of(kind)
    if family is None:
        raise ModelError(f"{folder} is a {kind}; expected smolvlm, idefics3 or qwen2_vl")
    on = torch_device(device)
    model = folders.read_weights(
        folders.transformers().AutoModelForImageTextToText,
        folder,
        dtype=torch.bfloat16 if on.startswith("cuda") else torch.float32,
    )
    tokenizer = folders.tokenizer_of(folder)
    processor = family.processor(folder)
    # The families' processors know it by name, their configurations by number.
    image: str = tokenizer.convert_ids_to_tokens(int(model.config.image_token_id))
    return VlmHost(
        model.to(on),
        Spoken(
            tokenizer,
            _question(tokenizer, folder, family, image, prompt),
            image=image,
            ends=_ends(model, tokenizer),
            longest=longest,
        ),
        family,
        processor,
        # What it writes hangs on what it is asked: a run that goes on must ask the same.
        name=f"{folder.resolve().name} asked {prompt!r}",
        fingerprint=folders.fingerprint(folder),
        lora=LoraSettings(rank, alpha, seed),
    )


@dataclass(frozen=True, slots=True)
class LoraSettings:
    """Adapters: rank, their weight times rank, and the seed of their first values."""

    rank: int
    alpha: float
    seed: int


class VlmHost:
    """See `open_host`; a `taglens.training.zero_label_hosts.Host`."""

    def __init__(
        self,
        model: Any,
        spoken: Spoken,
        family: Family,
        processor: Any,
        *,
        name: str,
        fingerprint: str,
        lora: LoraSettings,
    ) -> None:
        peft = import_module("peft")
        self.name = name
        self.fingerprint = fingerprint
        self._lora = lora
        self._family = family
        self._processor = processor
        self._base = model
        self._spoken = spoken
        config = peft.LoraConfig(
            r=lora.rank, lora_alpha=lora.alpha, target_modules=TARGETS, lora_dropout=0.0, bias="none"
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(lora.seed)
            with warnings.catch_warnings():
                # Between two packages of others, and nobody's to act on here.
                warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
                self._model = peft.get_peft_model(model, config).eval()
        self._reader = Reader(family.language_model(model), model.lm_head, spoken)
        self._named: dict[str, nn.Parameter] = {
            name: value for name, value in self._model.named_parameters() if value.requires_grad
        }

    # -- what it is ------------------------------------------------------------------------------

    @property
    def hidden_width(self) -> int:
        return int(self._base.config.text_config.hidden_size)

    @property
    def adapter_scale(self) -> float:
        return self._lora.alpha / self._lora.rank

    @property
    def vision_width(self) -> int:
        return self._family.vision_width(self._base.config)

    @property
    def least_side(self) -> int | None:
        # What is made of a picture hangs on its size.
        return None

    @property
    def device(self) -> torch.device:
        found: torch.device = self._base.device
        return found

    # -- pictures --------------------------------------------------------------------------------

    @torch.no_grad()
    def see(self, pictures: Sequence[Pixels]) -> VlmSeen:
        # One by one: pictures have as many frames or patches as their sizes ask for.
        return joined([self._one(picture) for picture in pictures])

    def _one(self, picture: Pixels) -> VlmSeen:
        look = self._family.look(self._base, self._processor, picture, image=self._spoken.image)
        ids = self._spoken.prompt(look.places).to(self.device)
        places = ids == self._base.config.image_token_id
        if int(places.sum()) != len(look.tokens):
            raise ModelError(
                f"{self.name} makes {len(look.tokens)} tokens of a picture, and its prompt has {int(places.sum())} "
                "places for them; its preprocessor_config.json belongs to another model: copy the folder again"
            )
        positions = self._family.positions(self._base, ids, look)
        return VlmSeen(look.features[None], (ids,), (places,), (look.tokens,), (positions,))

    def joined(self, parts: Sequence[VlmSeen]) -> VlmSeen:
        return joined(parts)

    # -- texts -----------------------------------------------------------------------------------

    @torch.no_grad()
    def write(self, seen: VlmSeen, *, drawn: Drawn | None = None) -> Texts:
        return self._reader.write(seen, drawn=drawn)

    def texts(self, captions: Sequence[str]) -> Texts:
        return self._spoken.texts(captions, device=self.device)

    def hidden(self, seen: VlmSeen | None, texts: Texts) -> Tensor:
        return self._reader.hidden(seen, texts)

    def log_probs(self, seen: VlmSeen, texts: Texts) -> Tensor:
        return self._reader.log_probs(seen, texts)

    # -- adapters --------------------------------------------------------------------------------

    def parameters(self) -> Mapping[str, nn.Parameter]:
        return self._named

    def adapters_off(self) -> AbstractContextManager[None]:
        found: AbstractContextManager[None] = self._model.disable_adapter()
        return found

    def adapter_state(self) -> dict[str, Tensor]:
        return state_of(self._named)

    def load_adapter_state(self, state: Mapping[str, Tensor]) -> None:
        load_state(self._named, state)

    def save_adapter(self, folder: Path, *, about: Mapping[str, Any]) -> None:
        """In peft's own form, which peft reads without this library, and what they belong to in ``taglens.json``."""
        told = {
            "base": self.fingerprint,
            "model": self.name,
            "rank": self._lora.rank,
            "alpha": self._lora.alpha,
            "trained": dict(about),
        }
        with staged(folder, last=ADAPTER) as stage:
            self._model.save_pretrained(str(stage))
            # A form with its fields left open, written by peft.
            (stage / "README.md").unlink(missing_ok=True)
            text = json.dumps(told, indent=2, sort_keys=True) + "\n"
            (stage / ABOUT).write_text(text, encoding="utf-8", newline="\n")

    def load_adapter(self, folder: Path) -> None:
        """Take the adapters that `save_adapter` wrote.

        Raises:
            ModelError: a file is missing or damaged, or values are not finite.
            MismatchError: they belong to another model, or have another rank or weight.
        """
        try:
            told = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
            theirs = {key: told[key] for key in ("base", "rank", "alpha")}
            # Not by peft: where this file is absent it runs an older form, or asks the hub for one of that name.
            state = load_file(folder / ADAPTER)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise ModelError(
                f"{folder} holds no adapters that can be read ({error}); copy it again"
            ) from None
        ours = {"base": self.fingerprint, "rank": self._lora.rank, "alpha": self._lora.alpha}
        for key, wanted in ours.items():
            if theirs[key] != wanted:
                raise MismatchError(
                    f"adapters in {folder} have another {key}",
                    expected=str(wanted),
                    found=str(theirs[key]),
                    cure="Open the model that they were trained for, with the same rank and alpha.",
                )
        for name, value in state.items():
            if not torch.isfinite(value).all():
                raise ModelError(
                    f"{folder / ADAPTER}: {name} holds values that are not finite; train it again"
                )
        # Files name adapters without the name that peft gives them in memory.
        self.load_adapter_state({_in_memory(name): value for name, value in state.items()})


def _in_memory(name: str) -> str:
    head, _, tail = name.rpartition(".")
    return f"{head}.default.{tail}"


def _question(tokenizer: Any, folder: Path, family: Family, image: str, prompt: str) -> tuple[str, bool]:
    """The prompt with one ``image`` in it, and whether it is a conversation. Raises ModelError: it has not one."""
    template = tokenizer.chat_template
    kept = folder / "chat_template.json"
    if not template and kept.is_file():
        template = json.loads(kept.read_text(encoding="utf-8")).get("chat_template")
    if not template:
        return family.plain_prompt(image, prompt), False
    asked = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": prompt}]}]
    text: str = tokenizer.apply_chat_template(
        asked, chat_template=template, add_generation_prompt=True, tokenize=False
    )
    if text.count(image) != 1:
        raise ModelError(
            f"the conversation that {folder} asks in has {text.count(image)} places {image!r} for one picture; copy "
            "its chat template again"
        )
    return text, True


def _ends(model: Any, tokenizer: Any) -> list[int]:
    """The pieces that end a text, the usual one first. Raises ModelError: there is none."""
    found: list[int] = []
    for each in (model.generation_config.eos_token_id, tokenizer.eos_token_id):
        found += each if isinstance(each, list) else [] if each is None else [int(each)]
    if not found:
        raise ModelError(f"{model.config.model_type} has no piece that ends a text: eos_token_id is not set")
    return list(dict.fromkeys(found))
