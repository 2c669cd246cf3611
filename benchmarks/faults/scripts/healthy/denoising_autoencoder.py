import sys

import torch
from sklearn.datasets import load_digits
from torch import nn

seed = 0
if "--seed" in sys.argv:
    seed = int(sys.argv[sys.argv.index("--seed") + 1])
torch.manual_seed(seed)
imgs = torch.tensor(load_digits().images, dtype=torch.float32).unsqueeze(1) / 16
imgs = imgs[torch.randperm(len(imgs))]
train, test = imgs[:1500], imgs[1500:]

enc = nn.Sequential(
    nn.Conv2d(1, 16, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU()
)
dec = nn.Sequential(
    nn.ConvTranspose2d(32, 16, 4, stride=2, padding=1),
    nn.ReLU(),
    nn.ConvTranspose2d(16, 1, 4, stride=2, padding=1),
    nn.Sigmoid(),
)
params = list(enc.parameters()) + list(dec.parameters())
opt = torch.optim.Adam(params, lr=3e-3)
for epoch in range(12):
    for i in range(0, len(train), 75):
        clean = train[torch.randint(0, len(train), (75,))]
        noisy = clean + 0.2 * torch.randn_like(clean)
        loss = ((dec(enc(noisy)) - clean) ** 2).mean()
        opt.zero_grad()
        loss.backward()
        opt.step()
    with torch.no_grad():
        held = ((dec(enc(test + 0.2 * torch.randn_like(test))) - test) ** 2).mean()
    print("epoch", epoch, "mse", loss.item(), "test", held.item())
