"""taglens says what is in a picture.

>>> from taglens import Tagger
>>> tagger = Tagger.from_pretrained("starter")
>>> for prediction in tagger(["photo.jpg"]):
...     prediction.names
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from taglens.errors import TaglensError
    from taglens.inference.tagger import Tagger
    from taglens.results import Prediction, Tag
    from taglens.vocabulary import Entry, Vocabulary

__all__ = ["Entry", "Prediction", "Tag", "Tagger", "TaglensError", "Vocabulary", "__version__"]

# Public names load on first use, so that `import taglens` costs nothing.
_HOMES = {
    "Entry": "taglens.vocabulary",
    "Prediction": "taglens.results",
    "Tag": "taglens.results",
    "Tagger": "taglens.inference.tagger",
    "TaglensError": "taglens.errors",
    "Vocabulary": "taglens.vocabulary",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'taglens' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
