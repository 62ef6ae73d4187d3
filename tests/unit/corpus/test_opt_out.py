"""Opt-out signals: read where people put them, kept with date and source, and never guessed from what is damaged."""

import io
import json
import unicodedata

import pytest
from PIL import Image, PngImagePlugin

from attributary_train.corpus.opt_out import signal, xmp
from attributary_train.corpus.opt_out.signal import Fact, Signal, merge
from attributary_train.corpus.opt_out.site import Site
from tests.support.opt_outs import ATTRIBUTE, ELEMENT, VOCABULARY, packet, picture


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("spelling", [ATTRIBUTE, ELEMENT])
def test_the_data_mining_property_is_read_in_every_format(form, spelling):
    data = picture(form, packet(VOCABULARY + "DMI-PROHIBITED-AIMLTRAINING", spelling))
    (found,) = xmp.data_mining(xmp.xmp_of(data), "a.png", "00")
    assert (found.kind, found.means) == ("iptc-plus", "reserved")
    assert found.value == VOCABULARY + "DMI-PROHIBITED-AIMLTRAINING"


@pytest.mark.parametrize(
    ("value", "means"),
    [
        ("DMI-PROHIBITED", "reserved"),
        (VOCABULARY + "DMI-PROHIBITED-GENAIMLTRAINING", "reserved"),
        (VOCABULARY + "DMI-PROHIBITED-EXCEPTSEARCHENGINEINDEXING", "reserved"),
        (VOCABULARY + "DMI-PROHIBITED-SEECONSTRAINT", "conditional"),
        (VOCABULARY + "DMI-PROHIBITED-SOMETHINGNEW", "conditional"),
        (VOCABULARY + "DMI-ALLOWED", "allowed"),
        (VOCABULARY + "DMI-UNSPECIFIED", "unspecified"),
        ("perhaps", "unreadable"),
    ],
)
def test_values_mean_what_the_vocabulary_says(value, means):
    assert [found.means for found in xmp.data_mining(packet(value), "a", "0")] == [means]


def test_hostile_xmp_is_a_fact_and_no_error():
    bomb = b'<!DOCTYPE x [<!ENTITY a "aaaa">]><x>DataMining &a;</x>'
    assert [found.means for found in xmp.data_mining(bomb, "a", "0")] == ["unreadable"]
    assert [found.means for found in xmp.data_mining(b"<x>DataMining", "a", "0")] == ["unreadable"]
    assert xmp.data_mining(b"<x/>", "a", "0") == []
    assert xmp.xmp_of(b"no picture") == b""


def said(folder, name):
    return [
        (found.kind, found.means, found.source)
        for found in Site.of(folder).signals((folder / name).resolve())
    ]


def test_tdmrep_rules_apply_in_their_order(folder):
    rules = [
        {"location": "/pictures/a/*.png", "tdm-reservation": 1, "tdm-policy": "https://x/p"},
        {"location": "/", "tdm-reservation": 0},
    ]
    pictures = folder({".well-known/tdmrep.json": json.dumps(rules)})
    assert said(pictures, "a/0.png") == [("tdmrep", "reserved", "../.well-known/tdmrep.json")]
    assert said(pictures, "b/1 x.jpg") == [("tdmrep", "allowed", "../.well-known/tdmrep.json")]


MATCHING = ("/", "/b/", "/b/1%20x.jpg", "/b/1 x.jpg$", "*.jpg$", "/b/1")
OTHERS = ("/b/1$", "/a", "*.png")


@pytest.mark.parametrize(
    ("location", "matches"), [*((one, True) for one in MATCHING), *((one, False) for one in OTHERS)]
)
def test_locations_are_beginnings_and_patterns(folder, location, matches):
    pictures = folder({"pictures/tdmrep.json": json.dumps([{"location": location, "tdm-reservation": 1}])})
    assert bool(said(pictures, "b/1 x.jpg")) is matches


def test_a_damaged_tdmrep_is_told_and_reserves_nothing(folder):
    for text in ("[", "7", '[{"tdm-reservation": 1}]', "[" * 100_000):
        pictures = folder({"pictures/tdmrep.json": text})
        assert said(pictures, "a/0.png") == [("tdmrep", "unreadable", "tdmrep.json")]


def test_a_page_reserves_the_pictures_that_it_shows(folder):
    page = '<html><head><META name="TDM-Reservation" content="1"></head><img src="a/0.png"><img src="https://x/b.png"></html>'
    pictures = folder({"pictures/index.html": page.replace("META", "meta")})
    assert said(pictures, "a/0.png") == [("tdmrep", "reserved", "index.html")]
    assert said(pictures, "b/1 x.jpg") == []
    pictures = folder(
        {
            "pictures/index.html": "<p>nothing</p>",
            "pictures/b/page.html": page.replace("a/0.png", "1%20x.jpg"),
        }
    )
    assert said(pictures, "b/1 x.jpg") == [("tdmrep", "reserved", "b/page.html")]


