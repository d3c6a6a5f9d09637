"""Where the published models are: a table of files, each pinned to a commit, with its size and checksum.

Knows places and what must come from them. Refuses to know how files are fetched (`taglens.hub.download`) and what is
in them. Every commit, size and checksum stands in a public record of the repository that holds the file; those of
CLIP's three files in public code that pins them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Literal
from urllib.parse import quote

# The original release keeps its lists beside its code.
RELEASE_HOST = "https://raw.githubusercontent.com"
_RELEASE = ("xinyu1205/recognize-anything", "7cb804a8609e9f4b1a50b7f31436d2df40bb9481")
_APACHE = "Apache-2.0"


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One file at one commit.

    Attributes:
        place: "hub": the Hugging Face hub; "release": the original release's repository of code.
        path: inside the repository.
        licence: as its repository states it; None where that could not be established.
    """

    place: Literal["hub", "release"]
    repository: str
    commit: str
    path: str
    size: int
    sha256: str
    licence: str | None

    def __post_init__(self) -> None:
        parts = PurePosixPath(self.path).parts
        if not parts or self.path != "/".join(parts) or any(part in ("/", "..", ".") for part in parts):
            raise ValueError(f"{self.path!r} is no path inside a repository")

    @property
    def name(self) -> str:
        return PurePosixPath(self.path).name

    def release_url(self, host: str = RELEASE_HOST) -> str:
        return f"{host.rstrip('/')}/{quote(self.repository)}/{self.commit}/{quote(self.path)}"


@dataclass(frozen=True, slots=True)
class Source:
    """A published model and what goes with it.

    Attributes:
        family: as `taglens.models.convert` calls it.
        tags, thresholds: a tag a line; a number a line, None where the original keeps them in code.
        translations: language -> a name a line.
        beside: file in the model folder -> what is copied there as it is.
        text: what reads any tag in the space of the model's labels: tower, vocabulary, merges; empty: nothing does.
    """

    name: str
    family: str
    checkpoint: RemoteFile
    tags: RemoteFile
    thresholds: RemoteFile | None
    translations: dict[str, RemoteFile]
    beside: dict[str, RemoteFile]
    text: dict[str, RemoteFile] = field(default_factory=dict)

    def files(self) -> dict[str, RemoteFile]:
        """Role -> file, the large one last."""
        found = {"tags": self.tags}
        if self.thresholds is not None:
            found["thresholds"] = self.thresholds
        found |= {f"names:{language}": file for language, file in self.translations.items()}
        found |= {f"beside:{name}": file for name, file in self.beside.items()}
        found |= {f"text:{part}": file for part, file in self.text.items()}
        return found | {"checkpoint": self.checkpoint}


RAM_TAGS = RemoteFile(
    "release",
    *_RELEASE,
    "ram/data/ram_tag_list.txt",
    41_904,
    "5d96d2f7225527480ad773aaac76b6e5c08a18adf6eae9ca7d2ab923d5e7bd8b",
    _APACHE,
)
RAM_THRESHOLDS = RemoteFile(
    "release",
    *_RELEASE,
    "ram/data/ram_tag_list_threshold.txt",
    22_016,
    "b6f81d0de1bc7f9c251af512c413eae976c77dbfbadf700d4e3d90510f4c6447",
    _APACHE,
)
RAM_CHINESE = RemoteFile(
    "release",
    *_RELEASE,
    "ram/data/ram_tag_list_chinese.txt",
    44_181,
    "c912657a0f30be7b2f5df6ccffa17e1d84561d0bea508528e38b6d0d711bcfbe",
    _APACHE,
)
TAG2TEXT_TAGS = RemoteFile(
    "release",
    *_RELEASE,
    "ram/data/tag2text_ori_tag_list.txt",
    29_062,
    "7d05c7cb88ed46a2aee1434776964f6bdbda0c0f4233c8633e109084382d3a45",
    _APACHE,
)
BERT_VOCABULARY = RemoteFile(
    "hub",
    "google-bert/bert-base-uncased",
    "86b5e0934494bd15c9632b12f734a8a67f723594",
    "vocab.txt",
    231_508,
    "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
    _APACHE,
)

# The hub states no licence for this repository; the original release of CLIP is under MIT.
_CLIP = ("openai/clip-vit-base-patch16", "57c216476eefef5ab752ec549e440a49ae4ae5f3")
CLIP_TEXT = {
    "tower": RemoteFile(
        "hub",
        *_CLIP,
        "pytorch_model.bin",
        598_641_023,
        "ec89c7b09c749a60aae3c9cd910516f24b58214a7df060b48962d14c469cfbf0",
        None,
    ),
    "vocabulary": RemoteFile(
        "hub",
        *_CLIP,
        "vocab.json",
        961_143,
        "3f0c4f7d2086b61b38487075278ea9ed04edb53a03cbb045b86c27190fa8fb69",
        None,
    ),
    "merges": RemoteFile(
        "hub",
        *_CLIP,
        "merges.txt",
        524_619,
        "9fd691f7c8039210e0fced15865466c65820d09b63988b0174bfe25de299051a",
        None,
    ),
}

SOURCES: dict[str, Source] = {
    "ram-plus": Source(
        "ram-plus",
        "RAM++",
        RemoteFile(
            "hub",
            "xinyu1205/recognize-anything-plus-model",
            "6afd703f04b23e1c18d4c7d9882c4f5f954848f8",
            "ram_plus_swin_large_14m.pth",
            3_010_210_801,
            "497c178836ba66698ca226c7895317e6e800034be986452dbd2593298d50e87d",
            _APACHE,
        ),
        RAM_TAGS,
        RAM_THRESHOLDS,
        {"zh": RAM_CHINESE},
        {},
        CLIP_TEXT,
    ),
    "ram": Source(
        "ram",
        "RAM",
        RemoteFile(
            "hub",
            "xinyu1205/recognize_anything_model",
            "5e172ed7fca436904f624d4f60cc47b618854976",
            "ram_swin_large_14m.pth",
            5_625_634_877,
            "15c729c793af28b9d107c69f85836a1356d76ea830d4714699fb62e55fcc08ed",
            None,
        ),
        RAM_TAGS,
        RAM_THRESHOLDS,
        {"zh": RAM_CHINESE},
        {},
        CLIP_TEXT,
    ),
    "tag2text": Source(
        "tag2text",
        "Tag2Text",
        RemoteFile(
            "hub",
            "xinyu1205/recognize_anything_model",
            "2dd9b40d587d367e99bd2a61215f194e1b666336",
            "tag2text_swin_14m.pth",
            4_478_705_095,
            "4ce96f0ce98f940a6680d567f66a38ccc9ca8c4e638e5f5c5c2e881a0e3502ac",
            None,
        ),
        TAG2TEXT_TAGS,
        None,
        {},
        {"vocab.txt": BERT_VOCABULARY},
    ),
}
