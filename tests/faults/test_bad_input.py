"""The whole list of bad input, against a running server: a clear answer each time, and a healthy server after it."""

import io
import struct
import zlib

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from PIL import Image

from attributary.client import Filter
from attributary.errors import InvalidArgumentError, NotFoundError
from attributary.v1 import attribution_pb2 as pb
from attributary.v1 import attribution_pb2_grpc as rpc

LIMITS = {"max_image_bytes": 2_000_000, "max_prompt_bytes": 8192, "max_top_k": 40, "max_batch_queries": 4}


@pytest.fixture(scope="module")
def strict(start_server):
    """A server with low limits, shared by every case: each must leave it healthy."""
    with start_server(limits=LIMITS) as running:
        yield running


@pytest.fixture
def ask(strict, healthy):
    """Ask; afterwards the same server must still answer a healthy request."""
    with strict.client() as client:
        yield client.attribute
        healthy(client)
    assert strict.process.poll() is None


@pytest.fixture(scope="session")
def healthy(picture):
    def check(client):
        assert client.attribute(picture(3)).items[0].id == 1003

    return check


@pytest.fixture(scope="module")
def dim(strict):
    with strict.client() as client:
        return client.describe().dim


@pytest.fixture(scope="session")
def drawing(picture):
    """Item 1003 as a Pillow picture, RGB 64 x 64."""
    with Image.open(io.BytesIO(picture(3))) as opened:
        return opened.convert("RGB")


def encoded(picture, kind="PNG", **settings):
    out = io.BytesIO()
    picture.save(out, kind, **settings)
    return out.getvalue()


