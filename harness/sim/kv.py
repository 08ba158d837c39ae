"""Paged KV blocks and the prefix cache, compiled. Blocks are conserved:

    free_blocks + blocks held by slots + entry_blocks * (entries in the table) == total_blocks

A prefix entry is one hash block of a trace (Mooncake: 512 tokens). Entries in use count their
holders; entries nobody holds stay cached, least recently used first in line for eviction.

Free blocks are taken in the order in which they were freed. With prefix caching a preempted request
finds those of its own blocks again that nobody has taken meanwhile; its last blocks are taken first.
Only that much of the queue's order is kept: how many other blocks lie between such requests' own.
"""

from __future__ import annotations

from numba import njit

from harness.sim.state import State

_MIX = 0x9E3779B97F4A7C15 & 0x7FFFFFFFFFFFFFFF


@njit(cache=True)
def available_blocks(s: State) -> int:
    """Blocks that an allocation could get, evicting what nobody holds."""
    r = s.reg[0]
    return r.free_blocks + r.evictable * r.entry_blocks


@njit(cache=True)
def take_blocks(s: State, n: int) -> None:
    """Take n blocks out of the free pool, evicting as needed; the caller has checked `available_blocks`."""
    r = s.reg[0]
    while r.free_blocks < n:
        _evict(s)
    r.free_blocks -= n
    while n > 0 and r.oldest_kept >= 0:
        others = min(n, r.front)
        r.front -= others
        n -= others
        oldest = s.slots[r.oldest_kept]
        own = min(n, oldest.kept)
        oldest.kept -= own
        n -= own
        if oldest.kept == 0:
            _forget(s, r.oldest_kept)


@njit(cache=True)
def give_blocks(s: State, n: int) -> None:
    """Put n blocks at the end of the free queue."""
    r = s.reg[0]
    r.free_blocks += n
    if r.youngest_kept >= 0:
        s.slots[r.youngest_kept].behind += n


