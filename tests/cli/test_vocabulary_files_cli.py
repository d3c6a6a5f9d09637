"""``taglens vocabulary export`` and ``import``, and sensitive words in ``build`` and ``check``, from outside."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from taglens.cli.main import start
from taglens.vocabulary import Entry, Vocabulary

WORDS = Vocabulary(
    [
        Entry("dog", "object", synonyms=("hound",), parents=("object:animal",), count=9, threshold=0.6),
        Entry("animal", "object", translations={"zh": "动物"}),
        Entry("train", "object", descriptions=("Long.",)),
        Entry("train", "action"),
    ],
    name="pets",
    description="of mine",
)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    WORDS.save("pets.jsonl")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as exit:
            start(["vocabulary", *map(str, arguments)])
        out, err = capsys.readouterr()
        return int(exit.value.code or 0), out, err

    return run


Run = Callable[..., tuple[int, str, str]]


def write(path: str, text: str) -> str:
    Path(path).write_text(text, encoding="utf-8")
    return path


def test_to_a_table_and_back_byte_for_byte(run: Run) -> None:
    status, out, err = run("export", "pets.jsonl", "--out", "pets.csv")
    assert (status, out) == (0, "")
    assert err == f"pets.csv: {WORDS.ref}, 4 tags (3 object, 1 action)\n"
    run("import", "pets.csv", "--out", "a.jsonl")
    run("export", "pets.csv", "--out", "b.jsonl")
    for name in ("a.jsonl", "b.jsonl"):
        assert Path(name).read_bytes() == Path("pets.jsonl").read_bytes()


def test_a_list_says_what_it_leaves_out(run: Run) -> None:
    status, out, err = run("export", "pets.jsonl", "--out", "pets", "--format", "list")
    assert (status, out) == (0, "")
    assert Path("pets").read_text(encoding="utf-8") == "dog\nanimal\ntrain\ntrain\n"
    assert "pets holds names only; left out: synonyms of 1 tags" in err
    assert "'train' stand for several tags" in err


def test_an_edited_table_says_that_models_no_longer_fit(run: Run) -> None:
    run("export", "pets.jsonl", "--out", "pets.csv")
    text = Path("pets.csv").read_text(encoding="utf-8")
    write("pets.csv", text.replace("0.6", "0.7"))
    assert "note" not in run("import", "pets.csv", "--out", "a.jsonl")[2]
    write("pets.csv", text + "object:cat,cat,object\n")
    _, _, err = run("import", "pets.csv", "--out", "a.jsonl", "--name", "more")
    assert f"was written for fingerprint {WORDS.fingerprint}; tags were added" in err
    assert Vocabulary.load("a.jsonl").name == "more"


def test_a_list_with_all_that_goes_with_it(run: Run) -> None:
    arguments = [
        *("--thresholds", write("t.txt", "0.65\n0.8\n")),
        *(
            "--translations",
            "zh=" + write("zh.txt", "狗\n海滩\n"),
            "--translations",
            "de=" + write("d", "Hund\nx\n"),
        ),
        *("--descriptions", write("d.json", '[{"dog": ["Four legs."]}, {"yak": ["Hair."]}]')),
    ]
    status, out, err = run("import", write("tags.txt", "dog\nbeach\n"), "--out", "o.jsonl", *arguments)
    assert (status, out) == (0, "")
    assert "d.json: left out what describes no tag here: 'yak'" in err
    assert list(Vocabulary.load("o.jsonl")) == [
        Entry("dog", "object", (), (), 0.65, ("Four legs.",), {"zh": "狗", "de": "Hund"}),
        Entry("beach", "scene", (), (), 0.8, (), {"zh": "海滩", "de": "x"}),
    ]


def test_homographs_by_the_kinds_of_lines(run: Run) -> None:
    status, _, err = run("import", write("tags.txt", "train\ntrain\n"), "--out", "o.jsonl")
    assert status == 2 and "tags.txt, line 2" in err and not Path("o.jsonl").exists()
    assert run("import", "tags.txt", "--out", "o.jsonl", "--kinds", "action=2")[0] == 0
    assert Vocabulary.load("o.jsonl").ids == ["object:train", "action:train"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["import", "tags.txt", "--out", "o.csv"], "import writes JSON Lines; name it o.jsonl"),
        (["import", "tags.txt", "--out", "o.jsonl", "--translations", "zh.txt"], "expected CODE=FILE"),
        (["import", "tags.txt", "--out", "o.jsonl", *["--translations", "zh=a"] * 2], "zh is given twice"),
        (["import", "tags.txt", "--out", "o.jsonl", "--format", "xml"], "expected one of jsonl, csv, list"),
        (
            ["import", "tags.txt", "--out", "o.jsonl", "--format", "csv"],
            "tags.txt, line 1: expected a header",
        ),
        (
            ["import", "tags.txt", "--out", "o.jsonl", "--thresholds", "tags.txt"],
            "tags.txt, line 1: expected",
        ),
        (["import", "nowhere.txt", "--out", "o.jsonl"], "cannot read nowhere.txt"),
        (["export", "pets.jsonl", "--out", "pets.xlsx"], "give --format"),
        (["export", "pets.jsonl", "--out", "nowhere/pets.csv"], "nowhere"),
    ],
)
def test_refusals_are_one_line_and_write_nothing(run: Run, arguments: list[str], said: str) -> None:
    write("tags.txt", "dog\n")
    status, out, err = run(*arguments)
    assert (status, out) == (2, "")
    assert err.startswith("taglens: error: ") and said in err and len(err.splitlines()) == 1
    assert {path.name for path in Path().iterdir()} == {"pets.jsonl", "tags.txt"}


# -- sensitive words -----------------------------------------------------------------------------------


def test_build_hides_and_leaves_out_sensitive_words(run: Run) -> None:
    captions = write(
        "c.txt", "A homeless man pets a purple dog.\nA purple dog and a fatso.\nA homeless woman.\n"
    )
    mine = write("mine.txt", "attribute: purple  # not shown\n! object: dog\n")
    arguments = [
        "build",
        "--captions",
        captions,
        "--min-count",
        1,
        "--left-out",
        "left.tsv",
        "--out",
        "o.jsonl",
    ]
    run(*arguments)
    words = Vocabulary.load("o.jsonl")
    hidden = {entry.id for entry in words if entry.hidden}
    assert hidden == {"attribute:homeless"}
    assert words.find("fatso") is None and "object:dog" in words
    assert "object\tfatso\t1\tsensitive" in Path("left.tsv").read_text(encoding="utf-8").splitlines()
    run(*arguments, "--sensitive", mine)
    words = Vocabulary.load("o.jsonl")
    assert {entry.id for entry in words if entry.hidden} == {"attribute:homeless", "attribute:purple"}
    assert "object:dog" not in words
    status, _, err = run(*arguments, "--sensitive", write("bad.txt", "purple\n"))
    assert status == 2 and "bad.txt, line 1: expected 'kind: names'" in err


def test_check_reports_sensitive_tags_that_are_not_hidden(run: Run) -> None:
    Vocabulary(
        [
            Entry("muslim", "attribute"),
            Entry("African-American", "attribute", hidden=True),
            Entry("person", "object", synonyms=("fatso",)),
            Entry("fatso", "typed"),
            Entry("blind", "object"),  # of a window
        ]
    ).save("v.jsonl")
    status, out, err = run("check", "v.jsonl")
    assert status == 1
    assert out.splitlines() == [
        "attribute:muslim says of people what a picture does not show, and is not hidden: mark it hidden",
        "synonym 'fatso' of object:person is a slur: remove it",
        "typed:fatso is a slur: remove the tag, or mark it hidden",
    ]
    assert "3 problems; sensitive and hidden: 1" in err
    status, out, _ = run("check", "v.jsonl", "--sensitive", write("mine.txt", "object: blind"))
    assert "object:blind says of people" in out