def bomb(width, height):
    """A PNG of a few hundred bytes that claims width x height pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


# Works as a person would expect: the same drawing in another coat is still item 1003.
def as_16_bit(drawing):
    grey = np.asarray(drawing.convert("L"), np.uint16)
    return encoded(Image.fromarray(grey * 257)), encoded(drawing.convert("L"))


def as_cmyk(drawing):
    return encoded(drawing.convert("CMYK"), "JPEG", quality=100, subsampling=0), None


def as_palette(drawing):
    return encoded(drawing.quantize(256)), None


def as_animation(drawing):
    black = Image.new("RGB", drawing.size)
    return encoded(drawing, "GIF", save_all=True, append_images=[black] * 3), None


def as_webp_animation(drawing):
    black = Image.new("RGB", drawing.size)
    return encoded(drawing, "WEBP", save_all=True, append_images=[black], lossless=True), None


def as_rotated(drawing):
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(drawing.rotate(90, expand=True), "JPEG", quality=95, exif=exif), None


def as_alpha(drawing):
    # Pixels that cannot be seen hold garbage; over white they must not be.
    pixels = np.array(drawing.convert("RGBA"))
    pixels[:10, :, :3], pixels[:10, :, 3] = (255, 0, 255), 0
    over_white = np.array(drawing)
    over_white[:10] = 255
    return encoded(Image.fromarray(pixels)), encoded(Image.fromarray(over_white))


@pytest.mark.parametrize(
    "make", [as_16_bit, as_cmyk, as_palette, as_animation, as_webp_animation, as_rotated, as_alpha]
)
def test_unusual_pictures_are_seen_as_a_person_sees_them(ask, drawing, make):
    data, plain = make(drawing)
    answer, wanted = ask(data), ask(plain or encoded(drawing))
    assert answer.items[0].id == wanted.items[0].id
    assert answer.items[0].similarity == pytest.approx(wanted.items[0].similarity, abs=0.01)
    if plain is None:
        assert answer.items[0].id == 1003


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1)])
def test_tiny_and_thin_pictures_are_answered(ask, size):
    assert len(ask(encoded(Image.new("RGB", size, "red"))).items) == 10
    width, height = size
    assert len(ask(np.zeros((height, width, 3), np.uint8)).items) == 10


def test_a_100_megapixel_picture_within_the_byte_limit_names_the_pixel_limit(ask):
    data = encoded(Image.new("1", (10_000, 10_000)))
    refused(ask, "query.image", "50000000", data)


REFUSED = {
    "zero bytes": (b"", "empty"),
    "one byte": (b"\xff", ""),
    "text": (b"GET / HTTP/1.1\r\n\r\n", ""),
    "PDF": (b"%PDF-1.7\n" + b"x" * 100, ""),
    "SVG": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", ""),
    "PNG signature alone": (b"\x89PNG\r\n\x1a\n", ""),
    "JPEG signature alone": (b"\xff\xd8\xff\xe0", ""),
    "GIF signature alone": (b"GIF89a", ""),
    "WebP signature alone": (b"RIFF\x04\0\0\0WEBP", ""),
    "BMP signature alone": (b"BM", ""),
    "bomb": (bomb(30_000, 30_000), "50000000"),
    "bomb with sides of 2^31 - 1": (bomb(2**31 - 1, 2**31 - 1), ""),
    "zero sides": (bomb(0, 0), ""),
    "above the byte limit": (b"\xff\xd8\xff" + b"\0" * 2_000_000, "2000000"),
}


def refused(ask, field, text, *query, **asked):
    with pytest.raises(InvalidArgumentError) as caught:
        ask(*query, **asked)
    assert caught.value.field == field
    assert text in caught.value.message
    return caught.value


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_picture_is_refused(ask, name):
    data, text = REFUSED[name]
    refused(ask, "query.image", text, data)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9])
def test_truncated_pictures_are_refused(ask, drawing, kind, keep):
    noisy = Image.effect_noise((96, 96), 80).convert("RGB")
    data = encoded(noisy, kind)
    refused(ask, "query.image", "", data[: int(len(data) * keep)])


EMBEDDINGS = {
    "NaN": (lambda dim: np.full(dim, np.nan), "finite"),
    "one NaN": (lambda dim: np.eye(dim)[0] * np.where(np.arange(dim) == 5, np.nan, 1), "finite"),
    "infinity": (lambda dim: np.full(dim, np.inf), "finite"),
    "zero": (lambda dim: np.zeros(dim), "zero"),
    "empty": (lambda dim: np.zeros(0), "values, got 0"),
    "short": (lambda dim: np.ones(dim - 1), "values, got"),
    "long": (lambda dim: np.ones(dim + 1), "values, got"),
    "a million values": (lambda dim: np.ones(1_000_000), "values, got 1000000"),
}


@pytest.mark.parametrize("name", EMBEDDINGS)
def test_wrong_embeddings_are_refused(ask, dim, name):
    make, text = EMBEDDINGS[name]
    if name == "empty":
        # An Embedding message without values is an embedding, not an unset input.
        refused(ask, "query.embedding", text, embedding=np.zeros(0, np.float32))
    else:
        refused(ask, "query.embedding", text, embedding=make(dim).astype(np.float32))


def test_huge_finite_embeddings_work(ask, dim):
    assert ask(embedding=np.full(dim, 3e38, np.float32)).items


def test_a_prompt_beside_an_embedding_is_refused(ask, dim):
    refused(ask, "query.prompt", "must be empty", embedding=np.ones(dim), prompt="a cat")


def test_an_empty_prompt_is_no_prompt(ask, drawing):
    data = encoded(drawing)
    assert ask(data, prompt="").items == ask(data).items
    assert ask(data, prompt="   \n\t").items[0].id == 1003


def test_a_prompt_of_100_kilobytes_names_the_limit(ask, drawing):
    refused(ask, "query.prompt", "8192", encoded(drawing), prompt="red " * 25_000)
    refused(ask, "query.prompt", "8192", encoded(drawing), prompt="\U0001f600" * 2049)


def test_a_prompt_at_the_limit_works(ask, drawing):
    assert ask(encoded(drawing), prompt="red " * 2048).items
    assert ask(encoded(drawing), prompt="\U0001f600" * 2048).items
    assert ask(encoded(drawing), prompt="\0\x01\u202e\ufffe").items


@pytest.mark.parametrize("top_k", [0, 41, 301, 2**32 - 1])
def test_top_k_names_its_limit(ask, drawing, top_k):
    refused(ask, "options.top_k", "1 to 40", encoded(drawing), top_k=top_k)


@pytest.mark.parametrize("top_k", [-1, 2**32])
def test_top_k_that_the_wire_cannot_carry_is_refused_by_the_client(ask, drawing, top_k):
    refused(ask, "options.top_k", str(top_k), encoded(drawing), top_k=top_k)


def test_asking_for_more_than_there_is_gives_what_there_is(start_server, drawing):
    """An opt-out makes a bundle smaller, and must not fail those who ask for all of it."""
    with start_server() as server, server.client() as client:
        known = client.describe().candidates
        assert len(client.attribute(encoded(drawing), top_k=301).items) == known
        refused(client.attribute, "options.top_k", "1 to 1000", encoded(drawing), top_k=1001)


def test_top_creators_names_its_limit(ask, drawing):
    refused(ask, "options.top_creators", "0 to 40", encoded(drawing), top_creators=41)
    assert ask(encoded(drawing), top_creators=0).creators == ()


@pytest.mark.parametrize(
    "name", ["include_creators", "exclude_creators", "include_licences", "exclude_licences"]
)
def test_an_unknown_name_in_a_filter_is_refused(ask, drawing, name):
    refused(ask, f"options.filter.{name}", "Nobody", encoded(drawing), filter=Filter(**{name: ("Nobody",)}))
    assert len(refused(
        ask, f"options.filter.{name}", "", encoded(drawing), filter=Filter(**{name: ("x" * 100_000,)})
    ).message) < 500  # fmt: skip


def test_a_filter_that_nothing_passes_answers_with_nothing(ask, drawing):
    answer = ask(encoded(drawing), filter=Filter(include_creators=("Ann",), exclude_creators=("Ann",)))
    assert (answer.items, answer.creators) == ((), ())
    assert answer.diffuse_share + answer.withheld_share == pytest.approx(1)


@pytest.mark.parametrize("bundle_id", ["ffffffffffffffff", "x" * 100_000, "../../etc/passwd"])
def test_an_unknown_bundle_is_not_found(ask, drawing, bundle_id):
    with pytest.raises(NotFoundError) as caught:
        ask(encoded(drawing), bundle_id=bundle_id)
    assert caught.value.kind == "bundle"
    assert bundle_id.startswith(caught.value.name.removesuffix("..."))


@pytest.mark.parametrize("item_id", [0, -1, 2**63 - 1, -(2**63)])
def test_an_unknown_item_is_not_found(strict, healthy, item_id):
    with strict.client() as client:
        with pytest.raises(NotFoundError) as caught:
            client.get_item(item_id)
        assert (caught.value.kind, caught.value.name) == ("item", str(item_id))
        healthy(client)


RAW = {
    "no query": (pb.AttributeRequest(), "query"),
    "no input": (pb.AttributeRequest(query=pb.Query(prompt="a cat")), "query"),
    "no pixels": (pb.AttributeRequest(query=pb.Query(pixels=pb.Pixels())), "query.pixels.height"),
    "zero width": (
        pb.AttributeRequest(query=pb.Query(pixels=pb.Pixels(data=b"123", height=1))), "query.pixels.width"
    ),
    "short data": (
        pb.AttributeRequest(query=pb.Query(pixels=pb.Pixels(data=b"12", height=1, width=1))),
        "query.pixels.data",
    ),
    "greatest sides": (
        pb.AttributeRequest(query=pb.Query(pixels=pb.Pixels(data=b"1", height=2**32 - 1, width=2**32 - 1))),
        "query.pixels",
    ),
    "an item list as a picture": (b"\x0a\x03\x0a\x01\x41", "query.image"),
    "not UTF-8": (b"\x0a\x04\x22\x02\xff\xff", "query.prompt"),
    "not protobuf": (b"\xff" * 50, "request"),
}  # fmt: skip


@pytest.mark.parametrize("name", RAW)
def test_messages_that_no_client_of_ours_would_send(strict, healthy, name):
    message, field = RAW[name]
    data = message if isinstance(message, bytes) else message.SerializeToString()
    with grpc.insecure_channel(strict.address) as channel:
        call = channel.unary_unary("/attributary.v1.AttributionService/Attribute")
        with pytest.raises(grpc.RpcError) as caught:
            call(data, timeout=20)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    detail = error_details_pb2.BadRequest()
    assert rpc_status.from_call(caught.value).details[0].Unpack(detail)
    assert detail.field_violations[0].field == field
    assert detail.field_violations[0].description
    with strict.client() as client:
        healthy(client)


def test_wrong_queries_of_a_batch_leave_the_others_alone(strict, healthy, drawing):
    good = pb.Query(image=encoded(drawing))
    wrong = [
        pb.Query(image=b"x"), pb.Query(), pb.Query(pixels=pb.Pixels(data=b"12", height=1, width=1))
    ]  # fmt: skip
    with grpc.insecure_channel(strict.address) as channel:
        request = pb.AttributeBatchRequest(queries=[wrong[0], good, wrong[1], wrong[2]])
        results = rpc.AttributionServiceStub(channel).AttributeBatch(request, timeout=20).results
    assert [result.error.field for result in results] == [
        "queries[0].image", "", "queries[2]", "queries[3].pixels.data"
    ]  # fmt: skip
    assert results[1].attribution.items[0].id == 1003
    with strict.client() as client:
        healthy(client)


def test_a_message_above_the_limit_is_told_as_such(start_server, healthy):
    with start_server(config={"max_message_bytes": 100_000}) as server, server.client() as client:
        error = refused(client.attribute, "request", "larger than max", b"x" * 200_000)
        assert "100000" in error.message
        healthy(client)


@pytest.mark.parametrize("seed", range(20))
def test_damaged_pictures_never_hurt_the_server(ask, drawing, seed):
    rng = np.random.default_rng(seed)
    kind = ["PNG", "JPEG", "WEBP", "GIF", "BMP"][seed % 5]
    data = bytearray(encoded(drawing, kind))
    for place in rng.integers(0, len(data), 12):
        data[place] = rng.integers(0, 256)
    try:
        assert ask(bytes(data)).items
    except InvalidArgumentError as error:
        assert error.field == "query.image"
