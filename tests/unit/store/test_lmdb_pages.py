import mmap
import random

import lmdb
import numpy as np
import pytest

from whatchanged.keys import content_key
from whatchanged.store.embeddings import EmbeddingCache
from whatchanged.store.lmdb_pages import find_damage, find_damage_in_header


def write_file(path, n_commits):
    """A file with a tree of two levels, overflow pages, and pages that are free again."""
    environment = lmdb.open(str(path), subdir=False, map_size=1 << 26)
    draw = random.Random(0)
    for commit in range(n_commits):
        with environment.begin(write=True) as transaction:
            for _ in range(20):
                key = draw.randbytes(40)
                transaction.put(key, draw.randbytes(draw.choice([10, 500, 9000])))
            if commit % 3 == 0:
                cursor = transaction.cursor()
                cursor.set_range(draw.randbytes(1))
                cursor.delete()
    return environment


def look(environment, path):
    with environment.begin() as transaction:
        return find_damage(path, transaction.id())


def test_a_sound_file_has_no_damage_after_any_commit(tmp_path):
    path = tmp_path / "file"
    environment = write_file(path, 0)
    assert look(environment, path) is None
    environment.close()
    for n_commits in (1, 2, 3, 10, 40):
        path = tmp_path / f"{n_commits}"
        environment = write_file(path, n_commits)
        assert environment.stat()["depth"] == 2
        assert look(environment, path) is None
        with path.open("rb") as file:
            assert find_damage_in_header(file) is None
        environment.close()


def test_an_empty_file_is_sound_and_a_cut_header_is_not(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"")
    with path.open("rb") as file:
        assert find_damage_in_header(file) is None
    path.write_bytes(b"\0" * 100)
    with path.open("rb") as file:
        assert find_damage_in_header(file) == "its header is cut off after 100 bytes"


@pytest.mark.parametrize("page", [0, 1])
def test_a_wiped_header_page_is_found(tmp_path, page):
    path = tmp_path / "file"
    write_file(path, 3).close()
    data = bytearray(path.read_bytes())
    data[page * mmap.PAGESIZE : (page + 1) * mmap.PAGESIZE] = bytes(mmap.PAGESIZE)
    path.write_bytes(data)
    with path.open("rb") as file:
        assert find_damage_in_header(file) == f"page {page} is no LMDB header"


def test_a_file_shorter_than_its_header_says_is_found(tmp_path):
    path = tmp_path / "file"
    write_file(path, 3).close()
    path.write_bytes(path.read_bytes()[: -mmap.PAGESIZE])
    with path.open("rb") as file:
        assert "where its header names more pages" in (find_damage_in_header(file) or "")


def test_every_wiped_tree_page_in_use_is_found(tmp_path):
    path = tmp_path / "file"
    environment = write_file(path, 10)
    with environment.begin() as transaction:
        number = transaction.id()
    environment.close()
    sound = path.read_bytes()
    tree_pages = [
        page
        for page in range(2, len(sound) // mmap.PAGESIZE)
        if int.from_bytes(sound[page * mmap.PAGESIZE :][:8], "little") == page
        and sound[page * mmap.PAGESIZE + 10] in (1, 2)
    ]
    n_found = 0
    for page in tree_pages:
        data = bytearray(sound)
        data[page * mmap.PAGESIZE : (page + 1) * mmap.PAGESIZE] = bytes(mmap.PAGESIZE)
        path.write_bytes(data)
        n_found += find_damage(path, number) is not None
    # Free pages keep their old content: as many tree pages as the header states are in use.
    path.write_bytes(sound)
    environment = lmdb.open(str(path), subdir=False, readonly=True, lock=False)
    in_use = environment.stat()["branch_pages"] + environment.stat()["leaf_pages"]
    assert in_use < n_found <= len(tree_pages)


def test_a_signpost_that_leads_a_search_astray_is_found(tmp_path):
    path = tmp_path / "file"
    environment = write_file(path, 10)
    with environment.begin() as transaction:
        number = transaction.id()
        keys = [bytes(key) for key in transaction.cursor().iternext(values=False)]
    environment.close()
    sound = path.read_bytes()
    branches = [
        at
        for at in range(2 * mmap.PAGESIZE, len(sound), mmap.PAGESIZE)
        if sound[at + 10] == 1 and int.from_bytes(sound[at : at + 8], "little") == at // 4096
    ]
    n_found = 0
    for at in branches:
        page = sound[at : at + mmap.PAGESIZE]
        for key in keys:
            # A key stands at its leaf and, where it begins a page, also in the branch above.
            if (place := page.find(key)) >= 0:
                damaged = bytearray(sound)
                damaged[at + place] ^= 0x80
                path.write_bytes(damaged)
                n_found += find_damage(path, number) is not None
    assert n_found > 0


def test_memory_of_the_process_does_not_leak_into_the_file(tmp_path):
    """LMDB writes whole pages: what it leaves out of them must be zeros."""
    secret = b"sk-canary-" + b"0123456789" * 20
    draw = random.Random(0)
    litter = [bytearray(secret * draw.randrange(1, 40)) for _ in range(3000)]
    del litter
    cache = EmbeddingCache(tmp_path)
    for i in range(30):
        cache.put_many("model", [content_key("row", i)], np.ones((1, 8), np.float32))
    assert b"canary" not in cache.path.read_bytes()
