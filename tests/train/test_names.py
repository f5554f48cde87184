from maedfer import train


def test_every_public_name_is_there():
    assert all(hasattr(train, name) for name in train.__all__)
