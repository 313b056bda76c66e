"""Names with braces and stars: as in a shell, in order, every name of a brace needed."""

import pytest

from minibatch.tools.sources.patterns import braces_expanded, matched


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("a.tar", ["a.tar"]),
        ("{a,b}.tar", ["a.tar", "b.tar"]),
        ("{a,}.tar", ["a.tar", ".tar"]),
        ("{9..11}", ["9", "10", "11"]),
        ("{009..011}", ["009", "010", "011"]),
        ("{5..5}", ["5"]),
        ("{a,b}-{1..2}", ["a-1", "a-2", "b-1", "b-2"]),
    ],
)
def test_braces_mean_what_they_mean_in_a_shell(pattern, names):
    assert list(braces_expanded(pattern)) == names


@pytest.mark.parametrize("pattern", ["{3..1}", "{a}", "{}", "{0..99999999999}"])
def test_braces_that_mean_nothing_are_refused(pattern):
    with pytest.raises(ValueError, match=r"must count upwards|neither a list"):
        list(braces_expanded(pattern))


def test_every_name_of_a_brace_must_exist_and_stars_take_what_there_is(tmp_path):
    for name in ("b-1.tar", "a-1.tar", "a-0.tar", "c.txt"):
        (tmp_path / name).touch()
    assert matched(f"{tmp_path}/*.tar", ()) == [f"{tmp_path}/{name}" for name in ("a-0.tar", "a-1.tar", "b-1.tar")]
    assert matched(f"{tmp_path}/{{b,a}}-1.tar", ()) == [f"{tmp_path}/b-1.tar", f"{tmp_path}/a-1.tar"]
    assert matched(str(tmp_path), (".tar",)) == [f"{tmp_path}/{name}" for name in ("a-0.tar", "a-1.tar", "b-1.tar")]
    with pytest.raises(FileNotFoundError, match=r"there is no file '.*a-2\.tar' \(of "):
        matched(f"{tmp_path}/a-{{0..2}}.tar", ())
    with pytest.raises(FileNotFoundError, match="there is no file"):
        matched(f"{tmp_path}/z*.tar", ())


def test_a_name_that_exists_is_no_pattern(tmp_path):
    (tmp_path / "a{b}*.tar").touch()
    assert matched(f"{tmp_path}/a{{b}}*.tar", ()) == [f"{tmp_path}/a{{b}}*.tar"]
