"""What signing answers costs a gateway, and whether what it signs holds: answers verified, flipped bits refused.

    python benchmarks/receipts.py --bundle out/bundle [--json] [--save]

The same pictures are asked with and without a receipt, in turns. A receipt costs the server the digest of all pixels,
JSON, and one Ed25519 signature. Then so many signed answers are verified as anybody would, and every bit of a few of
them is flipped, one at a time.
"""

from __future__ import annotations

import statistics
import tempfile
import threading
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

from common import aim, arguments, emit
from decode import contents, encoded
from PIL import Image
from serving import BUNDLES, cpu_seconds, first_existing

from attributary.cli.process import ServerProcess
from attributary.client import Answer, Client
from attributary.errors import ReceiptError
from attributary.receipts import keys
from attributary.receipts.envelope import seal
from attributary.receipts.keys import PublicKey, SigningKey, parse_public_keys
from attributary.receipts.verify import compare_picture, open_receipt

SIZES = {"64 px PNG": 64, "512 px PNG": 512}


def pictures_of(size: int) -> list[bytes]:
    """Pictures of one size, encoded."""
    turned = [picture.rotate(90 * turn) for picture in contents(size).values() for turn in range(4)]
    return [encoded(picture, {"format": "PNG"}) for picture in turned]


def load(address: str, pictures: list[bytes], receipt: bool, threads: int, seconds: float) -> list[float]:
    """Ask for so long; return the milliseconds of each answer."""
    spent: list[list[float]] = [[] for _ in range(threads)]
    until = perf_counter() + seconds

    def ask(place: int) -> None:
        with Client(address) as client:
            number = place
            while (started := perf_counter()) < until:
                client.attribute(pictures[number % len(pictures)], receipt=receipt)
                spent[place].append((perf_counter() - started) * 1e3)
                number += threads

    running = [threading.Thread(target=ask, args=(place,)) for place in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return [ms for each in spent for ms in each]


def throughput(server: ServerProcess, options: Any) -> list[dict[str, Any]]:
    """Queries a second with and without receipts, in turns, and the server's processor time for one."""
    address = server.address
    cells: dict[tuple[str, int, bool], list[list[float]]] = {}
    cpu_ms: dict[tuple[str, int, bool], list[float]] = {}
    for name, size in SIZES.items():
        pictures = pictures_of(size)
        load(address, pictures, True, 1, 0.5)
        for number in range(options.rounds):
            for threads in options.concurrency:
                for receipt in (False, True)[:: 1 if number % 2 == 0 else -1]:
                    before = cpu_seconds(server.pid)
                    spent = load(address, pictures, receipt, threads, options.seconds)
                    used = 1e3 * (cpu_seconds(server.pid) - before) / max(1, len(spent))
                    cells.setdefault((name, threads, receipt), []).append(spent)
                    cpu_ms.setdefault((name, threads, receipt), []).append(used)
    return [
        {
            "pictures": name,
            "concurrency": threads,
            "receipt": receipt,
            "queries_per_s": round(statistics.median(len(spent) / options.seconds for spent in rounds), 1),
            "p50_ms": round(statistics.median(ms for spent in rounds for ms in spent), 3),
            "server_cpu_ms": round(statistics.median(cpu_ms[name, threads, receipt]), 3),
        }
        for (name, threads, receipt), rounds in cells.items()
    ]


def copies(picture: bytes) -> Iterator[bytes]:
    """Endless pictures that are all a little different."""
    image = Image.open(BytesIO(picture)).convert("RGB")
    for number in range(1 << 24):
        image.putpixel((0, 0), (number & 255, number >> 8 & 255, number >> 16))
        out = BytesIO()
        image.save(out, "PNG")
        yield out.getvalue()


def verified(client: Client, known: dict[str, PublicKey], options: Any) -> tuple[int, float, list[bytes]]:
    """(how many signed answers verify, processor microseconds of one verification, the first receipts)."""
    count, spent = 0, 0.0
    kept: list[bytes] = []
    for number, picture in zip(range(options.answers), copies(pictures_of(64)[0]), strict=False):
        answer: Answer = client.attribute(picture, prompt="a cat" if number % 2 else "", receipt=True)
        started = process_time()
        receipt = open_receipt(answer.receipt, known)
        spent += process_time() - started
        told = receipt.predicate["answer"]
        count += (
            compare_picture(receipt, picture).state == "ok"
            and [item["share"] for item in told["items"]] == [item.share for item in answer.items]
            and told["diffuse_share"] == answer.diffuse_share
        )
        if len(kept) < options.flipped:
            kept.append(answer.receipt)
    return count, 1e6 * spent / max(1, options.answers), kept


def refused(receipts: list[bytes], known: dict[str, PublicKey]) -> tuple[int, int]:
    """(flipped bits that are refused, flipped bits)."""
    found = total = 0
    for receipt in receipts:
        for place in range(len(receipt)):
            for bit in range(8):
                changed = bytearray(receipt)
                changed[place] ^= 1 << bit
                total += 1
                try:
                    open_receipt(bytes(changed), known)
                except ReceiptError:
                    found += 1
    return found, total


def sign_us(receipt_bytes: int) -> float:
    """Processor microseconds of one signature with its envelope, over a payload of so many bytes."""
    key, payload, rounds = SigningKey.new(), b"x" * receipt_bytes, 2_000
    started = process_time()
    for _ in range(rounds):
        seal(payload, key)
    return 1e6 * (process_time() - started) / rounds


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, default=first_existing(BUNDLES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="length of one measurement")
    parser.add_argument("--concurrency", type=int, nargs="*", default=[1, 8])
    parser.add_argument("--answers", type=int, default=10_000, help="signed answers to verify")
    parser.add_argument("--flipped", type=int, default=10, help="receipts of which every bit is flipped")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        key_file = Path(place) / "keys.pem"
        keys.create(key_file)
        with (
            ServerProcess(options.bundle, "--receipt-key-file", str(key_file)) as server,
            Client(server.address) as client,
        ):
            known = parse_public_keys("".join(key.pem for key in client.list_receipt_keys()))
            rows = throughput(server, options)
            good, verify_us, kept = verified(client, known, options)
    found, total = refused(kept, known)
    size = round(statistics.mean(map(len, kept)))
    costs = [
        {"receipt_bytes": size, "seal_us": round(sign_us(size * 3 // 4), 1), "verify_us": round(verify_us, 1)}
    ]
    answered, flipped = (
        f"{good:,} of {options.answers:,}",
        f"{found:,} of {total:,}, all of {len(kept)} receipts",
    )
    aims = [
        aim(
            "signed answers that verify",
            good / options.answers,
            1,
            "of all",
            good == options.answers,
            answered,
        ),
        aim("flipped bits that are refused", found / total, 1, "of all", found == total, flipped),
    ]
    config = {
        name: getattr(options, name) for name in ("rounds", "seconds", "concurrency", "answers", "flipped")
    }
    emit(Path(__file__).stem, config, {"throughput": rows, "costs": costs}, aims, options.json)


if __name__ == "__main__":
    main()
