"""Small models with every way of using parameters that the structure rules know, and the explicit Jacobian."""

import torch
from torch import Tensor, nn


class TiedText(nn.Module):
    """Embedding tied to the output layer, learned positions and class token, LayerNorm, one layer called twice."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(7, 5, padding_idx=0)
        self.position = nn.Parameter(torch.randn(1, 8, 5))
        self.first = nn.Parameter(torch.randn(1, 1, 5))
        self.norm, self.rms = nn.LayerNorm(5), nn.RMSNorm(5)
        self.layer, self.head = nn.Linear(5, 5), nn.Linear(5, 7, bias=False)
        self.head.weight = self.table.weight

    def forward(self, tokens):
        x = self.table(tokens) + self.position[:, : tokens.shape[1]]
        x = torch.cat([self.first.expand(len(tokens), -1, -1), x], 1)
        x = x + self.layer(self.norm(x)).tanh()
        x = x + self.layer(self.rms(x))
        return self.head(x[:, -2:])


class Positions(nn.Module):
    """Learned positions from tables: one broadcast to all examples twice, one with padding, one mixed beforehand."""

    def __init__(self):
        super().__init__()
        self.table, self.place = nn.Embedding(7, 5), nn.Embedding(6, 5)
        self.padded, self.layer = nn.Embedding(6, 5, padding_idx=1), nn.Linear(5, 5)

    def forward(self, tokens):
        places = torch.arange(tokens.shape[1])
        place = self.place(places)
        x = self.table(tokens) + place
        x = self.layer(x).tanh() + self.padded(places % 2)[None]
        return (self.layer(x) + place).sin().sum(1)


class MixedPositions(nn.Module):
    """A table of positions that goes through another layer before it meets the examples: no rule covers it."""

    def __init__(self):
        super().__init__()
        self.table, self.place, self.layer = nn.Embedding(7, 5), nn.Embedding(4, 5), nn.Linear(5, 5)

    def forward(self, tokens):
        place = self.place(torch.arange(tokens.shape[1]))
        return (self.table(tokens) + place + self.layer(place).sin()).tanh().sum(1)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell, self.head = nn.GRU(3, 4, batch_first=True), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.cell(x)[0][:, -1])


class Transformer(nn.Module):
    def __init__(self, batch_first):
        super().__init__()
        self.batch_first = batch_first
        self.embed, self.head = nn.Linear(3, 8), nn.Linear(8, 2)
        self.block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=batch_first)
        self.cross = nn.MultiheadAttention(8, 2, batch_first=batch_first)

    def forward(self, x):
        x = self.embed(x)
        x = x if self.batch_first else x.transpose(0, 1)
        x = self.block(x)
        x = x + self.cross(x, x.tanh(), x.cos(), need_weights=False)[0]
        return self.head(x if self.batch_first else x.transpose(0, 1))[:, 0]


class ByHand(nn.Module):
    """Bare parameters in products and sums, merged batch axes in either order, in-place operations, PReLU."""

    def __init__(self):
        super().__init__()
        self.layer, self.head, self.slope = nn.Linear(3, 4), nn.Linear(4, 2), nn.PReLU(4)
        self.matrix, self.scale = nn.Parameter(torch.randn(4, 4)), nn.Parameter(torch.randn(4, 1))
        self.shift, self.grid = nn.Parameter(torch.randn(1)), nn.Parameter(torch.randn(4, 3))

    def forward(self, x):
        n, t, d = x.shape
        first = self.layer(x.reshape(n * t, d)).relu_().view(n, t, 4)
        second = self.layer(x.transpose(0, 1).reshape(n * t, d)).reshape(t, n, 4).transpose(0, 1)
        x = self.slope((first + second).mT @ torch.ones(t, 3).to(x)).mT @ self.matrix
        x = (x.mT * self.scale).mT @ self.matrix.t() - self.shift
        x += self.layer.bias
        x = x + self.grid.t()
        return self.head(x.sum(1))


class Unusual(nn.Module):
    """Uses without a rule: division, weight normalisation, a whole matrix and a row of it."""

    def __init__(self):
        super().__init__()
        self.layer = nn.utils.parametrizations.weight_norm(nn.Linear(3, 4))
        self.matrix, self.divisor = nn.Parameter(torch.randn(4, 4)), nn.Parameter(torch.rand(4) + 1)

    def forward(self, x):
        return (self.layer(x).sin() @ self.matrix + self.matrix[1]) / self.divisor


def convolutional(norm):
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2, padding=1),
        norm,
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 6, 3, groups=2, dilation=2, padding="same"),
        nn.InstanceNorm2d(6, affine=True),
        nn.Tanh(),
        nn.Conv2d(6, 4, (2, 3), padding=(1, 0), padding_mode="circular", bias=False),
        nn.Flatten(),
        nn.Linear(72, 3),
    )


def trained_batch_norm():
    norm = nn.BatchNorm2d(4)
    (
        nn.init.normal_(norm.weight),
        nn.init.normal_(norm.bias),
        norm.running_mean.normal_(),
        norm.running_var.uniform_(1, 2),
    )
    return norm


def numbers(*shape):
    return lambda n: torch.randn(n, *shape, dtype=torch.float64)


def tokens(n):
    return torch.randint(0, 7, (n, 4))


STRUCTURED = {
    "mlp": (lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(inplace=True), nn.Linear(8, 3)), numbers(6)),
    "cnn": (lambda: convolutional(nn.GroupNorm(2, 4)), numbers(2, 9, 9)),
    "cnn-batchnorm": (lambda: convolutional(trained_batch_norm()), numbers(2, 9, 9)),
    "cnn-pooled": (
        lambda: nn.Sequential(
            *(nn.Conv2d(2, 5, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2, 1), nn.Conv2d(5, 4, 2)),
            *(nn.ReLU(inplace=True), nn.MaxPool2d(3, ceil_mode=True), nn.Flatten(), nn.Linear(16, 3)),
        ),
        numbers(2, 9, 9),
    ),
    "conv3d-pooled": (
        lambda: nn.Sequential(nn.Conv3d(1, 3, 2), nn.MaxPool3d(2), nn.ReLU(), nn.Flatten(), nn.Linear(24, 2)),
        numbers(1, 5, 5, 5),
    ),
    "conv1d": (
        lambda: nn.Sequential(
            nn.Conv1d(3, 4, 3, padding="valid"), nn.GELU(), nn.Conv1d(4, 2, 4, stride=3), nn.Flatten()
        ),
        numbers(3, 12),
    ),
    "conv3d": (
        lambda: nn.Sequential(nn.Conv3d(1, 2, 2), nn.Tanh(), nn.Conv3d(2, 2, 2, stride=2), nn.Flatten()),
        numbers(1, 4, 4, 4),
    ),
    "tied": (TiedText, tokens),
    "positions": (Positions, tokens),
    "transformer": (lambda: Transformer(True), numbers(5, 3)),
    # as many positions as examples: only the gradients tell the axes apart
    "transformer-time-first": (lambda: Transformer(False), numbers(5, 3)),
    "by-hand": (ByHand, numbers(5, 3)),
}
FALLBACK = {"gru": (Recurrent, numbers(4, 3)), "unusual": (Unusual, numbers(3)), "mixed": (MixedPositions, tokens)}
EVERY = STRUCTURED | FALLBACK


def build(name, dtype=torch.float64):
    torch.manual_seed(sum(map(ord, name)))
    model, sample = EVERY[name]
    return model().to(dtype).eval(), sample


def jacobian(model: nn.Module, inputs: Tensor, function=lambda outputs, i: outputs.flatten()) -> Tensor:
    """(n, outputs, parameters), one row at a time from examples run alone."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    rows = []
    for i in range(len(inputs)):
        outputs = function(model(inputs[i : i + 1]), i)
        for output in outputs:
            gradients = torch.autograd.grad(output, parameters, retain_graph=True, materialize_grads=True)
            rows.append(torch.cat([gradient.flatten() for gradient in gradients]))
    return torch.stack(rows).view(len(inputs), -1, rows[0].numel())


def relative(value: Tensor, truth: Tensor) -> float:
    assert value.shape == truth.shape
    return float((value - truth).abs().max() / truth.abs().max())
