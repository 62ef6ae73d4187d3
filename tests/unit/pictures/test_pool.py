"""A costly picture is decoded by another process: the same pixels, bounded in time and memory."""

import io
import signal
import threading
import time

import numpy as np
import pytest
from PIL import Image

from attributary.errors import InvalidArgumentError, UnavailableError
from attributary.pictures import CostlyPicture, decode, pool, prepare_pixels, read
from attributary.pictures.formats import MAX_BYTES, MAX_CPU_S, MAX_PIXELS
from attributary.pictures.walk import MAX_PARTS, QUICK_PARTS, walk_gif, walk_jpeg
from tests.support.picture_files import encoded, photo

# 26 bits a pixel would be much; these are 34 bytes.
LARGE_WEBP = bytes.fromhex(
    "52494646 1a000000 57454250 5650384c 0e000000 2f57dbd5 06071011 fd0f4444 ff03".replace(" ", "")
)


def webp(side: int) -> bytes:
    """The 34 bytes for another size; `side` up to 16,384."""
    bits = int.from_bytes(LARGE_WEBP[21:25], "little") >> 28 << 28 | (side - 1) << 14 | (side - 1)
    return LARGE_WEBP[:21] + bits.to_bytes(4, "little") + LARGE_WEBP[25:]


@pytest.fixture(scope="module")
def processes():
    made = pool.DecodePool(2)
    yield made
    made.close()


@pytest.fixture
def spied(monkeypatch):
    """Every process that a pool starts, in a list."""
    started = []

    class Spied(pool._Worker):
        def __init__(self, memory):
            super().__init__(memory)
            started.append(self.process)

    monkeypatch.setattr(pool, "_Worker", Spied)
    return started


def ask(processes: pool.DecodePool, data: bytes, size: int = 16) -> pool.ReadPicture:
    return processes.read(data, size, MAX_BYTES, MAX_PIXELS, "row.image")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "AVIF"])
def test_the_same_pixels_as_here(processes, kind):
    data = encoded(photo(60, 90), kind)
    found = ask(processes, data)
    assert np.array_equal(found.pixels, prepare_pixels(decode(data), 16))
    assert found.decode_ms > 0


def test_refusals_come_back_with_their_field(processes):
    with pytest.raises(InvalidArgumentError, match="damaged or cut off") as caught:
        ask(processes, encoded(photo(60, 90), "PNG")[:200])
    assert caught.value.field == "row.image"
    with pytest.raises(InvalidArgumentError, match="the limit is 25000000 pixels for WebP"):
        ask(processes, webp(7000))


def test_the_fewest_bytes_for_the_most_pixels_go_to_a_process(monkeypatch):
    asked = []
    monkeypatch.setattr(pool._pool, "read", lambda *request: asked.append(request))
    for data in (webp(4000), encoded(Image.new("1", (5000, 5000)), "PNG"), encoded(photo(), "AVIF")):
        with pytest.raises(CostlyPicture):
            read(data, 16, wait=False)
        read(data, 16)
    assert len(asked) == 3
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP"):
        # What generators make is decoded at once.
        assert read(encoded(photo(1024, 1024), kind), 16, wait=False).pixels.shape == (16, 16, 3)
    assert len(asked) == 3


def segments(number: int) -> bytes:
    whole = encoded(photo(40, 40), "JPEG")
    return whole[:2] + b"\xff\xe1\x00\x02" * number + whole[2:]


def test_a_picture_of_many_parts_is_walked_in_a_process(processes, monkeypatch):
    few, many, too_many = segments(QUICK_PARTS - 20), segments(QUICK_PARTS + 1), segments(MAX_PARTS + 1)
    expected = prepare_pixels(decode(segments(0)), 16)
    assert np.array_equal(read(few, 16, wait=False).pixels, expected)
    for data in (many, too_many):
        with pytest.raises(CostlyPicture) as caught:
            read(data, 16, wait=False)
        assert 0 < caught.value.seconds < 1
    assert np.array_equal(ask(processes, many).pixels, expected)
    with pytest.raises(InvalidArgumentError, match="more than 65536 JPEG segments"):
        ask(processes, too_many)


def test_what_a_picture_may_cost_is_told_and_never_more_than_it_may():
    for data, least, most in (
        (encoded(photo(60, 60), "AVIF"), 0, 1),
        (webp(5000), 0.5, 1),
        (encoded(Image.new("L", (7000, 7000)), "JPEG", progressive=True), 1, MAX_CPU_S),
    ):
        with pytest.raises(CostlyPicture) as caught:
            read(data, 16, wait=False)
        assert least < caught.value.seconds <= most


def test_more_processes_may_be_allowed_and_never_fewer(spied):
    processes = pool.DecodePool(1)
    for most in (3, 2):
        processes.allow(most)
    assert [processes._turns.acquire(blocking=False) for _ in range(4)] == [True] * 3 + [False]


