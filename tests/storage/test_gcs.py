"""The store by the requests of Google's XML API: the contract."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from s3_server import GcsBackend
from server_contract import HttpContract

from fusery.storage.objects import PART

pytestmark = pytest.mark.timing


@pytest.fixture
def backend(make_gcs: Callable[[], GcsBackend]) -> GcsBackend:
    return make_gcs()


class TestGcsStore(HttpContract):
    large = os.urandom(1 << 20) * ((PART >> 20) + 3)
    write, read = ("PUT", "blobs%2F"), ("GET", "blobs%2F")
