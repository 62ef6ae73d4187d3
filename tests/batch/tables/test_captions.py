"""Law 8: tables never shift. A captions CSV whose row has another width than its header is refused by line."""

import pytest

from attributary_train.corpus import CorpusError
from attributary_train.corpus.sources.captions import caption_rows


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,caption,creator\na.png,a dog,Bob\nb.png,a cat, sitting,Ann\n", "line 3: 4 fields, the header has 3"),
        ('file,caption,creator\n"a.png",two\nb.png,"two\nlines",Ann,x\n', "line 4: 4 fields, the header has 3"),
        ("file,caption,creator\na.png,x,Ann,\n", "line 2: 4 fields"),
        ('file,caption,creator\na.png,"never closed,Ann\nb.png,y,Bob\n', "line 3"),
        ("file,caption,creator,creator\na.png,x,Ann,Bob\n", "column creator is there twice"),
    ],
)  # fmt: skip
def test_a_row_that_would_shift_is_refused_by_its_line(tmp_path, text, message):
    (tmp_path / "i.csv").write_text(text)
    with pytest.raises(CorpusError, match=message):
        list(caption_rows(tmp_path / "i.csv"))


def test_quoted_commas_and_short_rows_stay(tmp_path):
    (tmp_path / "i.csv").write_text('file,caption,creator\na.png,"a cat, sitting",Ann\nb.png,dog\n')
    assert [row["creator"] for row in caption_rows(tmp_path / "i.csv")] == ["Ann", None]
