def test_x(valkey, servers, db):
    assert valkey.ping()
