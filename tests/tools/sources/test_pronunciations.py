"""Pronouncing dictionaries: entries against a twin, fixed vocabularies, alternatives, stress, and bad lines."""

import json

import numpy as np
import pytest

from minibatch.tools.sources import BadRecord, BadRecords, Options, open_source
from minibatch.tools.sources.pronunciations import LETTERS, PHONES
from tests.plain import pronunciations as plain
from tests.tools.samples import DATA, converted, rows_of, run

TEXT = """;;; a comment
A  AH0
A(1)  EY1

'bout B AW1 T # about
read  R EH1 D
READ(2)  R IY1 D   # present
H-BOMB\tEY1 CH B AA2 M
(PAREN  P ER0 EH1 N
#SHARP-SIGN  SH AA1 R P S AY1 N
X.2  EH1 K S T UW1
"""


@pytest.fixture
def dictionary(tmp_path):
    def write(text, name="a.dict"):
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(tmp_path / name)

    return write


def entries(rows):
    """Rows in the words of the twin."""
    stress = rows.get("stress") or [None] * len(rows["word"])
    return [
        (word, [(PHONES[p - 1], None if s < 0 else int(s)) for p, s in zip(phones, own, strict=True)])
        for word, phones, own in zip(rows["word"], rows["phones"], stress, strict=True)
    ]


def test_entries_are_those_of_the_twin(dictionary):
    source = dictionary(TEXT)
    rows = rows_of(source)
    assert entries(rows) == plain.read(TEXT)
    assert rows["word"] == ["A", "A", "'BOUT", "READ", "READ", "H-BOMB", "(PAREN", "#SHARP-SIGN", "X.2"]
    for word, letters in zip(rows["word"], rows["letters"], strict=True):
        assert "".join(LETTERS[number - 1] for number in letters) == word
        assert letters.dtype == np.int64
    assert open_source(source).describe() == "pronouncing dictionary of 9 entries, with stress"
    assert open_source(source).rows == 9


def test_without_a_digit_there_is_no_stress(dictionary):
    rows = rows_of(dictionary("CAT  K AE T\nA  AH\n"))
    assert rows.keys() == {"word", "letters", "phones"}
    assert [phones.tolist() for phones in rows["phones"]] == [[20, 2, 31], [3]]
    assert rows_of(dictionary("CAT  K AE T\nA  AH # 1\n")).keys() == rows.keys()


def test_the_vocabularies_are_the_same_whatever_is_in_the_file_and_leave_0_out(dictionary):
    one, other = (open_source(dictionary(text)).metadata for text in ("A  AH0\n", "ZOO  Z UW\n"))
    assert one == other
    letters, phones = (json.loads(one[name]["vocabulary"]) for name in ("letters", "phones"))
    assert (letters, phones) == (["", *LETTERS], ["", *PHONES])
    assert (len(set(letters)), len(set(phones))) == (69, 40)


BAD = [
    (b"A  AH0\nB\nC  S IY1\n", 2, "'B' has no phones: expected a word and its phones"),
    (b"A  AH0\nB # B IY1\n", 2, "'B' has no phones"),
    (b"A  AH0\n\nB  B XX1\n", 3, "'XX1' is none of the phones AA AE AH"),
    (b"A  AH0\nB  B IY3\n", 2, "'IY3' is none of the phones"),
    (b"A  AH0\nB  12\n", 2, "'12' is none of the phones"),
    ("A  AH0\nDÉJÀ  D EY2 ZH AA2\n".encode(), 2, "'É' in 'DÉJÀ' is not in the alphabet ABC"),
    ("A  AH0\nDÉJÀ  D EY2 ZH AA2\n".encode("latin-1"), 2, "it is not UTF-8"),
]


@pytest.mark.parametrize(("text", "line", "said"), BAD)
def test_a_bad_line_is_named_and_may_be_passed_over(text, line, said, dictionary):
    with pytest.raises(BadRecord, match=rf"a\.dict', line {line}: ") as error:
        rows_of(dictionary(text))
    assert said in error.value.reason
    bad = BadRecords(1)
    rows = rows_of(dictionary(text), bad=bad)
    assert rows["word"] == (["A", "C"] if b"C  S" in text else ["A"])
    assert [record.where for record in bad.found] == [f"line {line}"]


@pytest.mark.parametrize("name", ["a.dict", "cmudict", "cmudict-0.7b", "cmudict.0.7a", "cmudict.train", "CMUdict.test"])
def test_dictionaries_are_recognised_by_their_names(name, dictionary):
    assert open_source(dictionary(TEXT, name)).rows == 9


def test_other_names_need_the_format(dictionary, tmp_path):
    source = dictionary(TEXT, "words.pron")
    with pytest.raises(ValueError, match=r"no known format.*cmudict-0\.7b \(pronunciations\)"):
        open_source(source)
    assert open_source(source, Options(format="pronunciations")).rows == 9
    result = run("convert", source, tmp_path / "out", "--format", "pronunciations")
    assert result.exit_code == 0, result.output


def test_cmudict(tmp_path):
    source = DATA / "cmudict.test"
    if not source.is_file():
        pytest.skip(f"{source} is not there")
    dataset = converted(source, tmp_path / "out")
    rows = dataset.read(np.arange(len(dataset)))
    assert entries({**rows, "stress": [np.full(len(p), -1) for p in rows["phones"]]}) == plain.read(source.read_text())
    assert len(dataset) == 12_855


def test_a_line_of_a_comment_alone_is_passed_over(dictionary):
    assert rows_of(dictionary(" # first\nA  AH0\n\t#last\n"))["word"] == ["A"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [("STRAßE  S T", "'ß' in 'STRAßE' is not in the alphabet"), ("A  AH12", "'AH12' is none of the phones")],
)
def test_what_only_becomes_a_letter_or_phone_by_a_change_is_refused(line, reason, dictionary):
    with pytest.raises(ValueError, match=reason):
        rows_of(dictionary(f"{line}\n"))