def test_robots_and_ai_txt_are_read_with_their_wildcards(folder):
    pictures = folder(
        {"robots.txt": "User-agent: GPTBot\nDisallow: /pictures/a/\n\nUser-agent: *\nAllow: /\n"}
    )
    assert said(pictures, "a/0.png") == [("robots", "reserved", "../robots.txt")]
    assert said(pictures, "b/1 x.jpg") == []
    pictures = folder({"robots.txt": "", "pictures/ai.txt": "User-Agent: *\nDisallow: *.jpg\nAllow: *.png\n"})
    assert said(pictures, "a/0.png") == []
    assert said(pictures, "b/1 x.jpg") == [("ai.txt", "reserved", "ai.txt")]


ALL, COMPOSED = "User-agent: *\nDisallow: /\n", "b\u00fccher"
RULES = [{"location": f"/pictures/{COMPOSED}/", "tdm-reservation": 1}]


@pytest.mark.parametrize(("name", "kind"), [("robots.txt", "robots"), ("ai.txt", "ai.txt")])
@pytest.mark.parametrize(
    "text",
    [
        ALL.encode("utf-8-sig"),
        ALL.encode("utf-16"),
        ALL.replace("\n", "\r\n").encode("utf-8-sig"),
        ALL.replace("*", "GPTBot/1.0").encode(),
    ],
    ids=["mark", "utf-16", "mark and CRLF", "version"],
)
def test_robots_are_read_as_programs_write_them(folder, name, kind, text):
    assert said(folder({name: text}), "a/0.png") == [(kind, "reserved", f"../{name}")]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("robots.txt", f"User-agent: *\nDisallow: /pictures/{COMPOSED}/\n"),
        ("tdmrep.json", json.dumps(RULES)),
        ("a.html", f'<meta name="tdm-reservation" content="1"><img src="pictures/{COMPOSED}/0.png">'),
    ],
)
@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_a_site_may_write_accents_in_another_form_than_the_folder(folder, name, text, form):
    pictures = folder({name: text})
    (pictures / unicodedata.normalize(form, COMPOSED)).mkdir()
    file = f"{unicodedata.normalize(form, COMPOSED)}/0.png"
    (pictures / file).write_bytes(picture())
    assert [means for _, means, _ in said(pictures, file)] == ["reserved"]
    assert said(pictures, "a/0.png") == []


RESERVED = '<meta name="tdm-reservation" content="1">'


@pytest.mark.parametrize(
    ("name", "page"),
    [
        ("a.html", RESERVED + '<img src="/pictures/a/0.png">'),
        ("pictures/a.html", RESERVED + '<img src="/pictures/a/0.png"><img src="/a/0.png">'),
        ("pictures/A.HTML", RESERVED + '<img src="a/0.png">'),
        ("pictures/a.xhtml", RESERVED + '<img src="a/0.png">'),
        ("pictures/a.html", (RESERVED + '<img src="a/0.png">').encode("utf-16")),
        ("pictures/b/a.html", '<base href="../">' + RESERVED + '<img src="a/0.png">'),
        ("pictures/b/a.html", '<base href="/pictures/x.html">' + RESERVED + '<img src="a/0.png">'),
        ("a.html", RESERVED + '<img src="https://ada.example/pictures/a/0.png?w=300">'),
        ("pictures/b/a.html", RESERVED + '<img src="//ada.example/a/0.png"><a href="mailto:a/0.png">'),
        ("pictures/a.html", '<base href="https://ada.example/pictures/">' + RESERVED + '<img src="a/0.png">'),
        (
            "pictures/b/a.html",
            '<base href="https://ada.example/pictures/">' + RESERVED + '<img src="a/0.png">',
        ),
        (
            "pictures/a.html",
            "<![if !IE]>" + RESERVED + '<a href="http://[x"><a href="%00"><img src="a/0.png">',
        ),
    ],
)
def test_pages_lead_to_their_pictures_whatever_else_is_in_them(folder, name, page):
    pictures = folder({name: page})
    assert [(kind, means) for kind, means, _ in said(pictures, "a/0.png")] == [("tdmrep", "reserved")]
    assert said(pictures, "b/1 x.jpg") == []


def test_a_page_that_allows_takes_nothing_from_one_that_reserves(folder):
    allowed = '<meta name="tdm-reservation" content="0"><img src="a/0.png">'
    pictures = folder({"pictures/a.html": allowed, "pictures/b.html": RESERVED + '<img src="a/0.png">'})
    assert said(pictures, "a/0.png") == [
        ("tdmrep", "allowed", "a.html"),
        ("tdmrep", "reserved", "b.html"),
    ]


def test_no_rule_of_tdmrep_ends_a_build_or_holds_it_up(folder):
    rules = [{"location": "/" + "*a" * 40 + "$", "tdm-reservation": 1}]
    pictures = folder({"tdmrep.json": json.dumps(rules)})
    name = f"a/{'a' * 200}.png"
    (pictures / name).write_bytes(picture())
    assert said(pictures, name) == []
    pictures = folder({"tdmrep.json": json.dumps([{"location": "/\ud800", "tdm-reservation": 1}])})
    assert said(pictures, "a/0.png") == [("tdmrep", "unreadable", "../tdmrep.json")]


