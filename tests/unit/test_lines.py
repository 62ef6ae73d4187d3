"""The count of lines by package: code, words and blank lines apart."""

from lines import kinds

MODULE = '''"""Says what
it is."""

# Why.
TEXT = """not
words"""


def one() -> int:
    """Docstring."""
    return 1  # code with a remark
'''


def test_code_words_and_blank_lines_are_counted_apart():
    assert kinds(MODULE) == {"code": 4, "words": 4, "blank": 3}
