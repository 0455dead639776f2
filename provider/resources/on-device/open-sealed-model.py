"""Opens a model that was encrypted to this node (the format: provider/trust/sealed-model.ts).

Standard input is the key: 32 bytes, in no file, argument or environment. Arguments: the sealed file, the file to write, and the size and SHA-256 that the model has to have. What a chunk holds
is written once its tag was checked; if anything fails, the file is removed, whole. libcrypto is what openssl and sshd link as well.
"""

import sys

try:
    import ctypes
    import hashlib
    import os
    import struct
except ImportError:
    # python3-minimal has no ctypes.
    sys.exit("python3 has no ctypes: apt-get install python3")

MAGIC = b"edgeseal model 1"
CHUNK = 1024 * 1024
TAG = 16
SET_TAG = 0x11  # EVP_CTRL_AEAD_SET_TAG


class Refused(Exception):
    pass


def bound(library, name, result, *arguments):
    function = getattr(library, name)
    function.restype = result
    function.argtypes = arguments
    return function


class Gcm:
    """AES-256-GCM, one chunk at a time."""

    def __init__(self, key, header):
        try:
            crypto = ctypes.CDLL("libcrypto.so.3")
        except OSError:
            raise Refused("there is no libcrypto.so.3, which decrypts: apt-get install openssl")
        pointer, number, data = ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p
        length = ctypes.POINTER(number)
        self.cipher = bound(crypto, "EVP_aes_256_gcm", pointer)()
        self.context = bound(crypto, "EVP_CIPHER_CTX_new", pointer)()
        self.begin = bound(crypto, "EVP_DecryptInit_ex", number, pointer, pointer, pointer, data, data)
        self.update = bound(crypto, "EVP_DecryptUpdate", number, pointer, pointer, length, data, number)
        self.control = bound(crypto, "EVP_CIPHER_CTX_ctrl", number, pointer, number, number, data)
        self.end = bound(crypto, "EVP_DecryptFinal_ex", number, pointer, pointer, length)
        self.key = key
        self.header = header
        self.plain = ctypes.create_string_buffer(CHUNK + TAG)
        if not self.cipher or not self.context:
            raise Refused("libcrypto has no AES-256-GCM")

    def open(self, nonce, sealed, tag):
        """The plaintext; None unless the tag is right."""
        done = ctypes.c_int(0)
        right = (
            self.begin(self.context, self.cipher, None, self.key, nonce) == 1
            and self.update(self.context, None, ctypes.byref(done), self.header, len(self.header)) == 1
            and self.update(self.context, self.plain, ctypes.byref(done), sealed, len(sealed)) == 1
            and done.value == len(sealed)
            and self.control(self.context, SET_TAG, TAG, tag) == 1
            and self.end(self.context, ctypes.byref(self.plain, len(sealed)), ctypes.byref(done)) == 1
        )
        return memoryview(self.plain)[: len(sealed)] if right else None


def opened(sealed, out, key, size, digest):
    header = sealed.read(len(MAGIC) + 44)
    if len(header) != len(MAGIC) + 44 or not header.startswith(MAGIC):
        raise Refused("it is no sealed model, or one of another version")
    chunk_size, told_size = struct.unpack_from(">IQ", header, len(MAGIC))
    told_digest = header[len(MAGIC) + 12 :].hex()
    if chunk_size != CHUNK or told_size != size or told_digest != digest:
        raise Refused("its header is for another model than the statement")
    count = -(-size // CHUNK)
    if os.fstat(sealed.fileno()).st_size != len(header) + size + count * TAG:
        raise Refused("it has not the size that its header says: it was cut off, or something was added")
    # Where there is no room, that is known before anything is decrypted.
    os.posix_fallocate(out.fileno(), 0, size)
    gcm = Gcm(key, header)
    summed = hashlib.sha256()
    for index in range(count):
        length = min(CHUNK, size - index * CHUNK)
        piece = sealed.read(length + TAG)
        nonce = index.to_bytes(11, "big") + (b"\x01" if index == count - 1 else b"\x00")
        plain = gcm.open(nonce, piece[:length], piece[length:]) if len(piece) == length + TAG else None
        if plain is None:
            raise Refused(f"chunk {index} does not open: it was changed, or is another file's, or the key is another")
        summed.update(plain)
        out.write(plain)
    if summed.hexdigest() != digest:
        raise Refused("what came out has not the digest that its header says")
    out.flush()
    os.fsync(out.fileno())


def main():
    source, target, size, digest = sys.argv[1:]
    key = sys.stdin.buffer.read(33)
    if len(key) != 32:
        sys.exit(f"the key has {len(key)} bytes in place of 32")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    with open(os.open(source, os.O_RDONLY | os.O_NOFOLLOW), "rb") as sealed:
        with open(os.open(target, flags, 0o400), "wb") as out:
            try:
                opened(sealed, out, key, int(size), digest)
            except BaseException as error:
                os.unlink(target)
                if not isinstance(error, (Refused, OSError)):
                    raise
                sys.exit(f"the sealed model was not opened, and nothing of it was kept: {error}")


main()
