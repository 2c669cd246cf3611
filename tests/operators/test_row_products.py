"""Products of rows: the same whichever kernel makes them."""

import pytest
import torch

from separatrix.operators import _row_products
from separatrix.operators._contractions import inner_products
from separatrix.operators._row_products import row_products
from separatrix.operators._terms import Lookup, Plain, beside

needs_onednn = pytest.mark.skipif(
    _row_products._ONEDNN is None or not torch.backends.mkldnn.is_available(), reason="torch was built without oneDNN"
)


@pytest.fixture
def counted(monkeypatch):
    """How many products oneDNN made."""
    calls = []

    def counting(x, y, *rest):
        calls.append((x.shape, y.shape))
        return product(x, y, *rest)

    product = _row_products._ONEDNN
    monkeypatch.setattr(_row_products, "_ONEDNN", counting)
    return calls


def close(found, x, y):
    exact = x.double() @ y.double().T
    return float((found.double() - exact).abs().max() / exact.abs().max()) < 2e-6


@needs_onednn
@pytest.mark.parametrize(("n", "p"), [(64, 2000), (127, 1001), (128, 600), (200, 333), (259, 4097)])
@pytest.mark.parametrize("cut", [1, 1 << 30])
def test_products_with_itself_agree_with_double_precision(n, p, cut, counted, monkeypatch):
    monkeypatch.setattr(_row_products, "_CUT", cut)
    x = torch.randn(n, p)
    found = row_products(x, x)
    assert counted
    assert close(found, x, x)


@needs_onednn
def test_products_of_two_agree_with_double_precision(counted):
    x, y = torch.randn(100, 3000), torch.randn(37, 3000)
    assert close(row_products(x, y), x, y)
    assert counted == [(x.shape, y.shape)]


@needs_onednn
@pytest.mark.filterwarnings("ignore:TF32 acceleration")
@pytest.mark.parametrize("which", ["double", "strided", "small", "switched off"])
def test_what_onednn_would_not_do_well_goes_elsewhere(which, counted):
    x = torch.randn(64, 4000)
    x = {"double": x.double(), "strided": x[:, ::2], "small": x[:, :100].clone()}.get(which, x)
    with torch.backends.mkldnn.flags(enabled=which != "switched off"):
        assert close(row_products(x, x), x, x)
    assert not counted


@pytest.mark.parametrize("cut", [1, 1 << 30])
def test_products_without_onednn(cut, monkeypatch):
    monkeypatch.setattr(_row_products, "_ONEDNN", None)
    monkeypatch.setattr(_row_products, "_CUT", cut)
    x = torch.randn(259, 700)
    assert close(row_products(x, x), x, x)


def test_what_is_known_of_an_index_ends_with_its_numbers():
    index, meetings = torch.randint(0, 5, (1, 6, 7)), []
    for turn in range(3):
        for _ in range(2):  # the second time for another cotangent
            right = torch.randn(1, 6, 7, 3, dtype=torch.float64)
            whole = torch.zeros(6, 5, 3, dtype=torch.float64)
            for i in range(6):
                whole[i].index_add_(0, index[0, i], right[0, i])
            table = Lookup(index, right, 5)
            found = inner_products(table, table, 10**6, meetings=meetings)
            assert torch.allclose(found, torch.einsum("irq,jrq->ij", whole, whole))
        assert len(meetings) == turn + 1
        index.copy_(torch.randint(0, 5, (1, 6, 7)))


def test_gradients_beside_each_other_have_the_sum_of_their_products():
    parts = [Plain(torch.randn(2, 4, p, dtype=torch.float64)) for p in (3, 1, 5)]
    together = beside(parts)
    apart = sum(inner_products(part, part, 10**6) for part in parts)
    assert torch.allclose(inner_products(together, together, 10**6), apart)
