"""What a corpus keeps of opt-out signals, those of signed pictures too."""

import csv
import io

import pyarrow.parquet as pq
import pytest
from PIL import Image

from attributary_train.corpus.build import build
from attributary_train.corpus.corpus import Corpus
from attributary_train.corpus.opt_out import cawg, signal
from attributary_train.corpus.sources.folder import Folder
from tests.support.opt_outs import packet, picture


def build_corpus(tmp_path, pictures, files):
    with (tmp_path / "items.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "caption", "creator"])
        writer.writerows([name, "a square", "Ann"] for name in files)
    build(
        tmp_path / "corpus", [Folder(pictures, tmp_path / "items.csv")], cache=tmp_path / "cache", workers=1
    )
    return Corpus.open(tmp_path / "corpus")


def test_a_corpus_keeps_signals_and_leaves_its_items_in(tmp_path, folder):
    pictures = folder({"robots.txt": "User-agent: CCBot\nDisallow: /pictures/b/\n"})
    (pictures / "a" / "2.png").write_bytes(picture("PNG", packet("DMI-PROHIBITED"), 2))
    (pictures / "a" / "3.png").write_bytes(picture("PNG", number=3))
    (pictures / "a" / "3.xmp").write_bytes(packet("DMI-ALLOWED"))
    files = ["a/0.png", "b/1 x.jpg", "a/2.png", "a/3.png"]
    corpus = build_corpus(tmp_path, pictures, files)
    assert len(corpus) == 4
    facts, at = signal.read_facts(tmp_path / "corpus" / signal.SIGNALS_FILE)
    told = {(fact.uri, fact.kind, fact.means, fact.source) for fact in facts}
    assert told == {
        ("pictures/b/1 x.jpg", "robots", "reserved", "../robots.txt"),
        ("pictures/a/2.png", "iptc-plus", "reserved", "a/2.png"),
        ("pictures/a/3.png", "iptc-plus", "allowed", "a/3.xmp"),
    }
    assert corpus.facts["opt_out"]["items_reserved"] == 2
    assert {fact.last_seen for fact in facts} == {at}
    # Nothing of where the folder lies.
    assert str(tmp_path) not in str(pq.read_table(tmp_path / "corpus" / signal.SIGNALS_FILE).to_pylist())


def test_content_credentials_say_what_their_maker_allows(certificates):
    pytest.importorskip("c2pa", reason="c2pa-python is not installed")
    from attributary.receipts.credentials import add_credentials

    chain, key = certificates.certificate()
    entries = {"cawg.ai_generative_training": {"use": "notAllowed"}, "cawg.ai_inference": {"use": "allowed"}}
    assertion = {"label": "cawg.training-mining", "data": {"entries": entries}}
    signed = add_credentials(picture(), [assertion], chain, key)
    (found,) = cawg.training_mining(signed, "a.png", "00")
    assert (found.kind, found.means) == ("cawg", "reserved")
    assert "ai_inference" not in found.value
    entries["cawg.ai_generative_training"] = {"use": "constrained"}
    (found,) = cawg.training_mining(add_credentials(picture(), [assertion], chain, key), "a.png", "00")
    assert found.means == "conditional"
    assert cawg.training_mining(picture(), "a.png", "00") == []
    assert cawg.training_mining(b"jumb" + picture(), "a.png", "00")[0].means == "unreadable"
    entries["cawg.ai_generative_training"] = {"use": "notAllowed"}
    # As phones write it: a JPEG with a second picture behind the first.
    out = io.BytesIO()
    Image.new("RGB", (9, 9)).save(out, "MPO", save_all=True, append_images=[Image.new("RGB", (9, 9))])
    signed = add_credentials(out.getvalue(), [assertion], chain, key)
    assert Image.open(io.BytesIO(signed)).format == "MPO"
    (found,) = cawg.training_mining(signed, "a.jpg", "00")
    assert found.means == "reserved"


def test_content_credentials_of_another_shape_are_a_fact_and_no_error(certificates):
    pytest.importorskip("c2pa", reason="c2pa-python is not installed")
    from attributary.receipts.credentials import add_credentials

    chain, key = certificates.certificate()
    for data in ({"entries": [{"cawg.ai_training": {"use": "notAllowed"}}]}, {"entries": "none"}):
        signed = add_credentials(picture(), [{"label": "cawg.training-mining", "data": data}], chain, key)
        (found,) = cawg.training_mining(signed, "a.png", "00")
        assert found.means == "unreadable"


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_a_signed_picture_in_a_folder_is_told_by_its_corpus(tmp_path, folder, certificates, form):
    """Also where the assertion is of the C2PA's older kind and repeated, and beside pictures that say nothing."""
    pytest.importorskip("c2pa", reason="c2pa-python is not installed")
    from attributary.receipts.credentials import add_credentials

    chain, key = certificates.certificate()
    older = {
        "label": "c2pa.training-mining",
        "data": {"entries": {"c2pa.data_mining": {"use": "notAllowed"}}},
    }
    newer = {"label": "cawg.training-mining", "data": {"entries": {"cawg.ai_training": {"use": "allowed"}}}}
    signed = add_credentials(picture(form, number=2), [older, newer], chain, key)
    pictures = folder({})
    name = f"a/2.{form.lower()}"
    (pictures / name).write_bytes(signed)
    corpus = build_corpus(tmp_path, pictures, ["a/0.png", name])
    facts, _ = signal.read_facts(tmp_path / "corpus" / signal.SIGNALS_FILE)
    assert {(fact.uri, fact.kind, fact.means, fact.source) for fact in facts} == {
        (f"pictures/{name}", "cawg", "reserved", name),
        (f"pictures/{name}", "cawg", "allowed", name),
    }
    # A right to one use takes nothing from what is reserved.
    assert corpus.facts["opt_out"]["items_reserved"] == 1


def test_sidecars_are_found_whatever_their_ending_is_written_in(tmp_path, folder):
    pictures = folder({})
    names = {
        "a/2.png": "a/2.XMP",
        "a/3.png": "a/3.png.Xmp",
        "a/b\u00fc.png": "a/bu\u0308.xmp",
        "a/A.png": "a/a.xmp",
    }
    for number, (name, sidecar) in enumerate(names.items()):
        (pictures / name).write_bytes(picture(number=number))
        (pictures / sidecar).write_bytes(packet("DMI-PROHIBITED"))
    build_corpus(tmp_path, pictures, ["a/0.png", *names])
    facts, _ = signal.read_facts(tmp_path / "corpus" / signal.SIGNALS_FILE)
    # Where capitals tell files apart, a.xmp is not about A.png.
    assert {fact.source for fact in facts} == set(names.values()) - {"a/a.xmp"}