def test_a_packet_is_found_as_other_programs_lay_it_down():
    told = packet("DMI-PROHIBITED")
    assert [found.means for found in xmp.data_mining(told.decode().encode("utf-16"), "a", "0")] == [
        "reserved"
    ]
    text = PngImagePlugin.PngInfo()
    text.add_text("Raw profile type xmp", f"\nxmp\n{len(told):8}\n{told.hex()}\n", zip=True)
    out = io.BytesIO()
    Image.new("RGB", (9, 9)).save(out, "PNG", pnginfo=text)
    assert [found.means for found in xmp.data_mining(xmp.xmp_of(out.getvalue()), "a", "0")] == ["reserved"]


@pytest.mark.parametrize(
    ("text", "means"),
    [
        ("User-Agent: *\nContent-Signal: search=yes,ai-train=no,use=reference\nAllow: /\n", ["reserved"]),
        ("Content-signal: search=yes, ai-train = NO # mine\n", ["reserved"]),
        (
            "User-agent: Bingbot\nUser-agent: GPTBot/1.0\n\nAllow: /\nContent-Signal: ai-train=no\n",
            ["reserved"],
        ),
        ("User-agent: *\nContent-Signal: ai-train=yes\n", ["allowed"]),
        ("User-agent: *\nContent-Signal: ai-train=perhaps\n", ["unreadable"]),
        ("User-agent: *\nContent-Usage: train-ai=n\n", ["reserved"]),
        ("User-agent: *\nContent-Usage: /pictures/a/ train-ai=n\n", ["reserved"]),
        ("User-agent: *\nContent-Usage: /pictures/b/ train-ai=n\n", []),
        ("User-agent: *\nContent-Signal: search=no, ai-input=no\n", []),
        ("User-agent: *\nAllow: /\nUser-agent: Bingbot\nContent-Signal: ai-train=no\n", []),
        ("# Content-Signal: ai-train=no\n", []),
    ],
)
def test_content_signals_are_read(folder, text, means):
    told = said(folder({"robots.txt": text}), "a/0.png")
    assert told == [("content-signal", one, "../robots.txt") for one in means]


@pytest.mark.parametrize(
    ("page", "kinds"),
    [
        ('<meta name="robots" content="index, NoAI, noimageai">', ["noai"]),
        ('<META content="noimageai" NAME="ROBOTS">', ["noai"]),
        ('<meta http-equiv="X-Robots-Tag" content="GPTBot: noai">', ["noai"]),
        ('<meta name="GPTBot" content="noai">' + RESERVED, ["tdmrep", "noai"]),
        ('<meta http-equiv="tdm-reservation" content="1">', ["tdmrep"]),
        ('<meta name="keywords" content="noai, art">', []),
        ('<meta name="robots" content="noindex, nofollow"><p>noai</p>', []),
    ],
)
def test_a_page_with_noai_reserves_the_pictures_that_it_shows(folder, page, kinds):
    pictures = folder({"pictures/index.html": page + '<img src="a/0.png">'})
    assert said(pictures, "a/0.png") == [(kind, "reserved", "index.html") for kind in kinds]
    assert said(pictures, "b/1 x.jpg") == []


@pytest.mark.parametrize("end", ["/", "#"])
@pytest.mark.parametrize(("flag", "means"), [("1", "reserved"), ("0", "allowed"), ("yes", "unreadable")])
def test_a_reservation_in_xmp_is_read(end, flag, means):
    told = packet("DMI-ALLOWED").replace(
        b"</rdf:RDF>",
        f'<rdf:Description xmlns:tdm="http://www.w3.org/ns/tdmrep{end}" tdm:reservation="{flag}"/></rdf:RDF>'.encode(),
    )
    found = [(one.kind, one.means) for one in xmp.data_mining(told, "a", "0")]
    assert found == [("iptc-plus", "allowed"), ("tdmrep", means)]


def test_facts_keep_when_they_were_first_and_last_there():
    gone, stays, new = (
        Signal("robots", "reserved", value, "robots.txt", "00") for value in ("gone", "stays", "new")
    )
    first = merge([], [(1, "u", gone), (1, "u", stays)], "2026-01-01")
    second = merge(first, [(1, "u", stays), (1, "u", new)], "2026-02-02")
    told = {fact.value: (fact.first_seen, fact.last_seen) for fact in second}
    assert told == {
        "gone": ("2026-01-01", "2026-01-01"),
        "stays": ("2026-01-01", "2026-02-02"),
        "new": ("2026-02-02", "2026-02-02"),
    }
    assert signal.summary(second, "2026-02-02")["items_reserved"] == 1
    assert isinstance(second[0], Fact)