@pytest.mark.parametrize("before", [0, 4_095, 4_096, 20_479, 20_480, 86_015, 300_000])
@pytest.mark.parametrize("junk", [b"\xff", b"\x00", b"\xff\x00"])
def test_markers_are_found_wherever_they_are(before, junk):
    """Behind fill bytes and other junk of any length, as a search byte by byte finds them."""
    picture = encoded(photo(40, 60), "JPEG")
    walked = walk_jpeg(picture[:2] + junk * before + picture[2:], "x")
    assert (walked.width, walked.height, walked.scans) == (60, 40, 1)
    assert walked.data == walk_jpeg(picture, "x").data
    # A damaged one: what looks like a scan counts as one.
    damaged = picture[:2] + b"\xff\xe1\x00\x00" + junk * before + b"\xff\xda" * 7
    assert walk_jpeg(damaged, "x").scans == 7
    gif = encoded(photo(40, 60), "GIF")
    block = 13 + (3 << (gif[10] & 7) + 1)  # behind its palette
    assert walk_gif(gif[:block] + b"\x01" * before + gif[block:], "x").width == 60


def test_cpu_time_is_bounded_and_the_next_picture_is_answered(spied):
    processes = pool.DecodePool(1, cpu_s=0.05)
    try:
        with pytest.raises(InvalidArgumentError, match=r"takes more than 0.05 s of processor time") as caught:
            ask(processes, webp(5000))
        assert caught.value.field == "row.image"
        assert ask(processes, encoded(photo(), "PNG")).pixels.shape == (16, 16, 3)
        assert len(spied) == 2
        assert spied[0].poll() == -signal.SIGPROF
    finally:
        processes.close()
    assert spied[1].poll() is not None


def test_memory_is_bounded_and_the_process_lives_on(spied):
    processes = pool.DecodePool(1, memory=200 << 20)
    try:
        for data in (webp(5000), encoded(Image.new("1", (7000, 7000)), "PNG")):
            with pytest.raises(
                InvalidArgumentError, match=r"more than 200 MiB of memory|could not create decoder|next frame"
            ):
                ask(processes, data)
        assert ask(processes, encoded(photo(), "PNG")).pixels.shape == (16, 16, 3)
        assert len(spied) == 1
    finally:
        processes.close()


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGKILL", "SIGABRT"])
def test_a_decoder_that_ends_takes_one_picture_with_it(spied, name):
    processes = pool.DecodePool(1)
    try:
        ask(processes, encoded(photo(), "PNG"))
        spied[0].send_signal(signal.SIGSTOP)  # so that the end comes in the middle
        killer = threading.Timer(0.2, spied[0].send_signal, [getattr(signal, name)])
        waker = threading.Timer(0.3, spied[0].send_signal, [signal.SIGCONT])
        killer.start()
        waker.start()
        with pytest.raises(InvalidArgumentError, match=f"ended by {name}"):
            ask(processes, encoded(photo(), "PNG"))
        waker.join()
        assert ask(processes, encoded(photo(), "PNG")).pixels.shape == (16, 16, 3)
        assert len(spied) == 2
    finally:
        processes.close()


def test_a_machine_without_time_is_not_the_pictures_fault(spied, monkeypatch):
    monkeypatch.setattr(pool, "_MAX_WALL_S", 0.2)
    processes = pool.DecodePool(1)
    try:
        ask(processes, encoded(photo(), "PNG"))
        spied[0].send_signal(signal.SIGSTOP)
        with pytest.raises(UnavailableError, match="overloaded"):
            ask(processes, encoded(photo(), "PNG"))
    finally:
        processes.close()


def test_no_process_to_be_had(monkeypatch):
    monkeypatch.setattr(pool.sys, "executable", "/nonexistent/python")
    with pytest.raises(UnavailableError, match="no process can be started"):
        ask(pool.DecodePool(1), encoded(photo(), "PNG"))
    monkeypatch.setattr(pool.sys, "executable", "/bin/false")
    with pytest.raises(UnavailableError, match="did not get ready"):
        ask(pool.DecodePool(1), encoded(photo(), "PNG"))


def test_no_more_processes_than_asked_for(spied):
    processes = pool.DecodePool(2)
    data = encoded(photo(500, 500), "PNG")
    threads = [threading.Thread(target=ask, args=(processes, data)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(spied) <= 2
    processes.close()
    assert all(process.poll() is not None for process in spied)


def test_signals_that_end_a_server_do_not_end_its_decoders(spied):
    processes = pool.DecodePool(1)
    try:
        ask(processes, encoded(photo(), "PNG"))
        for name in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            spied[0].send_signal(name)
        time.sleep(0.1)
        assert ask(processes, encoded(photo(), "PNG")).pixels.shape == (16, 16, 3)
        assert len(spied) == 1
    finally:
        processes.close()


def test_the_34_bytes_are_what_they_say():
    # The tests above would prove nothing if they were damaged.
    assert Image.open(io.BytesIO(webp(100))).convert("RGB").size == (100, 100)
    assert decode(webp(100)).shape == (100, 100, 3)
