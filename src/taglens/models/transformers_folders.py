"""Model folders as the package transformers writes them: opened from disk alone, strictly, without code of others.

Knows `config.json`, safetensors and the package; refuses to know what a model is for. The package is imported where
it is used: it takes seconds. Weights are read from safetensors only, because the older form can run a program.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from taglens.errors import MissingExtraError, ModelError

CONFIG = "config.json"
_SHOWN = 5
_HEAD = 8


def require_packages(*packages: str, purpose: str) -> None:
    """Raises MissingExtraError, with the cure, for the first that is absent."""
    for package in packages:
        if find_spec(package) is None:
            raise MissingExtraError(package, extra="vlm", purpose=purpose)


def transformers() -> Any:
    """The package, of which nothing is known to the type checker: it may be absent."""
    require_packages("transformers", purpose="reading a transformers model")
    return import_module("transformers")


def config_of(folder: Path) -> dict[str, Any]:
    """What its ``config.json`` says.

    Raises:
        ModelError: there is none, or it is no JSON object that names a ``model_type``.
    """
    path = folder / CONFIG
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(
            f"{folder} holds no {CONFIG} that can be read ({error.strerror}); expected a folder that transformers' "
            "save_pretrained wrote, or a whole copy of a published one"
        ) from None
    except ValueError as error:
        raise ModelError(f"{path} is no JSON ({error}); copy the folder again") from None
    if not isinstance(found, dict) or not isinstance(found.get("model_type"), str):
        raise ModelError(
            f"{path} names no model_type; expected a transformers model, such as bert, clip or smolvlm"
        )
    return found


def fingerprint(folder: Path) -> str:
    """12 hex digits of the configuration and of every file of weights.

    Of the weights it takes name, size and head, where names, shapes and places of all tensors stand, and 1 KiB at
    64 places spread over the file, which takes no time. Training that changed a small part of the weights only may go
    unnoticed.

    Raises:
        ModelError: no weights, or no configuration.
    """
    digest = hashlib.sha256(json.dumps(config_of(folder), sort_keys=True).encode())
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ModelError(
            f"{folder} holds no .safetensors; weights of another form are not read: convert them where they are from"
        )
    for path in files:
        size = path.stat().st_size
        digest.update(f"{path.name} {size}".encode())
        with path.open("rb") as stream:
            head = int.from_bytes(stream.read(_HEAD), "little")
            if not 0 < head <= size - _HEAD:
                raise ModelError(f"{path} is no whole safetensors file: it was cut; copy it again")
            digest.update(stream.read(head))
            rest = size - stream.tell()
            begins = stream.tell()
            for part in range(64):
                stream.seek(begins + rest * part // 64)
                digest.update(stream.read(1024))
    return digest.hexdigest()[:12]


@contextmanager
def hushed() -> Iterator[None]:
    """Transformers neither draws bars nor tells of what is checked here; afterwards as it was."""
    logging = import_module("transformers.utils.logging")
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def read(loader: Any, folder: Path | str, *, download: bool = False, **options: Any) -> Any:
    """``loader.from_pretrained(folder)`` from disk alone, without code of others.

    Args:
        loader: a class of transformers.
        download: ``folder`` may be the name of a published model, which is fetched.

    Raises:
        ModelError: it cannot be read.
    """
    try:
        with hushed():
            return loader.from_pretrained(
                str(folder), local_files_only=not download, trust_remote_code=False, **options
            )
    except (OSError, ValueError, ImportError, RuntimeError, KeyError) as error:
        told = " ".join(str(error).split())[:300]
        raise ModelError(f"{folder} cannot be read by transformers' {loader.__name__}: {told}") from None


def read_weights(
    loader: Any,
    folder: Path | str,
    *,
    needless: Callable[[str], bool] = lambda _: False,
    download: bool = False,
    **options: Any,
) -> Any:
    """A torch model in eval mode, every weight of which the folder holds.

    Args:
        needless: whether a weight of that name may be absent, as it takes part in nothing that is asked.
        options: for ``from_pretrained``.

    Raises:
        ModelError: weights are absent, of other shapes, or not in safetensors.
    """
    model, told = read(
        loader, folder, download=download, use_safetensors=True, output_loading_info=True, **options
    )
    missing = sorted(name for name in told["missing_keys"] if not needless(name))
    unlike = sorted(str(each) for each in told.get("mismatched_keys") or ())
    if missing or unlike:
        named = ", ".join([*missing, *unlike][:_SHOWN])
        raise ModelError(
            f"{folder}: {len(missing) + len(unlike)} weights of a {type(model).__name__} are absent or of another "
            f"shape ({named}); it was cut, or is no model of this kind: copy it again, or name another"
        )
    return model.eval()


def tokenizer_of(folder: Path | str, *, download: bool = False) -> Any:
    """Its tokenizer, by the folder's own files. Raises ModelError."""
    return read(transformers().AutoTokenizer, folder, download=download)
