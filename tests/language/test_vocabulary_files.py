"""Vocabularies in and out: tables that lose nothing, lists whose lines are columns, messages that name the line."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from taglens.errors import UsageError, VocabularyError
from taglens.language.vocabulary_csv import from_csv, to_csv
from taglens.language.vocabulary_files import (
    Block,
    parse_blocks,
    read_vocabulary,
    repeated_names,
    with_description_file,
    with_threshold_file,
    with_translation_file,
    write_vocabulary,
)
from taglens.results import Kind
from taglens.vocabulary import Entry, Vocabulary, normalise

# A busy machine is no failure: how long a drawn case takes is not what these tests are about.
UNTIMED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

PETS = Vocabulary(
    [
        Entry(
            "dog", "object", synonyms=("hound", "Hund"), parents=("object:animal",), count=9, threshold=0.65
        ),
        Entry("animal", "object", translations={"de": "Tier", "zh": "动物"}),
        Entry("train", "object", descriptions=("It is long, and red.", "On rails | or not.")),
        Entry("train", "action", hidden=True),
        Entry("=1+1", "attribute", synonyms=("-x", "@y"), translations={"de": "+z"}),
    ],
    name="pets",
    description="of mine",
)


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def table(text: str) -> Vocabulary:
    def guess(name: str) -> Kind:
        return "scene" if name == "beach" else "object"

    return from_csv(text, where="t.csv", guess=guess, name="t")[0]


def round_trip(words: Vocabulary) -> Vocabulary:
    return from_csv(to_csv(words), where="t.csv", guess=lambda _: "object", name=words.name)[0]


# -- tables --------------------------------------------------------------------------------------------


def test_a_table_holds_everything_in_columns() -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv(PETS))))
    assert list(rows[0]) == [
        *("id", "name", "kind", "synonyms", "parents", "threshold", "descriptions", "count", "hidden"),
        *("name:de", "name:zh", "vocabulary", "vocabulary_description"),
    ]
    assert {key: value for key, value in rows[0].items() if value} == {
        "id": "object:dog",
        "name": "dog",
        "kind": "object",
        "synonyms": "hound | Hund",
        "parents": "object:animal",
        "threshold": "0.65",
        "count": "9",
        "vocabulary": PETS.ref,
        "vocabulary_description": "of mine",
    }
    assert (rows[1]["name:zh"], rows[3]["hidden"]) == ("动物", "true")
    assert json.loads(rows[2]["descriptions"]) == list(PETS[2].descriptions)
    assert [row["vocabulary"] for row in rows[1:]] == [""] * 4


def test_no_cell_is_a_formula_and_every_cell_comes_back() -> None:
    last = list(csv.DictReader(io.StringIO(to_csv(PETS))))[-1]
    assert (last["name"], last["synonyms"], last["name:de"]) == ("'=1+1", "'-x | @y", "'+z")
    words = Vocabulary([Entry(name, "object") for name in ("'=a", "''-b", "'c", "@", "\t+d", "=", "e=f")])
    cells = [row[1] for row in csv.reader(io.StringIO(to_csv(words)))]
    assert not [cell for cell in cells if cell[0] in "=+-@\t\r"]
    assert round_trip(words).entries == words.entries


TEXTS = st.text(alphabet="ab 动'\"=+-@|[],;\t\r\n\\", min_size=1, max_size=5)
NAMES = TEXTS.filter(lambda name: bool(normalise(name)))
ENTRIES = st.builds(
    Entry,
    name=NAMES,
    kind=st.sampled_from(["object", "scene", "attribute", "action", "typed"]),
    synonyms=st.lists(TEXTS | st.just(""), max_size=3).map(tuple),
    parents=st.lists(TEXTS, max_size=2).map(tuple),
    threshold=st.none() | st.floats(0, 1),
    descriptions=st.lists(TEXTS, max_size=2).map(tuple),
    translations=st.dictionaries(st.sampled_from(["de", "zh-Hant", "", " x"]), NAMES, max_size=2),
    count=st.integers(0, 10**12),
    hidden=st.booleans(),
)


@UNTIMED
@given(
    st.lists(ENTRIES, min_size=1, max_size=5, unique_by=lambda entry: entry.id), TEXTS, st.just("") | TEXTS
)
def test_to_a_table_and_back_is_the_same_vocabulary(
    entries: list[Entry], name: str, description: str
) -> None:
    words = Vocabulary(entries, name=name, description=description)
    back, stated = from_csv(to_csv(words), where="t.csv", guess=lambda _: "object", name="other")
    assert back.entries == words.entries
    assert (back.ref, back.description, stated) == (words.ref, words.description, words.fingerprint)


@pytest.mark.parametrize("divider", [",", ";", "\t"])
def test_a_table_from_a_spreadsheet(divider: str, tmp_path: Path) -> None:
    lines = ["Name,Threshold,HIDDEN,synonyms,name:zh,,", "dog,1,FALSE,hound|Hund,狗,,", "beach,,TRUE,,,,"]
    text = "".join(line.replace(",", divider) + "\r\n" for line in lines)
    path = write(tmp_path / "pets.csv", "\ufeff" + text)
    read = read_vocabulary(path)
    assert read.stated is None
    assert read.vocabulary.name == "pets"
    assert list(read.vocabulary) == [
        Entry("dog", "object", synonyms=("hound", "Hund"), threshold=1.0, translations={"zh": "狗"}),
        Entry("beach", "scene", hidden=True),
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("dog\ncat\n", "line 1: expected a header with a column 'name', found 'dog'.*--format list"),
        ("name,colour\ndog,red\n", "line 1: unknown column 'colour'; known: id, name"),
        ("name,name\ndog,dog\n", "line 1: two columns are called 'name'"),
        ("name\n", "a header and no tags"),
        ("name,kind\ndog,object\n,\ncat,\n", "line 3 is empty; delete the row"),
        ("name,kind\ndog,thing\n", "line 2: tag 'dog' has kind 'thing'"),
        ("name,kind\n,object\n", "line 2: a tag has an empty name"),
        ("kind,name\nobject\n", "line 2: expected an object with a name"),
        ("name,threshold\ndog,1.5\n", "line 2: threshold: expected a number from 0 to 1 .* found '1.5'"),
        ('name,threshold\ndog,"0,65"\n', "line 2: threshold: .*found '0,65'"),
        ("name,threshold\ndog,nan\n", "line 2: threshold: .*'nan'"),
        ("name,count\ndog,1.5\n", "line 2: count must be a whole number such as 12, found '1.5'"),
        (f"name,count\ndog,{'9' * 9999}\n", "line 2: count must be a whole number"),
        ("name,hidden\ndog,maybe\n", "line 2: hidden must be true, false or empty"),
        ("id,name\nobject:cat,dog\n", "line 2: id 'object:cat' does not fit"),
        ("name\ndog,object\n", "line 2: 2 cells for 1 columns"),
        ('name,kind\n"a\nb",\ncat,\nCat,object\n', "line 5: 'object:cat' stands already in line 4"),
        ('name\n"dog\n', "line 2: not CSV"),
        ("name,vocabulary\ndog,a\ncat,b\n", "column 'vocabulary' says 'a' and 'b'"),
    ],
)
def test_a_table_that_cannot_be_meant_says_where(text: str, said: str) -> None:
    with pytest.raises(VocabularyError, match=rf"(?s)t\.csv.*{said}"):
        table(text)


@pytest.mark.parametrize("cell", ["[" * 99999, f"[{'9' * 9999}]", "[a"])
def test_a_cell_that_only_begins_like_a_list_is_one_item(cell: str) -> None:
    assert table(f"name,synonyms\ndog,{cell}\n")[0].synonyms == (cell,)


def test_a_long_cell_is_read_and_the_process_keeps_its_limit() -> None:
    limit = csv.field_size_limit()
    words = Vocabulary([Entry("a", "object", descriptions=("x" * (limit + 1),))])
    assert round_trip(words).entries == words.entries
    assert csv.field_size_limit() == limit


# -- lists ---------------------------------------------------------------------------------------------


def test_a_list_keeps_its_order_and_guesses_places(tmp_path: Path) -> None:
    path = write(tmp_path / "tags.txt", "3D glasses\r\nBeach\r\n  sea \r\nrunning\r\n")
    words = read_vocabulary(path, name="mine").vocabulary
    assert [(entry.name, entry.kind) for entry in words] == [
        ("3D glasses", "object"),
        ("Beach", "scene"),
        ("sea", "scene"),
        ("running", "object"),
    ]
    assert words.name == "mine"


def test_homographs_are_two_tags_where_the_kinds_of_lines_are_said(tmp_path: Path) -> None:
    path = write(tmp_path / "tags.txt", "light\npark\nlight\npark\nlight")
    words = read_vocabulary(path, blocks=parse_blocks("action=3, attribute=5")).vocabulary
    assert words.ids == ["object:light", "scene:park", "action:light", "action:park", "attribute:light"]
    with pytest.raises(
        VocabularyError, match=r"tags\.txt, line 3: 'light' stands already in line 1.*--kinds"
    ):
        read_vocabulary(path)
    with pytest.raises(UsageError, match=r"action=6: .*lines 1 to 5"):
        read_vocabulary(path, blocks=[Block("action", 6)])
    with pytest.raises(UsageError, match="states its own kinds"):
        read_vocabulary(write(tmp_path / "t.csv", "name\ndog\n"), blocks=[Block("action", 1)])
    for text in ("action", "thing=3", "action=x", "action=3,", "action=" + "9" * 9999):
        with pytest.raises(UsageError, match="expected KIND=LINE"):
            parse_blocks(text)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty: expected one tag a line"),
        (b"dog\n\ncat\n", "line 2 is empty; every line is a tag's"),
        (b"dog\ncat\n\n", "line 3 is empty"),
        (b"dog\ncat\nDog\n", "line 3: 'Dog' stands already in line 1"),
        (b"dog\ncaf\xe9\n", "line 2: not UTF-8 .*save the file as UTF-8"),
        (b"0.65\n0.8\n", "holds numbers and no names; thresholds are given with --thresholds"),
        (b'[{"dog": []}]', "object 1: 'dog': descriptions must be"),
        (b'[{"dog": ["a"]},\n"cat"]', "object 2: expected {name:"),
        (b'[{"dog": ["a"], "Dog": ["b"]}]', "object 1: 'Dog' stands twice"),
        (b'[{"dog": ["a"]},\n{"dog": ["b"]}]', "object 2: 'dog' stands twice"),
        (b'[{"dog":\n["a" "b"]}]', "line 2: not JSON"),
        (b"[" * 99999, "not JSON"),
        (b'[{"dog": ' + b"9" * 9999 + b"}]", "not JSON"),
    ],
)
def test_a_list_that_cannot_be_used_says_where(tmp_path: Path, content: bytes, said: str) -> None:
    with pytest.raises(VocabularyError, match=rf"tags\.txt.*{said}"):
        read_vocabulary(write(tmp_path / "tags.txt", content))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(VocabularyError, match=r"cannot read .*nowhere\.txt: No such file"):
        read_vocabulary(tmp_path / "nowhere.txt")


# -- what goes line by line ----------------------------------------------------------------------------


def test_thresholds_and_names_go_by_line(tmp_path: Path) -> None:
    words = Vocabulary(
        [Entry("dog", "object", translations={"de": "Hund"}), Entry("cat", "object")], name="x"
    )
    words = with_threshold_file(words, write(tmp_path / "t.txt", "0.65\n1"))
    words = with_translation_file(words, "zh", write(tmp_path / "zh.txt", "狗 \n猫\n"))
    assert list(words) == [
        Entry("dog", "object", threshold=0.65, translations={"de": "Hund", "zh": "狗"}),
        Entry("cat", "object", threshold=1.0, translations={"zh": "猫"}),
    ]
    assert words.name == "x"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("0.5\n", r"1 thresholds for the 2 tags of x@.*from line 2 on .*t\.txt has no thresholds"),
        ("0.5\n0.5\n0.5\n", r"3 thresholds for the 2 tags.*from line 3 on x@\w+ has no tags"),
        ("0.5\n\n", "line 2 is empty"),
        ("0.5\n1.01\n", "line 2: expected a number from 0 to 1 such as 0.65, found '1.01'"),
        ("0.5\n-0\n", None),
        ("0.5\n0_1\n", "line 2: .*'0_1'"),
        ("nan\n0\n", "line 1: .*'nan'"),
        ("high\n0\n", "line 1: .*'high'"),
    ],
)
def test_thresholds_that_do_not_fit_say_where(tmp_path: Path, content: str, said: str | None) -> None:
    words = Vocabulary([Entry("dog", "object"), Entry("cat", "object")], name="x")
    path = write(tmp_path / "t.txt", content)
    if said is None:
        assert with_threshold_file(words, path)[1].threshold == 0.0
        return
    with pytest.raises(VocabularyError, match=said):
        with_threshold_file(words, path)


def test_descriptions_find_their_tags_by_name_or_id(tmp_path: Path) -> None:
    words = Vocabulary([Entry("Dog", "object", synonyms=("hound",)), Entry("cat", "object")])
    path = write(tmp_path / "d.json", json.dumps([{"hound": ["Four legs.", "A tail."]}, {"yak": ["Hair."]}]))
    described = with_description_file(words, path)
    assert described.vocabulary[0].descriptions == ("Four legs.", "A tail.")
    assert described.unused == ("yak",)
    path = write(tmp_path / "d.jsonl", '{"id": "object:cat", "descriptions": ["Whiskers."]}\n')
    described = with_description_file(described.vocabulary, path)
    assert [len(entry.descriptions) for entry in described.vocabulary] == [2, 1]
    assert described.unused == ()
    path = write(tmp_path / "d.json", '[{"yak": ["Hair."]}]')
    with pytest.raises(VocabularyError, match=r"describes none of the 2 tags.*begins with 'yak'"):
        with_description_file(words, path)


# -- writing -------------------------------------------------------------------------------------------


def test_every_format_by_its_suffix(tmp_path: Path) -> None:
    for name in ("p.jsonl", "p.csv"):
        assert write_vocabulary(PETS, tmp_path / name) == []
        back = read_vocabulary(tmp_path / name).vocabulary
        assert (back.entries, back.ref, back.description) == (PETS.entries, PETS.ref, PETS.description)
    assert (tmp_path / "p.csv").read_bytes().startswith(b"\xef\xbb\xbfid,name")
    left_out = write_vocabulary(PETS, tmp_path / "p.txt")
    assert (tmp_path / "p.txt").read_text(encoding="utf-8") == "dog\nanimal\ntrain\ntrain\n=1+1\n"
    assert set(left_out) == {
        *("synonyms of 2 tags", "parents of 1 tags", "thresholds of 1 tags", "counts of 1 tags"),
        *("translations of 2 tags", "descriptions of 1 tags", "hidden marks of 1 tags"),
        *("kinds other than object of 2 tags", "the description 'of mine'"),
    }
    assert repeated_names(PETS) == ["train"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p.csv", "p.jsonl", "p.txt"]
    with pytest.raises(UsageError, match=r"ends in \.jsonl, \.csv or \.txt; or give --format"):
        write_vocabulary(PETS, tmp_path / "p.xlsx")
    assert write_vocabulary(PETS, tmp_path / "p.xlsx", format="csv") == []


def test_a_table_is_not_taken_for_a_list_of_names(tmp_path: Path) -> None:
    write_vocabulary(PETS, tmp_path / "p.csv")
    with pytest.raises(VocabularyError, match=r"is a table, .* vocabulary import .*p\.csv --out .*p\.jsonl"):
        Vocabulary.load(tmp_path / "p.csv")


def test_what_a_file_cannot_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(VocabularyError, match=r"holds a line break.*\.csv instead"):
        write_vocabulary(Vocabulary([Entry("a\nb", "object")]), tmp_path / "p.txt")
    with pytest.raises(VocabularyError, match="half a character"):
        write_vocabulary(Vocabulary([Entry("a", "object", synonyms=("\ud800",))]), tmp_path / "p.csv")
    assert list(tmp_path.iterdir()) == []


# -- the published files -------------------------------------------------------------------------------


def test_the_published_lists_with_thresholds_and_names(shared: Callable[[str], Path], tmp_path: Path) -> None:
    names = shared("published/ram_tag_list.txt").read_text(encoding="utf-8").split("\n")
    words = read_vocabulary(shared("published/ram_tag_list.txt")).vocabulary
    words = with_threshold_file(words, shared("published/ram_tag_list_threshold.txt"))
    words = with_translation_file(words, "zh", shared("published/ram_tag_list_chinese.txt"))
    assert [entry.name for entry in words] == names
    assert len(words) == words.languages["zh"] == 4585
    assert all(entry.threshold is not None for entry in words)
    assert words[words.position("object:zipper")].translations == {"zh": "拉链"}
    assert words[words.position("scene:airport")].kind == "scene"
    write_vocabulary(words, tmp_path / "ram.csv")
    back = read_vocabulary(tmp_path / "ram.csv").vocabulary
    assert (back.entries, back.ref) == (words.entries, words.ref)
    with pytest.raises(VocabularyError, match="4585 thresholds for the 3429 tags"):
        with_threshold_file(
            read_vocabulary(shared("published/tag2text_ori_tag_list.txt")).vocabulary,
            shared("published/ram_tag_list_threshold.txt"),
        )


def test_the_published_list_with_homographs(shared: Callable[[str], Path]) -> None:
    path = shared("published/tag2text_ori_tag_list.txt")
    words = read_vocabulary(path).vocabulary
    assert [entry.name for entry in words] == path.read_text(encoding="utf-8").splitlines()
    assert len(repeated_names(words)) == 114
    assert {"object:light", "action:light", "attribute:light", "object:train", "action:train"} <= set(
        words.ids
    )
    assert "object:black" in words and "attribute:black" in words


def test_the_published_descriptions_are_tags_and_describe_them(shared: Callable[[str], Path]) -> None:
    path = shared("published/openimages_rare_200_llm_tag_descriptions.first3.json")
    described = read_vocabulary(path).vocabulary
    assert [len(entry.descriptions) for entry in described] == [51, 51, 51]
    tags = read_vocabulary(shared("published/openimages_rare_200_ram_taglist.txt")).vocabulary
    joined = with_description_file(tags, path)
    assert joined.unused == ()
    assert [entry.name for entry in joined.vocabulary if entry.descriptions] == [e.name for e in described]
