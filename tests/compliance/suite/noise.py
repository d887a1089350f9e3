"""Requests that nobody would write: the same ones at every run, for errors of the parser and their places."""
import random

SEED, COUNT = 11, 600
PIECES = [
    *"{}[]:,\"'\\ \t\r\n\n\0@-.0e\x0b\x7f", "\\u", "\\u12", "\\uD83D\\uDE00", "D83D", "12", "-0", "1.5", "E+", "true", "null", "nul",
    '"a"', "'b'", "id", "\u00e9", "\uffff", '"execute"', '"guest-ping"', '"arguments":{', '{"a":', '"a":1', '"a":1,', "[1,2", "],", "},", "1,",
    '"k":"\\x"', '"k":"\\ud800"', '{"a":1,"a":2}', '{"a":{"b":[', "]]}}", '{"execute":"guest-ping"}',
    '{"execute":"guest-sync","arguments":{"id":7}}',
]
WHOLE = [
    '{"execute":"guest-ping","id":{"a":[1,2,{"b":null}],"c":"x\\u0041"}}', '{"execute":"guest-sync","arguments":{"id":7}}',
    '[1,[2,3],{"a":"b"}]', "{'a': {'b': [1, -2.5e3, true, false, null]}, 'c': []}",
]


def requests():
    """Pieces at random, and whole messages with a few mistakes in them."""
    source = random.Random(SEED)
    return [source.choice((_pieces, _mistakes))(source) for _ in range(COUNT)]


def _pieces(source):
    return b"".join(_piece(source) for _ in range(source.randrange(1, 30)))


def _piece(source):
    kind = source.random()
    if kind < 0.06:
        return source.choice((b"\xff", b"\xfe", source.randbytes(2)))
    if kind < 0.07:
        return b"'" + source.choice(("b", "\u00e9", "\U0001f600")).encode() * source.randrange(200, 600) + b"\x01"
    return source.choice(PIECES).encode()


def _mistakes(source):
    text = bytearray(source.choice(WHOLE).encode())
    for _ in range(source.randrange(4)):
        place = source.randrange(len(text))
        text[place:place + source.randrange(2)] = source.choice((b"", _piece(source)))
    return bytes(text) + source.choice((b"\n", b"", b" ", b"\n\n"))
