from tests.dataplane import probe
def test_x() -> None:
    assert probe.checksum(b"") == 0xffff
