"""What notebooks show."""

from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from ledgers import make_result

from fusions.errors import Status
from fusions.report.table import with_error


class Balance(HTMLParser):
    """Count tags that are left open, and gather the text."""

    def __init__(self):
        super().__init__()
        self.open, self.text = [], ""

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def read(result):
    """Parse the HTML of a result; returns its text."""
    parser = Balance()
    parser.feed(result._repr_html_())
    assert parser.open == []
    return parser.text


@pytest.fixture(scope="module")
def result():
    return make_result(n_live=50, n_kill=5)


def test_html_tells_what_the_table_tells(result):
    text = read(result)
    assert with_error(result.logZ, result.logZ_err).replace("+-", "\u00b1") in text
    assert str(result) in text
    assert "r2 (derived)" in text


def test_html_of_a_large_evidence(result):
    far = replace(result, logL=result.logL - 5e7, logL_birth=result.logL_birth - 5e7)
    assert f"{far.logZ:.2f} \u00b1 0." in read(far)


def test_html_escapes_names_and_shows_warnings(result):
    told = replace(result, names=("<b>", *result.names[1:]), info={"name": "a & b", "warnings": ["1 < 2"]}, status=Status.MAX_CALLS)
    text = read(told)
    assert "<b>" in text
    assert "a & b" in text
    assert "\u26a0 1 < 2" in text
    assert Status.MAX_CALLS.value in text


def test_html_of_many_columns_and_of_none(result):
    many = replace(result, theta=np.tile(result.theta, 6), names=tuple(f"p{i}" for i in range(30)))
    assert "10 more" in read(many)
    nothing = replace(result, logL=np.full(len(result.logL), -np.inf))
    assert "unknown" in read(nothing)
