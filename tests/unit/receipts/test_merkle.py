"""The tree of RFC 9162, against the vectors that certificate logs test with, and against every path of small trees."""

import hashlib

import pytest

from attributary.receipts import merkle

# Of the reference implementation of certificate transparency.
ENTRIES = [
    bytes.fromhex(text)
    for text in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def test_roots_of_the_reference_implementation():
    assert merkle.root([]) == hashlib.sha256(b"").digest()
    leaves = [merkle.leaf_hash(entry) for entry in ENTRIES]
    assert [merkle.root(leaves[: size + 1]).hex() for size in range(8)] == ROOTS


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 8, 9, 16, 33])
def test_every_entry_can_be_proven_and_only_at_its_place(size):
    leaves = [merkle.leaf_hash(bytes([number])) for number in range(size)]
    root = merkle.root(leaves)
    for index, leaf in enumerate(leaves):
        path = merkle.path(leaves, index)
        assert merkle.root_of_path(leaf, index, size, path) == root
        for other in range(size):
            assert other == index or merkle.root_of_path(leaf, other, size, path) != root
        assert merkle.root_of_path(leaf, index, size, [*path, root]) is None
        assert not path or merkle.root_of_path(leaf, index, size, path[:-1]) != root
        assert merkle.root_of_path(leaf, size, size, path) is None
        assert merkle.root_of_path(leaf, -1, size, path) is None
        for place in range(len(path)):
            changed = [*path[:place], bytes(32), *path[place + 1 :]]
            assert merkle.root_of_path(leaf, index, size, changed) != root