@njit(cache=True)
def keep_blocks(s: State, slot: int) -> None:
    """Free the private blocks of a request that is being preempted, its full ones to be found again."""
    r = s.reg[0]
    req = s.slots[slot]
    full = max(0, req.computed // r.block_size - req.shared * r.entry_blocks)
    full = min(full, req.blocks)
    give_blocks(s, req.blocks - full)
    req.blocks = 0
    if full == 0:
        return
    if r.youngest_kept >= 0:
        s.slots[r.youngest_kept].younger = slot
    else:
        r.oldest_kept = slot
        r.front = r.free_blocks
    req.older, req.younger = r.youngest_kept, -1
    req.kept, req.behind = full, 0
    r.youngest_kept = slot
    r.free_blocks += full


@njit(cache=True)
def reclaim_blocks(s: State, slot: int) -> None:
    """Take the request's own kept blocks back out of the free queue; it holds them again."""
    req = s.slots[slot]
    s.reg[0].free_blocks -= req.kept
    req.blocks += req.kept
    req.kept = 0
    _forget(s, slot)


@njit(cache=True)
def forget_kept(s: State) -> None:
    """Nothing computed is valid any more: kept blocks become plain free ones."""
    while s.reg[0].oldest_kept >= 0:
        _forget(s, s.reg[0].oldest_kept)


@njit(cache=True)
def _forget(s: State, slot: int) -> None:
    """Take a request out of the list of those with kept blocks; what is left of them is anyone's."""
    r = s.reg[0]
    req = s.slots[slot]
    freed = req.kept + req.behind
    req.kept = req.behind = 0
    if req.older >= 0:
        s.slots[req.older].behind += freed
        s.slots[req.older].younger = req.younger
    else:
        r.front += freed
        r.oldest_kept = req.younger
    if req.younger >= 0:
        s.slots[req.younger].older = req.older
    else:
        r.youngest_kept = req.older


@njit(cache=True)
def cached_entries(s: State, slot: int) -> int:
    """Length of the longest cached prefix of the slot's prompt, in entries (read only)."""
    n = 0
    for i in range(s.slots[slot].hashes):
        if _find(s, s.hashes[slot, i]) < 0:
            break
        n += 1
    return n


@njit(cache=True)
def unheld_entries(s: State, slot: int, n: int) -> int:
    """How many of the slot's first n (cached) entries nobody holds: holding them shrinks the pool."""
    count = 0
    for i in range(n):
        if s.entries[_find(s, s.hashes[slot, i])].refs == 0:
            count += 1
    return count


@njit(cache=True)
def hold_entries(s: State, slot: int, n: int) -> None:
    """Make the slot a holder of its first n entries, which are cached."""
    for i in range(n):
        e = _find(s, s.hashes[slot, i])
        if s.entries[e].refs == 0:
            _unlink(s, e)
        s.entries[e].refs += 1
    s.slots[slot].shared = n


@njit(cache=True)
def share_prompt(s: State, slot: int) -> None:
    """After a prefill, put the slot's own full prompt entries into the cache."""
    r = s.reg[0]
    req = s.slots[slot]
    for i in range(req.shared, req.hashes):
        full = (i + 1) * r.entry_blocks * r.block_size <= req.prompt
        if not full or req.blocks < r.entry_blocks or _find(s, s.hashes[slot, i]) >= 0:
            break  # a twin was cached first: keep ours private, as entries are held in prefix order
        e = _new_entry(s, s.hashes[slot, i])
        if e < 0:
            break
        s.entries[e].refs = 1
        req.blocks -= r.entry_blocks
        req.shared += 1


@njit(cache=True)
def release(s: State, slot: int) -> None:
    """Give back all that the slot holds; its cached prefix stays, evictable once nobody holds it."""
    req = s.slots[slot]
    give_blocks(s, req.blocks)
    req.blocks = 0
    for i in range(req.shared - 1, -1, -1):  # the tail of a prefix goes first in line
        e = _find(s, s.hashes[slot, i])
        s.entries[e].refs -= 1
        if s.entries[e].refs == 0:
            _append(s, e)
    req.shared = 0


@njit(cache=True)
def flush_cache(s: State) -> None:
    """Evict every entry that nobody holds."""
    while s.reg[0].evictable > 0:
        _evict(s)


@njit(cache=True)
def _evict(s: State) -> None:
    r = s.reg[0]
    e = r.lru_head
    _unlink(s, e)
    _remove(s, s.entries[e].key)
    s.entries[e].next = r.entry_free
    r.entry_free = e
    r.free_blocks += r.entry_blocks
    r.evicted += 1


@njit(cache=True)
def _new_entry(s: State, key: int) -> int:
    r = s.reg[0]
    e = r.entry_free
    if e >= 0:
        r.entry_free = s.entries[e].next
    elif r.entries < len(s.entries):
        e = r.entries
        r.entries += 1
    else:
        return -1
    s.entries[e].key = key
    s.entries[e].refs = 0
    _insert(s, key, e)
    return e


@njit(cache=True)
def _append(s: State, e: int) -> None:
    r = s.reg[0]
    s.entries[e].prev = r.lru_tail
    s.entries[e].next = -1
    if r.lru_tail >= 0:
        s.entries[r.lru_tail].next = e
    else:
        r.lru_head = e
    r.lru_tail = e
    r.evictable += 1


@njit(cache=True)
def _unlink(s: State, e: int) -> None:
    r = s.reg[0]
    before, after = s.entries[e].prev, s.entries[e].next
    if before >= 0:
        s.entries[before].next = after
    else:
        r.lru_head = after
    if after >= 0:
        s.entries[after].prev = before
    else:
        r.lru_tail = before
    r.evictable -= 1


# An open-addressing table of entry numbers: linear probing, deletion by shifting back.


@njit(cache=True)
def _home(s: State, key: int) -> int:
    h = key * _MIX
    h ^= h >> 29
    return h & (len(s.table) - 1)


@njit(cache=True)
def _find(s: State, key: int) -> int:
    mask = len(s.table) - 1
    i = _home(s, key)
    while s.table[i] != 0:
        e = s.table[i] - 1
        if s.entries[e].key == key:
            return e
        i = (i + 1) & mask
    return -1


@njit(cache=True)
def _insert(s: State, key: int, e: int) -> None:
    mask = len(s.table) - 1
    i = _home(s, key)
    while s.table[i] != 0:
        i = (i + 1) & mask
    s.table[i] = e + 1


@njit(cache=True)
def _remove(s: State, key: int) -> None:
    mask = len(s.table) - 1
    i = _home(s, key)
    while s.entries[s.table[i] - 1].key != key:
        i = (i + 1) & mask
    j = i
    while True:
        j = (j + 1) & mask
        if s.table[j] == 0:
            break
        home = _home(s, s.entries[s.table[j] - 1].key)
        # shift back unless the probe path of j's key starts after the hole
        if ((j - home) & mask) >= ((j - i) & mask):
            s.table[i] = s.table[j]
            i = j
    s.table[i] = 0
