"""The checksum that PostgreSQL writes into WAL records and backup manifests (CRC-32C)."""

from __future__ import annotations


def crc32c(octets: bytes) -> int:
    """Return the checksum of a few bytes: bit by bit, some 400,000 bytes a second."""
    crc = 0xFFFFFFFF
    for octet in octets:
        crc ^= octet
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF
