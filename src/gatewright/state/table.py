"""A table of fixed size in mapped memory: keys to a few whole numbers each, shared by the processes of a machine.

It owns the layout: a header, then buckets of 16 places, each a tag (digest of the key) and numbers that end with a
check number. It takes no locks and decides nothing: `shared` does, and calls it with the bucket's lock held. All
numbers are written as whole 8-byte words, so a process that is killed leaves a place as it was, as it should be, or
with a check number that does not fit; that place is then not believed.
"""

import hashlib
import mmap
import os
import struct
from pathlib import Path

from gatewright.state.limits import SlidingWindow, State

WAYS = 16  # places in a bucket
TAG = 16
WORDS = SlidingWindow.words + 1  # of a place: the longest state, and the check number
PAIRS = WORDS - 2  # room for who holds how many
_TAGS = WAYS * TAG
_PLACE = WORDS * 8
BUCKET = _TAGS + WAYS * _PLACE
HEADER = 4096
HOLDERS = 256
_HOLDERS_AT = 1024
_HIGHEST_AT = 64
_MAGIC = b"gatewrt1"
_HEAD = struct.Struct("@8s16sQ16sq")  # magic, boot, buckets, secret, check
_WORD = struct.Struct("@q")
_EXPIRIES = struct.Struct("@" + f"q{_PLACE - 8}x" * WAYS)  # the first number of every place of a bucket
_STATES = {words: struct.Struct(f"@{words + 1}q") for words in range(1, WORDS)}
_TOO_MANY_TEXTS = 16384
_NO_TAG = bytes(TAG)


def _boot() -> bytes:
    """What tells this run of the machine from others: times of its clock mean nothing after the next start."""
    try:
        text = Path("/proc/sys/kernel/random/boot_id").read_bytes()
    except OSError:
        text = b""
    return hashlib.blake2b(text, digest_size=16).digest()


class Table:
    """The mapped memory. `path` None: this process's own."""

    def __init__(self, path: Path | None, places: int) -> None:
        """Open or make the file; the caller holds the lock of all of it. Raises OSError if there is no room for it."""
        self.buckets = max(1, places // WAYS)
        self._places: dict[str, tuple[int, bytes]] = {}
        self._secret = b""
        self._check = 0
        if path is None:
            self._memory = mmap.mmap(-1, HEADER + self.buckets * BUCKET)
            self._begin()
            return
        if not self._open(path):
            self._make(path)

    def _open(self, path: Path) -> bool:
        """Map the file that is there; tell whether it is one that can be used."""
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            head = os.pread(fd, _HEAD.size, 0)
            if len(head) < _HEAD.size:
                return False
            magic, boot, buckets, secret, check = _HEAD.unpack(head)
            size = HEADER + buckets * BUCKET
            if (magic, boot) != (_MAGIC, _boot()) or not buckets or os.fstat(fd).st_size != size:
                return False
            self.buckets, self._secret, self._check = buckets, secret, check
            self._memory = mmap.mmap(fd, size)
            return True
        finally:
            os.close(fd)

    def _make(self, path: Path) -> None:
        """Put a new file in the place of what is there: whoever has mapped that one keeps it, unharmed."""
        size = HEADER + self.buckets * BUCKET
        made = path.with_name(f"{path.name}.{os.getpid()}")
        fd = os.open(made, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            if hasattr(os, "posix_fallocate"):  # a full /dev/shm must be an error here, not a SIGBUS in some request
                os.posix_fallocate(fd, 0, size)
            else:
                os.ftruncate(fd, size)
            self._memory = mmap.mmap(fd, size)
            self._begin()
            made.replace(path)
        except OSError:
            made.unlink(missing_ok=True)
            raise
        finally:
            os.close(fd)

    def _begin(self) -> None:
        self._secret = os.urandom(16)
        self._check = int.from_bytes(os.urandom(7), "little") | 1  # an all-zero place does not fit
        _HEAD.pack_into(self._memory, 0, _MAGIC, _boot(), self.buckets, self._secret, self._check)

    def close(self) -> None:
        """Unmap it."""
        self._memory.close()

    # Places

    def locate(self, text: str) -> tuple[int, bytes]:
        """Return the bucket of a key and the key's tag. Nobody without the header's secret can aim at a bucket."""
        found = self._places.get(text)
        if found is None:
            digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=TAG, key=self._secret).digest()
            if len(self._places) >= _TOO_MANY_TEXTS:
                self._places.clear()
            found = self._places[text] = (int.from_bytes(digest[:8], "little") % self.buckets, digest)
        return found

    def find(self, bucket: int, tag: bytes) -> int:
        """Return where the numbers of a key stand, or -1."""
        start = HEADER + bucket * BUCKET
        end = start + _TAGS
        at = self._memory.find(tag, start, end)
        if at < 0:
            return -1
        # Two tags beside each other could make up a third only by a chance of 2 to the -100, but nothing is lost by
        # looking on from there.
        while (at - start) % TAG:
            at = self._memory.find(tag, at + 1, end)
            if at < 0:
                return -1
        return start + _TAGS + (at - start) // TAG * _PLACE

    def read(self, at: int, words: int) -> State | None:
        """Return the numbers at a place, or None when they do not fit each other."""
        numbers = _STATES[words].unpack_from(self._memory, at)
        return numbers[:-1] if sum(numbers) == self._check else None

    def write(self, at: int, state: State) -> None:
        """Set the numbers at a place."""
        _STATES[len(state)].pack_into(self._memory, at, *state, self._check - sum(state))

    def insert(self, bucket: int, tag: bytes, state: State, now: int) -> bool:
        """Give a key the place in its bucket that can be forgotten first; tell whether that was one still in use.

        A key that has used much of its limit is kept longest: new keys, however many, drive out each other.
        """
        start = HEADER + bucket * BUCKET
        first = start + _TAGS
        memory = self._memory
        expiries = _EXPIRIES.unpack_from(memory, first)
        expiry = min(expiries)
        slot = expiries.index(expiry)
        tag_at = start + slot * TAG
        memory[tag_at : tag_at + TAG] = _NO_TAG
        self.write(first + slot * _PLACE, state)
        memory[tag_at : tag_at + TAG] = tag
        return bool(expiry > now)

    # Who holds what

    def holder(self, index: int) -> int:
        """Return who holds under `index`, 0 for nobody yet."""
        return int(_WORD.unpack_from(self._memory, _HOLDERS_AT + index * 8)[0])

    def set_holder(self, index: int, identity: int) -> None:
        """Note who holds under `index`; the caller holds the lock of all of it."""
        _WORD.pack_into(self._memory, _HOLDERS_AT + index * 8, identity)
        if index > self.highest():
            _WORD.pack_into(self._memory, _HIGHEST_AT, index)

    def highest(self) -> int:
        """Return the highest index that anybody ever held under."""
        return min(int(_WORD.unpack_from(self._memory, _HIGHEST_AT)[0]), HOLDERS - 1)
