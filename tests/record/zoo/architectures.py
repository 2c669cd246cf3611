"""Models of many architectures, alone or against one another, in plain loops."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from tests.record.zoo._common import STEPS, Training, images, tokens
from torch import nn


def cnn_with_batchnorm() -> Iterator[object]:
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Conv2d(4, 5, 3), nn.ReLU(inplace=True),
        nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(0.3), nn.Linear(20, 3),
    )  # fmt: skip
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=STEPS)
    criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
    for step in range(STEPS):
        model.train()
        x, y = images()
        optimizer.zero_grad(set_to_none=step % 2 == 0)
        loss = criterion(model(x), y)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        scheduler.step()
        model.eval()
        with torch.no_grad():
            held_out = criterion(model(x), y)
        yield model, optimizer, loss, norm, held_out, scheduler.state_dict()


class Attention(nn.Module):
    def __init__(self, width: int = 8, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.mix = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows, length, width = x.shape
        q, k, v = (part.view(rows, length, self.heads, -1).transpose(1, 2) for part in self.mix(x).split(width, dim=2))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=0.1 if self.training else 0.0)
        return self.out(mixed.transpose(1, 2).reshape(rows, length, width))


class LanguageModel(nn.Module):
    def __init__(self, tied: bool = True) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.attention = Attention()
        self.norm = nn.LayerNorm(8)
        self.drop = nn.Dropout(0.1)
        self.head = nn.Linear(8, 11, bias=False)
        if tied:
            self.head.weight = self.embed.weight

    def forward(self, ids: torch.Tensor, targets: torch.Tensor | None = None) -> tuple[torch.Tensor, Any]:
        x = self.embed(ids)
        scores = self.head(self.norm(x + self.drop(self.attention(x))))
        return scores, None if targets is None else F.cross_entropy(scores.flatten(0, 1), targets.flatten())


def transformer_tied() -> Iterator[object]:
    model = LanguageModel()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, fused=True)
    for _ in range(STEPS):
        ids = tokens()
        for half in ids.chunk(2):
            _, loss = model(half[:, :-1], targets=half[:, 1:])
            assert loss is not None
            (loss / 2).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        yield model, optimizer, loss


def encoder_layer() -> Iterator[object]:
    model = nn.Sequential(nn.TransformerEncoderLayer(8, 2, 12, dropout=0.1, batch_first=True), nn.Linear(8, 1))
    optimizer = torch.optim.RMSprop(model.parameters(), lr=1e-3)
    for _ in range(STEPS):
        x = torch.randn(3, 5, 8)
        optimizer.zero_grad()
        loss = F.mse_loss(model(x), x.mean(dim=2, keepdim=True))
        loss.backward()
        optimizer.step()
        model.eval()
        with torch.no_grad():
            fast = model(x)
        model.train()
        yield model, optimizer, loss, fast


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.GRU(4, 6, num_layers=2, dropout=0.2, batch_first=True)
        self.head = nn.Linear(6, 1)

    def forward(self, x: torch.Tensor, state: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        out, state = self.cells(x, state)
        return self.head(out[:, -1]), state


def gru() -> Iterator[object]:
    model = Recurrent()
    optimizer = torch.optim.Adagrad(model.parameters(), lr=0.05)
    state = None
    for _ in range(STEPS):
        x = torch.randn(3, 5, 4)
        optimizer.zero_grad()
        out, state = model(x, state)
        state = state.detach()
        loss = F.binary_cross_entropy_with_logits(out, (x.sum(dim=(1, 2)) > 0).float()[:, None])
        loss.backward()
        nn.utils.clip_grad_value_(model.parameters(), 0.1)
        optimizer.step()
        yield model, optimizer, loss, state


def gan() -> Iterator[object]:
    generator = nn.Sequential(nn.Linear(3, 6), nn.LeakyReLU(0.2), nn.Linear(6, 2))
    judge = nn.Sequential(nn.Linear(2, 6), nn.LeakyReLU(0.2), nn.Linear(6, 1))
    opt_g = torch.optim.Adam(generator.parameters(), betas=(0.5, 0.999))
    opt_d = torch.optim.Adam(judge.parameters(), betas=(0.5, 0.999))
    ones, zeros = torch.ones(8, 1), torch.zeros(8, 1)
    for _ in range(STEPS):
        real, fake = torch.randn(8, 2), generator(torch.randn(8, 3))
        opt_d.zero_grad()
        loss_d = F.binary_cross_entropy_with_logits(judge(real), ones)
        loss_d.backward()
        loss_f = F.binary_cross_entropy_with_logits(judge(fake.detach()), zeros)
        loss_f.backward()
        opt_d.step()
        opt_g.zero_grad()
        loss_g = F.binary_cross_entropy_with_logits(judge(fake), ones)
        loss_g.backward()
        opt_g.step()
        yield generator, judge, opt_g, opt_d, loss_d, loss_f, loss_g


def siamese() -> Iterator[object]:
    tower = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))
    optimizer = torch.optim.Adam(tower.parameters())
    for _ in range(STEPS):
        a, b = torch.randn(4, 6), torch.randn(4, 6)
        optimizer.zero_grad()
        loss = F.cosine_embedding_loss(tower(a), tower(b), torch.tensor([1, -1, 1, -1]))
        loss.backward()
        optimizer.step()
        yield tower, optimizer, loss


def sparse_embedding() -> Iterator[object]:
    table, head = nn.Embedding(11, 4, sparse=True), nn.Linear(4, 3)
    sparse, dense = torch.optim.SparseAdam(table.parameters()), torch.optim.SGD(head.parameters(), lr=0.1)
    for _ in range(STEPS):
        ids = tokens()
        sparse.zero_grad()
        dense.zero_grad()
        loss = F.cross_entropy(head(table(ids).mean(dim=1)), ids[:, 0] % 3)
        loss.backward()
        sparse.step()
        dense.step()
        yield table, head, sparse, dense, loss


KINDS: dict[str, Training] = {
    "cnn-batchnorm": cnn_with_batchnorm,
    "transformer-tied-fused-attention": transformer_tied,
    "encoder-layer": encoder_layer,
    "gru": gru,
    "gan": gan,
    "siamese": siamese,
    "sparse-embedding": sparse_embedding,
}
